"""Time networks of many widths on this machine's device, from outside, in a process of their own."""

import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from experiments import progress
from experiments.config import Config, LatencyConfig
from experiments.locks import exclusive
from experiments.paths import paths
from experiments.presets import parse
from experiments.run_folder import Usage, claim
from experiments.space import graph_of, settings_of
from experiments.timing_process import Request
from jcw import data
from jcw.graph import Graph
from jcw.latency import design, drift, samples, supervise
from jcw.latency.measure import Protocol, pending

TIMES = {'xla': ('float32', 'bfloat16'), 'onnx': ('float32',), 'litert': ('float32', 'int8')}
"""Types that a runtime computes in."""


def measure(config: Config) -> Path:
    """Time the networks that the table needs; return the samples' file."""
    if config.latency.runtime == 'command' and not config.latency.command:
        raise Usage("runtime 'command' needs --latency.command, the program to ask (docs/latency.md)")
    _check(config.latency)
    dataset = data.load(config.data.name, config.data.data_dir, image_size=config.data.image_size)
    graph = graph_of(config, dataset)
    settings = dataclasses.replace(config.latency, networks=0)
    claim(paths(config).latency, space=settings_of(config, graph), latency=settings, seed=config.seed)
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
    wanted = [[int(w) for w in widths] for widths in networks]
    with exclusive(path.parent, 'timing'):
        if not path.exists() and first.exists():
            samples.create(path, samples.read(first).header)
        held = {s.widths for s in samples.read(path).timed} if path.exists() else set()
        if pending(path, wanted, Protocol(attempts=config.latency.attempts)):
            _run(config, graph, wanted, path, title, held & {tuple(widths) for widths in wanted})
    return drift.corrected(samples.read(path), samples.read(first) if first.exists() else None)


def _run(
    config: Config,
    graph: Graph,
    networks: list[list[int]],
    path: Path,
    title: str,
    held: set[tuple[int, ...]],
) -> None:
    settings = config.latency
    request = Request(
        graph=graph.to_json(),
        networks=networks,
        path=str(path),
        runtime=settings.runtime,
        command=settings.command,
        device=settings.device,
        batch=settings.batch,
        dtype=settings.dtype,
        cores=list(settings.cores or ()),
        compile_cores=list(settings.compile_cores),
        attempts=settings.attempts,
        command_format=settings.command_format,
        load_seconds=settings.load_seconds,
    )
    with tempfile.TemporaryDirectory() as folder, progress.bar(title, len(networks)) as update:
        file = Path(folder) / 'request.json'
        file.write_text(json.dumps(dataclasses.asdict(request)))
        command = [sys.executable, '-m', 'experiments.timing_process', str(file)]
        try:
            for line in supervise.lines(command):
                sample = json.loads(line)
                if 'refused' in sample:
                    raise Usage(f'nothing can be timed: {sample["refused"]}')
                if sample['failure']:
                    update(len(held), f'failed: {sample["failure"]}')
                    continue
                held = held | {tuple(sample['widths'])}
                update(len(held), f'{sample["ms"]:.3f} ms')
        except supervise.Stopped as stopped:
            raise Usage(f'timing stopped: {stopped}; samples so far are in {path}') from None


def main(config: Config) -> None:
    path = measure(config)
    timed = samples.read(path)
    progress.console.print(f'{len(timed.timed)} networks timed: {path}')


if __name__ == '__main__':
    from experiments.run_folder import run_stage

    run_stage(main, parse(__doc__))
