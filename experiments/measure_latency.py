"""Time networks of many widths on this machine's device, from outside, in a process of their own."""

import collections
import contextlib
import dataclasses
import functools
import itertools
import json
import shutil
import sys
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import check_data, progress, spent, timing_process
from experiments.budget import per_call
from experiments.config import Config, LatencyConfig
from experiments.locks import exclusive
from experiments.paths import paths
from experiments.run_folder import Usage, claim
from experiments.space import graph_of, settings_of
from experiments.timing_process import Request
from experiments.training import load_data
from jcw.graph import Graph
from jcw.latency import design, drift, samples, supervise
from jcw.latency.measure import TimingPlan, failures, pending

TIMES = {'xla': ('float32', 'bfloat16'), 'onnx': ('float32',), 'litert': ('float32', 'int8')}
"""Types that a runtime computes in."""
LONG_VISITS = 3
"""Visits of a network of long calls that are enough for the table; candidates, which are to hold a limit, have more."""
FEW = 4
"""Networks below which no worker is started that makes them ahead: that takes as long as making three."""
SILENCE_S = 300.0
"""Without a network timed for so long the timing process hangs."""


def measure(config: Config) -> Path:
    """Time the networks that the table needs; return the samples' file."""
    if config.latency.runtime == 'command' and not config.latency.command:
        raise Usage("runtime 'command' needs --latency.command, the program to ask (docs/latency.md)")
    _check(config.latency)
    dataset = load_data(config)
    check_data.once(config, dataset)
    graph = graph_of(config, dataset)
    claim(paths(config).latency, space=settings_of(config, graph), latency=config.latency, seed=config.seed)
    networks = design.sequence(jax.random.key(config.seed), graph, config.latency.networks)
    path = paths(config).samples
    time_networks(config, graph, networks, path, 'Timing networks')
    return path


def _check(settings: LatencyConfig) -> None:
    """Refuse a type that the runtime does not compute in, or that the file given to a command is not in.

    Raises:
      Usage: with the way out.
    """
    times = TIMES.get(settings.runtime, (settings.dtype,))
    if settings.dtype not in times:
        able = ' or '.join(repr(name) for name, types in TIMES.items() if settings.dtype in types)
        raise Usage(
            f'runtime {settings.runtime!r} times {" and ".join(times)}, not {settings.dtype}: '
            f'take runtime {able} for it'
        )
    if not settings.time_limit > 0:
        raise Usage(f'--latency.time-limit must be positive, got {settings.time_limit:g}')
    if settings.load_seconds < 0:
        raise Usage(f'--latency.load-seconds must not be negative, got {settings.load_seconds:g}')
    if settings.command_format == 'none':
        return
    if settings.runtime != 'command':
        raise Usage(f"latency.command_format is for runtime 'command', not {settings.runtime!r}")
    if (settings.command_format == 'int8') != (settings.dtype == 'int8'):
        raise Usage(
            f'the command gets {settings.command_format} files while samples would state {settings.dtype}: '
            f'set --latency.dtype {"int8" if settings.command_format == "int8" else "float32"}'
        )


def time_networks(
    config: Config, graph: Graph, networks: Sequence[Sequence[int]] | np.ndarray, path: Path, title: str
) -> samples.Samples:
    """Time networks that the file lacks or doubts, in a process pinned to the configured cores.

    Times in all files of a run are in units of one reference, and those returned have the elasticity of the table's
    samples, so that a device slower today than when the table was made does not look like an error of the table.

    Raises:
      Usage: the process failed; its own words are above.
    """
    first = paths(config).samples
    wanted = np.asarray(networks).tolist()
    with exclusive(path.parent, 'timing'):
        if not path.exists() and first.exists():
            samples.create(path, samples.read(first).header)
        held = {s.widths for s in samples.read(path).timed} if path.exists() else set()
        failed = failures(path)
        left = pending(path, wanted, TimingPlan(attempts=config.latency.attempts), failed)
        if left:
            asked = [list(widths) for widths, _ in left]
            request = _request(config, graph, asked, path, failed, ahead=len(left) >= FEW)
            with spent.on(config.run, 'timing networks'):
                _run(config, request, path, title, held & {*map(tuple, wanted)})
    return drift.corrected(samples.read(path), samples.read(first) if first.exists() else None)


