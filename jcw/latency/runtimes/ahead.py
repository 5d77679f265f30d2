"""Make networks ready in another process, pinned to another core, while this one is timing.

What passes between the two is a file per network. Of one that XLA compiles it is StableHLO, beside JAX's own
compilation cache: the timing process reads the file, lowers it in milliseconds and finds the compiled program in the
cache. Cached programs do not say for how many threads they were made, so both processes must be pinned to equally many
cores and share the cache with nobody else.
"""

import collections
import contextlib
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

import jax
from jax import export
from jax.experimental.compilation_cache import compilation_cache

from jcw.compilation import Options, known_options
from jcw.graph import Widths

Build = Callable[[Sequence[int]], tuple[Callable[..., Any], tuple[Any, ...]]]
Make = Callable[[Sequence[int]], bytes]


class Ahead:
    """The timing process's side: say what will be wanted, collect what is ready.

    The worker starts with the network wanted last and the timing process opens the one wanted first,
    making it itself where it must: they meet in the middle and neither waits.

    Args:
      command: starts a process that calls `serve`; `{directory}` in an argument stands for the shared folder.
      window: networks to look ahead.
    """

    def __init__(self, command: Sequence[str], *, window: int = 8) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix='compile-ahead-')
        self._window = window
        self._queue: collections.deque[Widths] = collections.deque()
        self._busy: Widths | None = None
        self._ready: dict[Widths, Path | None] = {}
        self._changed = threading.Condition()
        self.made = 0
        self._begin()
        argv = [argument.replace('{directory}', self._folder.name) for argument in command]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._thread = threading.Thread(target=self._feed, daemon=True)
        self._thread.start()

    def want(self, networks: Sequence[Sequence[int]]) -> None:
        """Replace the list of networks wanted next."""
        ahead = [tuple(widths) for widths in networks[: self._window]]
        with self._changed:
            known = {*self._ready, self._busy}
            self._queue = collections.deque(widths for widths in dict.fromkeys(ahead) if widths not in known)
            self._changed.notify_all()

    def take(self, widths: Widths, *, time_limit_s: float = 60.0) -> bytes | None:
        """Return the file of a network that the worker has made, waiting if it is at it; nothing if it is not."""
        with self._changed:
            if widths in self._queue:
                self._queue.remove(widths)
            self._changed.wait_for(lambda: self._busy != widths, time_limit_s)
            path = self._ready.pop(widths, None)
        if path is None:
            return None
        blob = path.read_bytes()
        path.unlink()
        return blob

    def close(self) -> None:
        """End the worker and remove the shared folder."""
        self._process.kill()
        self._process.wait()
        self._thread.join()
        for stream in filter(None, (self._process.stdin, self._process.stdout)):
            with contextlib.suppress(OSError):
                stream.close()
        self._folder.cleanup()

    def _begin(self) -> None:
        """Do what must be done before the worker starts."""

    def _feed(self) -> None:
        """Give the worker one network after another, the last wanted first, until it is gone."""
        while self._process.poll() is None:
            with self._changed:
                if not self._queue:
                    self._changed.wait(0.5)
                    continue
                self._busy = self._queue.pop()
            path = self._make(self._busy)
            with self._changed:
                self._ready[self._busy] = path
                self._busy = None
                self._changed.notify_all()

    def _make(self, widths: Widths) -> Path | None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(widths) + '\n')
            self._process.stdin.flush()
            answer = self._process.stdout.readline().strip()
        except (OSError, ValueError):
            return None
        self.made += bool(answer)
        return Path(answer) if answer else None


class CompileAhead(Ahead):
    """The same for programs of XLA, which the cache holds; its worker calls `serve(compiler(...), ...)`."""

    def _begin(self) -> None:
        use_cache(self._folder.name)

    def close(self) -> None:
        use_cache(None)
        super().close()


def serve(make: Make, folder: str | Path, lines: TextIO = sys.stdin) -> None:
    """The worker's side: make the network of every line of widths, answer with its file.

    An empty answer says that the network cannot be made; whoever times it will find out why.
    """
    answers, sys.stdout = sys.stdout, sys.stderr  # nothing that `make` prints may pass for an answer
    for number, line in enumerate(lines):
        try:
            path = Path(folder) / f'{number}.network'
            path.write_bytes(make(json.loads(line)))
            print(path, file=answers, flush=True)
        except Exception:
            print('', file=answers, flush=True)


def compiler(build: Build, folder: str | Path, options: Options) -> Make:
    """Return what compiles a network into the cache of a folder, and gives its StableHLO."""
    use_cache(folder)
    options = known_options(options)

    def compiled(widths: Sequence[int]) -> bytes:
        function, arguments = build(widths)
        blob = export.export(jax.jit(function))(*arguments).serialize()
        compile_exported(export.deserialize(blob), options)
        jax.clear_caches()
        return bytes(blob)

    return compiled


def compile_exported(exported: export.Exported, options: Options) -> Any:
    """Compile an exported function for its own argument shapes."""
    shapes = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in exported.in_avals]
    arguments, keywords = jax.tree.unflatten(exported.in_tree, shapes)
    return jax.jit(exported.call).lower(*arguments, **keywords).compile(compiler_options=dict(options))


def use_cache(folder: str | Path | None) -> None:
    """Keep every compiled program in a folder, or none any more."""
    compilation_cache.reset_cache()  # JAX would go on with the folder it has opened
    jax.config.update('jax_compilation_cache_dir', None if folder is None else str(folder))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
    jax.config.update('jax_persistent_cache_min_entry_size_bytes', 0)
