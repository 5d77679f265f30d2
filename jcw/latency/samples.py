"""Timed networks on disk: a header and one JSON line per network, appended, resumed and merged."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jcw.graph import Graph
from jcw.latency.location import Visits, locate

UNIT = 'ms per call'
VERSION = 3


@dataclasses.dataclass(frozen=True)
class Header:
    """What was timed, and where; samples under different headers never mix.

    Attributes:
      graph: of the networks.
      device: name of the device, with its cores or threads.
      runtime: 'xla', 'command', 'onnxruntime' or a user's own.
      dtype: of weights and activations.
      batch: images per call.
      reference: widths of the network timed beside every sample.
      reference_ms: its time when the file was begun, ms per call; ratios are put in its units.
      warmup: untimed calls before every timed one.
      versions: of the software that decides speed.
      details: of the device (governor, affinity, memory), for the reader; not compared.
      unit: always 'ms per call'.
    """

    graph: Graph
    device: str
    runtime: str
    dtype: str
    batch: int
    reference: tuple[int, ...]
    reference_ms: float
    warmup: int = 0
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    details: Mapping[str, str] = dataclasses.field(default_factory=dict)
    unit: str = UNIT

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return self.graph.input_shape

    def conflicts(self, other: 'Header') -> list[str]:
        """Name the fields in which another header times something else."""
        fields = (
            'graph',
            'device',
            'runtime',
            'dtype',
            'batch',
            'input_shape',
            'reference',
            'warmup',
            'versions',
            'unit',
        )
        return [
            f'{name} {getattr(other, name)!r} instead of {getattr(self, name)!r}'
            for name in fields
            if getattr(self, name) != getattr(other, name)
        ]


@dataclasses.dataclass(frozen=True)
class Sample:
    """One network timed, or the reason why it could not be.

    Attributes:
      widths: of every site.
      ms: the estimate, ms per call, for a reference as fast as the header says; NaN for a failure.
      error: its standard error, relative.
      calls_ms: every call of the network, visit by visit.
      reference_ms: beside every call, the mean of the reference's calls before and after it, or the lesser of the two
        where the other was interrupted.
      outliers: calls left out as interrupted.
      attempt: how many times the network has been timed, this time included.
      opening_s: time to build and compile the network, s.
      failure: empty, or what went wrong.
    """

    widths: tuple[int, ...]
    ms: float = float('nan')
    error: float = float('nan')
    calls_ms: Visits = ()
    reference_ms: Visits = ()
    outliers: int = 0
    attempt: int = 1
    opening_s: float = 0.0
    failure: str = ''


class Samples(NamedTuple):
    """What a file, or several, held."""

    header: Header
    samples: tuple[Sample, ...]  # one per network, in order of first appearance
    excluded: tuple[str, ...]  # what was left out, and why

    @property
    def timed(self) -> tuple[Sample, ...]:
        """Samples that did not fail."""
        return tuple(sample for sample in self.samples if not sample.failure)

    @property
    def widths(self) -> np.ndarray:
        """Widths of the timed networks, int32 [samples sites]."""
        sites = self.header.graph.num_sites
        return np.array([sample.widths for sample in self.timed], np.int32).reshape(-1, sites)

    @property
    def latency_ms(self) -> np.ndarray:
        """Estimates of the timed networks, float64 [samples]."""
        return np.array([sample.ms for sample in self.timed], np.float64)


def create(path: str | Path, header: Header) -> None:
    """Begin a file; it must not exist."""
    with open(path, 'x', encoding='utf-8') as file:
        file.write(_line({'version': VERSION, **_header_json(header)}))


def append(path: str | Path, sample: Sample) -> None:
    """Append one line, and have it on the disk on return."""
    with open(path, 'ab') as file:
        file.write(_line(_compact(sample)).encode())
        file.flush()
        os.fsync(file.fileno())


def repair(path: str | Path) -> None:
    """Cut off what an interrupted writer left of its last line."""
    complete = Path(path).read_bytes().rfind(b'\n') + 1
    os.truncate(path, complete)


def digest(path: str | Path) -> str:
    """Return a checksum of a file's bytes, by which a table knows the samples it was fitted to."""
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def read(path: str | Path) -> Samples:
    """Read a file; several timings of one network become one sample.

    What was left out or joined is said in `excluded`: a truncated last line, failures that a later attempt
    made good, timings joined, identical lines.

    Raises:
      ValueError: no header, an unknown version, a broken line before the last, or widths outside the graph.
    """
    lines = Path(path).read_bytes().split(b'\n')
    excluded = [f'{path}: truncated last line'] if lines[-1] else []
    records = [_parse(path, number, line) for number, line in enumerate(lines[:-1], 1)]
    if not records or 'reference_ms' not in records[0] or 'graph' not in records[0]:
        raise ValueError(f'{path} does not begin with a header of latency samples')
    if records[0].get('version') != VERSION:
        raise ValueError(
            f'{path} has version {records[0].get("version")!r} of the format, expected {VERSION}: '
            'time the networks again, into a new file'
        )
    header = _read_header(records[0])
    timed = [_read_sample(path, number, record, header) for number, record in enumerate(records[1:], 2)]
    kept, notes = join(timed, header.reference_ms)
    return Samples(header, kept, (*excluded, *(f'{path}: {note}' for note in notes)))