def _request(
    config: Config,
    graph: Graph,
    networks: list[list[int]],
    path: Path,
    failed: dict[tuple[int, ...], int],
    ahead: bool = True,
) -> Request:
    """Return what the timing process is asked; `failed` networks of earlier starts are tried again."""
    settings = config.latency
    return Request(
        graph=graph.to_json(),
        networks=networks,
        path=str(path.absolute()),
        runtime=settings.runtime,
        command=settings.command,
        device=settings.device,
        batch=settings.batch,
        dtype=settings.dtype,
        cores=list(settings.cores or ()) if _on_cpu(settings) else [],
        compile_cores=list(settings.compile_cores) if ahead else [],
        attempts=settings.attempts,
        command_format=settings.command_format,
        load_seconds=settings.load_seconds,
        calls=settings.calls,
        visits=settings.visits,
        long_visits=LONG_VISITS if path == paths(config).samples else None,
        time_limit=settings.time_limit,
        niceness=settings.niceness,
        failed=[*failed.items()],
    )


def _on_cpu(settings: LatencyConfig) -> bool:
    """Say whether a core is what is timed; where an accelerator is, compiling for it takes all cores that there are."""
    return settings.runtime != 'xla' or jax.default_backend() == 'cpu'


def _run(config: Config, request: Request, path: Path, title: str, held: set[tuple[int, ...]]) -> None:
    with progress.bar(title, len(held | {*map(tuple, request.networks)})) as update:
        try:
            for sample in _answers(config, request):
                if 'refused' in sample:
                    raise Usage(f'nothing can be timed: {sample["refused"]}')
                if sample['failure']:
                    update(len(held), f'failed: {sample["failure"]}')
                    continue
                held = held | {tuple(sample['widths'])}
                update(len(held), f'{sample["ms"]:.3f} ms')
        except supervise.Stopped as stopped:
            raise Usage(f'timing stopped: {stopped}; samples so far are in {path}') from None


def _answers(config: Config, request: Request) -> Iterator[dict[str, Any]]:
    """Yield what came of each network, from a process of its own; from this one on a TPU, which serves only one."""
    if request.runtime == 'xla' and jax.default_backend() == 'tpu':
        yield from timing_process.answers(request, timing_process.opened(request))
        return
    cores = tuple(request.cores), tuple(config.latency.compile_cores)
    process = _process(Path.cwd(), cores, request.niceness, _silence_s(config.latency))
    try:
        yield from process.ask(request)
    finally:
        if not _on_cpu(config.latency):  # where training wants all of its memory
            process.close()


class _Process:
    """A process that times networks, and the folder of the requests made of it."""

    def __init__(self, silence_s: float) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix='timing-'))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        command = [sys.executable, '-m', 'experiments.timing_process']
        self._process = supervise.Kept(command, silence_s=silence_s)
        self._asked = itertools.count()

    def ask(self, request: Request) -> Iterator[dict[str, Any]]:
        """Yield what came of each network."""
        file, space = self._folder / f'request_{next(self._asked)}.json', self._folder / 'space.json'
        space.write_text(json.dumps(request.graph))
        file.write_text(json.dumps({**dataclasses.asdict(request), 'space': str(space)}))
        with contextlib.closing(self._process.ask(str(file))) as lines:
            for line in lines:
                yield json.loads(line)

    def close(self) -> None:
        self._process.close()


@functools.lru_cache(maxsize=1)
def _process(folder: Path, cores: tuple[tuple[int, ...], ...], niceness: int, silence_s: float) -> _Process:
    """Return the process that times networks, which serves as long as this one: starting it takes a second.

    It stays in the folder that it was started in, on its first request's cores, with its priority: the arguments.
    """
    return _Process(silence_s)


def _silence_s(settings: LatencyConfig) -> float:
    """Return how long the timing process may take for a network; a command's answers have a limit of their own."""
    if settings.runtime != 'command':
        return SILENCE_S
    plain = TimingPlan()
    calls = 3 * plain.window * (settings.calls or plain.calls) * (settings.visits or plain.max_visits)
    return SILENCE_S + calls * settings.time_limit


def describe(config: Config) -> str:
    """Say how many of the networks asked for were timed, and why others were not."""
    read = samples.read(paths(config).samples)
    asked, failed = len(read.samples), [sample.failure for sample in read.samples if sample.failure]
    said = f'{len(read.timed)} of {asked} networks timed, {per_call(read.header.batch)}'
    if failed:
        reason, times = collections.Counter(failed).most_common(1)[0]
        more = '' if times == len(failed) else f' ({times} times, and other reasons)'
        said += f'; {len(failed)} failed: {reason}{more}; run again to retry'
    return f'{said}: {paths(config).samples}'


def main(config: Config) -> None:
    measure(config)
    progress.console.print(describe(config), highlight=False)


if __name__ == '__main__':
    from experiments.command_line import parse
    from experiments.stage import run_stage

    run_stage(main, parse(__doc__, 'data', 'space', 'latency'))
