"""The process that times networks: pinned before JAX starts, one line of JSON out per network.

Not called by hand: `measure_latency` writes the name of a request, a JSON file, to its input, and of another when that
one is answered, which an empty line says; `REQUEST FOLDER` as arguments make it the worker that compiles ahead on other
cores.
"""

import contextlib
import dataclasses
import errno
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from jcw.latency.runtimes.interface import Runtime

LITERT_FORMS = {'float32': 'tflite', 'int8': 'int8'}
"""What LiteRT is given to time a type."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What to time, and where its samples go."""

    graph: dict[str, Any]
    networks: list[list[int]]
    path: str
    runtime: str
    command: str | None
    device: str
    batch: int
    dtype: str
    cores: list[int]
    compile_cores: list[int]
    attempts: int
    command_format: str = 'none'
    load_seconds: float = 0.0
    calls: int | None = None
    visits: int | None = None
    long_visits: int | None = None
    time_limit: float = 60.0
    niceness: int = 0
    space: str = ''
    failed: list[tuple[tuple[int, ...], int]] = dataclasses.field(default_factory=list)


def main() -> None:
    # Whoever asks may hold an accelerator, too: memory is taken as it is needed, not most of it at once.
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
    try:
        _serve()
    except KeyboardInterrupt:
        sys.exit(130)  # what it has timed is on file, and the process that asked says so


def _serve() -> None:
    if len(sys.argv) > 1:
        request_file, folder = sys.argv[1:]
        request = _read(request_file)
        _pin(request.compile_cores)
        os.nice(15)  # below the timing process, whose priority it inherits
        _compile(request, folder)
        return
    out = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)  # nothing that a library prints may pass for an answer, or its end
    try:
        _answer(sys.stdin, out)
    except BrokenPipeError:  # nobody wants to know any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())


def _answer(request_files: Iterable[str], out: TextIO) -> None:
    """Answer one request after another, whose files lines name."""
    kept = _Kept()
    with contextlib.closing(kept):
        for number, line in enumerate(request_files):
            request_file = line.rstrip('\n')
            request = _read(request_file)
            if not number:  # whoever asks starts another process for other cores
                _pin(request.cores)
                with contextlib.suppress(OSError):
                    os.nice(request.niceness)  # below 0 only where it is allowed
                # Whoever asks removes the folder of requests, and so what a killed process leaves there.
                tempfile.tempdir = str(Path(request_file).parent)
            # A user's program may not bear to wait idle.
            runtime = opened if request.runtime == 'command' else kept.runtime
            for answer in answers(request, runtime(request, request_file)):
                print(json.dumps(answer), file=out, flush=True)
            print(file=out, flush=True)


def _read(file: str) -> Request:
    return Request(**json.loads(Path(file).read_text()))


def _pin(cores: list[int]) -> None:
    """Pin before JAX counts the cores it may use; where it cannot be, the process runs on all that it has.

    The affinity inherited is no limit: the compiling worker is started by the timing process, which is pinned.
    """
    from jcw.latency.device import pin

    existing = [core for core in cores if core < (os.cpu_count() or 1)]
    if existing:
        with contextlib.suppress(ValueError, OSError):
            pin(existing)


def _build(request: Request):
    from jcw import deploy
    from jcw.graph import Graph
    from jcw.nets import kernels

    graph = Graph.from_json(request.graph)
    return lambda widths: deploy.build(graph, widths, request.batch, request.dtype, kernels.here())


def _written(request: Request, form: str) -> Callable[[Sequence[int]], bytes]:
    """Return what writes the network of some widths as a file: weights are random, and so is calibration."""
    import numpy as np

    from jcw import deploy
    from jcw.graph import Graph

    graph, batch = Graph.from_json(request.graph), request.batch
    if form == 'onnx':
        return lambda widths: deploy.onnx_model(graph, widths, batch=batch)
    if form == 'tflite':
        return lambda widths: deploy.litert_model(graph, widths, batch=batch)
    images = np.random.default_rng(0).integers(0, 256, (4, *graph.input_shape), np.uint8)
    return lambda widths: deploy.litert_int8(deploy.litert_model(graph, widths, batch=batch), images)


def _compile(request: Request, folder: str) -> None:
    from jcw.latency.runtimes import ahead, xla

    if request.runtime == 'litert':
        ahead.serve(_written(request, LITERT_FORMS[request.dtype]), folder)
    else:
        ahead.serve(ahead.compiler(_build(request), folder, xla.FAST_COMPILE), folder)


