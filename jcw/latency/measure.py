"""Time networks one group after another and keep every result: interrupted at any moment, it resumes."""

import collections
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from jcw import records
from jcw.graph import Graph, Widths
from jcw.latency import samples
from jcw.latency.runtimes.interface import Program, Runtime, RuntimeFailure
from jcw.latency.samples import Header, Sample
from jcw.latency.timing import Conveyor, TimingPlan, time_reference

__all__ = ['TimingPlan', 'failures', 'measure', 'pending']

Networks = Sequence[Sequence[int]] | Int[np.ndarray, 'networks sites']
DIED = 'the process died or hung while timing it'
FAULTS = 2
"""Times that the reference is tried at least before nothing can be timed."""


def measure(
    runtime: Runtime,
    graph: Graph,
    networks: Networks,
    path: str | Path,
    *,
    batch: int,
    dtype: str = 'float32',
    reference: Sequence[int] | Int[np.ndarray, ' sites'] | None = None,
    plan: TimingPlan = TimingPlan(),  # noqa: B008, frozen
    earlier: Mapping[Widths, int] | None = None,
) -> Iterator[Sample]:
    """Time the networks that the file does not hold yet, yielding each sample once it is on disk.

    Networks that fail, or whose error stays large, are timed again after the others, `plan.attempts`
    times at most.

    Args:
      runtime: what to time.
      graph: of the networks.
      networks: widths of each network, in the order to time them.
      path: of the file, begun if it does not exist, otherwise continued.
      batch: images per call, as the runtime was built for.
      dtype: of the networks, as the runtime was built for.
      reference: widths of the network timed beside every sample; by default the graph's base.
      plan: how to time.
      earlier: attempts at some networks that do not count: `failures` of the file, for them to be tried again.

    Raises:
      ValueError: no network, widths outside the graph, or a file begun under another header.
      RuntimeFailure: the reference cannot be timed, twice or more.
    """
    networks = _checked(graph, networks)
    widths = _checked(graph, np.array([graph.base if reference is None else reference], np.int32))[0]
    runtime.prefetch(networks)
    anchor, reference_ms = _opened(runtime, widths, plan)
    try:
        header = Header(
            graph=graph,
            device=runtime.device,
            runtime=runtime.name,
            dtype=dtype,
            batch=batch,
            reference=widths,
            reference_ms=reference_ms,
            warmup=plan.warmup,
            versions=dict(runtime.versions),
            details={**runtime.details, **_load(plan)},
        )
        header = _begin_or_continue(path, header)
        yield from _measure(runtime, anchor, networks, Path(path), header, plan, earlier)
    finally:
        anchor.close()


def failures(path: str | Path) -> dict[Widths, int]:
    """Return the networks of a file that could not be timed, each with its attempts."""
    held = samples.read(path).samples if Path(path).exists() else ()
    return {sample.widths: sample.attempt for sample in held if sample.failure}


def pending(
    path: str | Path,
    networks: Sequence[Sequence[int]],
    plan: TimingPlan,
    earlier: Mapping[Widths, int] | None = None,
) -> list[tuple[Widths, int]]:
    """Return the networks, in plain whole numbers, that a file still lacks, each with the attempt to make.

    Of those that failed, `earlier` attempts do not count.
    """
    held = {s.widths: s for s in samples.read(path).samples} if Path(path).exists() else {}
    return [
        (widths, held[widths].attempt + 1 if widths in held else 1)
        for widths in dict.fromkeys(map(tuple, networks))
        if widths not in held or _again(held[widths], plan, (earlier or {}).get(widths, 0))
    ]


def _load(plan: TimingPlan) -> dict[str, str]:
    return {'load': f'{plan.load_s:g} s before timing'} if plan.load_s else {}


def _checked(graph: Graph, networks: Networks) -> list[Widths]:
    if not len(networks):
        raise ValueError('no network to time')
    return [tuple(graph.to_widths(graph.to_choices(widths)).tolist()) for widths in networks]


def _begin_or_continue(path: str | Path, header: Header) -> Header:
    """Write the header, or return the one that the file was begun with."""
    if not Path(path).exists() or not samples.keep_whole_lines(path):
        samples.create(path, header)
        return header
    begun = samples.read(path).header
    if conflicts := begun.conflicts(header):
        raise ValueError(
            f'{path} was begun under another header: {"; ".join(conflicts)}; write to a new file'
        )
    return begun


def _opened(runtime: Runtime, widths: Widths, plan: TimingPlan) -> tuple[Program, float]:
    """Open the reference and time it alone, ms; a first fault is put up with."""
    for left in reversed(range(max(plan.attempts, FAULTS))):
        try:
            anchor = runtime.open(widths)
            try:
                return anchor, time_reference(anchor, plan)
            except BaseException:
                anchor.close()
                raise
        except RuntimeFailure:
            if not left:
                raise
    raise AssertionError('tried at least once')


def _measure(
    runtime: Runtime,
    anchor: Program,
    networks: list[Widths],
    path: Path,
    header: Header,
    plan: TimingPlan,
    earlier: Mapping[Widths, int] | None,
) -> Iterator[Sample]:
    suspects = _in_flight(path)
    if len(suspects) == 1:
        (guilty,) = suspects
        yield _append(path, Sample(guilty, attempt=_attempts(path, guilty) + 1, failure=DIED))
    line = Conveyor(runtime, anchor, header.reference_ms, plan)
    try:
        while wanted := collections.deque(pending(path, networks, plan, earlier)):
            while wanted or line.timings:
                if wanted and _room(line, wanted[0][0], suspects):
                    runtime.prefetch([widths for widths, _ in wanted])
                    _mark(path, [*((timing.widths, timing.attempt) for timing in line.timings), wanted[0]])
                    line.put(*wanted.popleft())
                line.visit()
                for sample in line.take():
                    yield _append(path, sample)
    finally:
        line.close()
        _mark_file(path).unlink(missing_ok=True)


def _room(line: Conveyor, widths: Widths, suspects: set[Widths]) -> bool:
    """Whether a network may be put on; after a crash those suspected of it go alone."""
    alone = suspects & {widths, *(timing.widths for timing in line.timings)}
    return len(line.timings) < (1 if alone else line.plan.window)


def _append(path: Path, sample: Sample) -> Sample:
    samples.append(path, sample)
    return sample


def _again(sample: Sample, plan: TimingPlan, earlier: int) -> bool:
    doubtful = bool(sample.failure) or sample.error > plan.doubt
    return doubtful and sample.attempt - earlier < plan.attempts


def _attempts(path: Path, widths: Widths) -> int:
    return sum(sample.attempt for sample in samples.read(path).samples if sample.widths == widths)


def _mark_file(path: Path) -> Path:
    """Name the file that says which networks are being timed, for the case that the process dies of one."""
    return path.with_name(path.name + '.timing')


def _mark(path: Path, networks: Sequence[tuple[Widths, int]]) -> None:
    written = path.with_name(path.name + '.timing.new')
    written.write_text(json.dumps(networks))
    os.replace(written, _mark_file(path))


def _in_flight(path: Path) -> set[Widths]:
    """Return the networks that were being timed when the process died."""
    if not _mark_file(path).exists():
        return set()
    recorded = {sample.widths: sample.attempt for sample in samples.read(path).samples}
    try:
        marked = [(tuple(w), attempt) for w, attempt in records.parse(records.read(_mark_file(path)))]
    except (ValueError, TypeError) as error:
        raise ValueError(f'{_mark_file(path)} is damaged ({error}): remove it to go on') from None
    return {widths for widths, attempt in marked if recorded.get(widths, 0) < attempt}