def merge(parts: Sequence[Samples]) -> Samples:
    """Join files of the same measurement, written by several processes or machines of one kind.

    Estimates are put in units of the median of the files' reference times.

    Raises:
      ValueError: no file, or one was measured under another header.
    """
    if not parts:
        raise ValueError('merge needs at least one file of samples')
    first = parts[0].header
    for part in parts[1:]:
        if conflicts := first.conflicts(part.header):
            raise ValueError(f'samples of a foreign header: {"; ".join(conflicts)}')
    reference_ms = float(np.median([part.header.reference_ms for part in parts]))
    scaled = [
        dataclasses.replace(sample, ms=sample.ms / part.header.reference_ms * reference_ms)
        for part in parts
        for sample in part.samples
    ]
    kept, notes = join(scaled, reference_ms)
    header = dataclasses.replace(first, reference_ms=reference_ms)
    return Samples(header, kept, (*(reason for part in parts for reason in part.excluded), *notes))


def join(samples: Iterable[Sample], reference_ms: float) -> tuple[tuple[Sample, ...], list[str]]:
    """Make one sample of all timings of a network; also say what was joined and what was dropped."""
    kept: dict[tuple[int, ...], Sample] = {}
    notes = []
    for sample in samples:
        known = kept.setdefault(sample.widths, sample)
        if known is not sample:
            kept[sample.widths], note = _join_two(known, sample, reference_ms)
            notes.append(f'{list(sample.widths)}: {note}')
    return tuple(kept.values()), notes


def _join_two(first: Sample, second: Sample, reference_ms: float) -> tuple[Sample, str]:
    attempt = max(first.attempt, second.attempt)
    if first.failure or second.failure:
        good, bad = (first, second) if second.failure else (second, first)
        return dataclasses.replace(good, attempt=attempt), f'failed once: {bad.failure}'
    if first.calls_ms == second.calls_ms:
        return first, 'identical line dropped'
    calls_ms, references_ms = (*first.calls_ms, *second.calls_ms), (*first.reference_ms, *second.reference_ms)
    ratio = locate(calls_ms, references_ms)
    joined = dataclasses.replace(
        first,
        ms=ratio.value * reference_ms,
        error=ratio.error,
        calls_ms=calls_ms,
        reference_ms=references_ms,
        outliers=ratio.outliers,
        attempt=attempt,
    )
    return joined, 'two timings joined'


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, allow_nan=False, separators=(',', ':')) + '\n'


def _header_json(header: Header) -> dict[str, Any]:
    shallow = {field.name: getattr(header, field.name) for field in dataclasses.fields(header)}
    return {**shallow, 'graph': header.graph.to_json(), 'input_shape': header.input_shape}


def _read_header(record: Mapping[str, Any]) -> Header:
    fields = {field.name: record[field.name] for field in dataclasses.fields(Header)}
    fields['graph'] = Graph.from_json(record['graph'])
    fields['reference'] = tuple(int(w) for w in record['reference'])
    return Header(**fields)


def _compact(sample: Sample) -> dict[str, Any]:
    """Leave out defaults and NaN, which is not JSON; microseconds to three digits are enough."""
    default = Sample(widths=())
    record = {}
    for field in dataclasses.fields(sample):
        value = getattr(sample, field.name)
        if value != getattr(default, field.name) and value == value:
            record[field.name] = _rounded(value)
    return record


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    return [_rounded(item) for item in value] if isinstance(value, tuple) else value


def _read_sample(path: str | Path, number: int, record: Mapping[str, Any], header: Header) -> Sample:
    known = {field.name for field in dataclasses.fields(Sample)}
    if 'widths' not in record or not set(record) <= known:
        raise ValueError(f'{path}, line {number}: not a latency sample: {sorted(set(record) - known)}')
    try:
        header.graph.to_choices(record['widths'])
    except ValueError as error:
        raise ValueError(f'{path}, line {number}: {error}') from None
    visits = {name: tuple(map(tuple, record.get(name, ()))) for name in ('calls_ms', 'reference_ms')}
    sample = Sample(**{**record, **visits, 'widths': tuple(record['widths'])})
    if not sample.failure and not (np.isfinite(sample.ms) and sample.ms > 0):
        return dataclasses.replace(sample, failure=f'estimate of {sample.ms} ms')
    return sample


def _parse(path: str | Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        raise ValueError(
            f'{path}, line {number}: not JSON; remove the line to go on: {line[:80]!r}'
        ) from None
    if not isinstance(record, dict):
        raise ValueError(f'{path}, line {number}: expected a JSON object, got {line[:80]!r}')
    return record
