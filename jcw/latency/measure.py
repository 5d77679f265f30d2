"""Time networks one group after another and keep every result: interrupted at any moment, it resumes."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from jcw.latency import samples
from jcw.latency.runtimes.protocol import Program, Runtime
from jcw.latency.samples import Header, Sample
from jcw.latency.timing import Protocol, time_group, time_reference
from jcw.space import SearchSpace

__all__ = ['Protocol', 'measure', 'pending']

Widths = tuple[int, ...]
Networks = Sequence[Sequence[int]] | Int[np.ndarray, 'networks layers']
DIED = 'the process died or hung while timing it'


def measure(
    runtime: Runtime,
    space: SearchSpace,
    networks: Networks,
    path: str | Path,
    *,
    batch: int,
    dtype: str = 'float32',
    reference: Sequence[int] | Int[np.ndarray, ' layers'] | None = None,
    protocol: Protocol = Protocol(),  # noqa: B008, frozen
) -> Iterator[Sample]:
    """Time the networks that the file does not hold yet, yielding each sample once it is on disk.

    Networks that fail, or whose repeats disagree, are timed again after the others, `protocol.attempts` times
    at most.

    Args:
      runtime: what to time.
      space: the networks' space.
      networks: widths of each network, in the order to time them.
      path: of the file, begun if it does not exist, otherwise continued.
      batch: images per call, as the runtime was built for.
      dtype: of the networks, as the runtime was built for.
      reference: widths of the network timed beside every sample; by default the space's base.
      protocol: how to time.

    Raises:
      ValueError: no network, widths outside the space, or a file begun under another header.
      RuntimeFailure: the reference cannot be timed.
    """
    networks = _checked(space, networks)
    widths = _checked(space, np.array([space.base if reference is None else reference], np.int32))[0]
    runtime.prefetch(networks)
    anchor = runtime.open(widths)
    try:
        header = Header(
            space=space,
            device=runtime.device,
            runtime=runtime.name,
            dtype=dtype,
            batch=batch,
            reference=widths,
            reference_ms=time_reference(anchor, protocol),
            versions=dict(runtime.versions),
            details=dict(runtime.details),
        )
        header = _begin_or_continue(path, header)
        yield from _measure(runtime, anchor, networks, Path(path), header, protocol)
    finally:
        anchor.close()


def pending(path: str | Path, networks: Networks, protocol: Protocol) -> list[tuple[Widths, int]]:
    """Return the networks that a file still lacks, each with the number of the attempt to make."""
    held = {s.widths: s for s in samples.read(path).samples} if Path(path).exists() else {}
    return [
        (widths, held[widths].attempt + 1 if widths in held else 1)
        for widths in dict.fromkeys(tuple(int(w) for w in widths) for widths in networks)
        if widths not in held or _again(held[widths], protocol)
    ]


def _checked(space: SearchSpace, networks: Networks) -> list[Widths]:
    if not len(networks):
        raise ValueError('no network to time')
    return [tuple(int(w) for w in space.to_widths(space.to_choices(widths))) for widths in networks]


def _begin_or_continue(path: str | Path, header: Header) -> Header:
    """Write the header, or return the one that the file was begun with."""
    if not Path(path).exists():
        samples.create(path, header)
        return header
    samples.repair(path)
    begun = samples.read(path).header
    if conflicts := begun.conflicts(header):
        raise ValueError(
            f'{path} was begun under another header: {"; ".join(conflicts)}; write to a new file'
        )
    return begun


def _measure(
    runtime: Runtime, anchor: Program, networks: list[Widths], path: Path, header: Header, protocol: Protocol
) -> Iterator[Sample]:
    yield from _record_deaths(path)
    suspects = _in_flight(path)
    while wanted := pending(path, networks, protocol):
        # After a crash its suspects go one by one, so that only the guilty one is given up.
        wanted.sort(key=lambda item: (item[1], item[0] not in suspects))
        while wanted:
            size = 1 if wanted[0][0] in suspects else protocol.group
            group, wanted = wanted[:size], wanted[size:]
            runtime.prefetch([widths for widths, _ in (*group, *wanted)])
            _write_mark(path, group)
            for sample in time_group(runtime, anchor, group, header.reference_ms, protocol):
                samples.append(path, sample)
                yield sample
            _mark(path).unlink()
            suspects -= {widths for widths, _ in group}


def _again(sample: Sample, protocol: Protocol) -> bool:
    doubtful = bool(sample.failure) or sample.disagreement > protocol.disagreement
    return doubtful and sample.attempt < protocol.attempts


def _mark(path: Path) -> Path:
    """Name the file that says which networks are being timed, for the case that the process dies of one."""
    return path.with_name(path.name + '.timing')


def _write_mark(path: Path, group: Sequence[tuple[Widths, int]]) -> None:
    written = _mark(path).with_suffix('.written')
    written.write_text(json.dumps(group))
    os.replace(written, _mark(path))


def _in_flight(path: Path) -> set[Widths]:
    if not _mark(path).exists():
        return set()
    return {tuple(widths) for widths, _ in json.loads(_mark(path).read_text())}


def _record_deaths(path: Path) -> Iterator[Sample]:
    """Record a network that was being timed alone when the process died."""
    if not _mark(path).exists():
        return
    group = json.loads(_mark(path).read_text())
    if len(group) == 1:
        sample = Sample(widths=tuple(group[0][0]), attempt=group[0][1], failure=DIED)
        samples.append(path, sample)
        _mark(path).unlink()
        yield sample