def _runtime(request: Request, request_file: str | None) -> 'Runtime':
    if request.runtime == 'command':
        import shlex

        from jcw.latency.runtimes.command import CommandRuntime

        written = None if request.command_format == 'none' else _written(request, request.command_format)
        return CommandRuntime(
            shlex.split(request.command or ''),
            device=request.device,
            export=written,
            suffix='.onnx' if request.command_format == 'onnx' else '.tflite',
            time_limit_s=request.time_limit,
            facts={'batch': request.batch, 'dtype': request.dtype, 'space': request.space},
            details={'network': request.command_format},
        )
    if request.runtime == 'onnx':
        from jcw.latency.runtimes.onnx import OnnxRuntime

        return OnnxRuntime(_written(request, 'onnx'), dtype=request.dtype)
    if request.runtime == 'litert':
        from jcw.latency.runtimes.litert import LitertRuntime

        write = _written(request, LITERT_FORMS[request.dtype])
        return LitertRuntime(write, dtype=request.dtype, ahead=_ahead(request, request_file))
    import jax

    from jcw.latency.runtimes import xla

    if (
        jax.default_backend() != 'cpu'
    ):  # compiling tries programs on the accelerator that is timed: in turn, then
        return xla.XlaRuntime(_build(request))
    return xla.XlaRuntime(
        _build(request), options=xla.FAST_COMPILE, ahead=_ahead(request, request_file, compiled=True)
    )


def _ahead(request: Request, request_file: str | None, *, compiled: bool = False):
    """Return the worker that makes the next networks on other cores; none where there are no others."""
    from jcw.latency.runtimes.ahead import Ahead, CompileAhead

    if request_file is None or not set(request.compile_cores) - set(request.cores):
        return None
    command = [sys.executable, '-m', 'experiments.timing_process', request_file, '{directory}']
    return (CompileAhead if compiled else Ahead)(command)


@contextlib.contextmanager
def opened(request: Request, request_file: str | None = None) -> Iterator['Runtime']:
    """Open the runtime of a request, and close it."""
    runtime = _runtime(request, request_file)
    try:
        yield runtime
    finally:
        runtime.close()


class _Kept:
    """Keeps the runtime of a request, and all that it has ready, for the next one of the same kind."""

    def __init__(self) -> None:
        self._kind: Request | None = None
        self._ahead = False
        self._runtime: Runtime | None = None

    @contextlib.contextmanager
    def runtime(self, request: Request, request_file: str) -> Iterator['Runtime']:
        """Give the runtime of a request; it is closed where something goes wrong with it."""
        kind = dataclasses.replace(
            request, networks=[], path='', failed=[], long_visits=None, compile_cores=[]
        )
        ahead = bool(request.compile_cores)
        try:
            if self._runtime is None or kind != self._kind or ahead > self._ahead:
                self.close()
                self._runtime = _runtime(request, request_file)
                self._kind, self._ahead = kind, ahead
            yield self._runtime
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        runtime, self._runtime = self._runtime, None
        if runtime is not None:
            runtime.close()


def answers(
    request: Request, opening: contextlib.AbstractContextManager['Runtime']
) -> Iterator[dict[str, Any]]:
    """Time the networks and yield what came of each; what another start would not cure is said instead of raised."""
    from jcw.latency.runtimes.interface import RuntimeFailure

    try:
        with opening as runtime:
            yield from _timed(request, runtime)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        yield {'refused': f'the disk is full: {error}'}
    except (RuntimeFailure, ValueError) as error:
        reference = 'the reference network cannot be timed: ' if isinstance(error, RuntimeFailure) else ''
        yield {'refused': f'{reference}{error}'}


def _timed(request: Request, runtime: 'Runtime') -> Iterator[dict[str, Any]]:
    from jcw.graph import Graph
    from jcw.latency.measure import measure

    graph = Graph.from_json(request.graph)
    for sample in measure(
        runtime,
        graph,
        request.networks,
        request.path,
        batch=request.batch,
        dtype=request.dtype,
        plan=_plan(request),
        earlier={tuple(widths): attempts for widths, attempts in request.failed},
    ):
        yield {
            'widths': sample.widths,
            'ms': sample.ms,
            'error': sample.error,
            'failure': sample.failure,
        }


def _plan(request: Request):
    """A user's own program warms up as it sees fit; each of its answers counts."""
    from jcw.latency.measure import TimingPlan

    own = {'warmup': 0} if request.runtime == 'command' else {}
    if request.long_visits is not None:
        own['long_visits'] = request.long_visits
    if request.calls is not None:
        own['calls'] = request.calls
    if request.visits is not None:
        own |= {'min_visits': min(TimingPlan.min_visits, request.visits), 'max_visits': request.visits}
    return TimingPlan(attempts=request.attempts, load_s=request.load_seconds, **own)


if __name__ == '__main__':
    main()
