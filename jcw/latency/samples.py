"""Timed networks on disk: a header and one JSON line per network, appended, resumed and merged.

Every line carries a checksum (`jcw.latency.lines`).
"""

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jcw import records
from jcw.graph import Graph, Widths
from jcw.latency import lines
from jcw.latency.location import Visits, locate
from jcw.latency.sample import Header, Sample, is_time

VERSION = 4
FIELDS = frozenset(field.name for field in dataclasses.fields(Sample))


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
    with open(path, 'xb') as file:
        file.write(lines.write({'version': VERSION, **_header_json(header)}))


def append(path: str | Path, sample: Sample) -> None:
    """Append one line, and have it on the disk on return.

    Raises:
      ValueError: neither a time nor a failure.
    """
    if not sample.failure and not is_time(sample.ms):
        raise ValueError(f'estimate of {sample.ms!r} ms, and no failure')
    with open(path, 'ab') as file:
        file.write(lines.write(_compact(sample)))
        file.flush()
        os.fsync(file.fileno())


def keep_whole_lines(path: str | Path) -> bool:
    """Cut off what an interrupted writer left of its last line; return whether a line is left.

    A header that was cut off goes with its file. What does not begin like one is not ours, and stays.
    """
    content = records.read(path)
    complete = content.rfind(b'\n') + 1
    if complete:
        os.truncate(path, complete)
    elif lines.is_cut(content):
        os.unlink(path)
    return Path(path).exists()


def digest(path: str | Path) -> str:
    """Return a checksum of a file's bytes, by which a table knows the samples it was fitted to."""
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def read(path: str | Path) -> Samples:
    """Read a file; several timings of one network become one sample.

    What was left out or joined is said in `excluded`: a truncated last line, failures that a later attempt
    made good, timings joined, identical lines.

    Raises:
      ValueError: no header, an unknown version, a damaged line before the last, or what a sample cannot be.
    """
    records.refuse_other_than_file(path)
    with open(path, 'rb') as file:
        header = _read_header(path, file.readline())
        cut: list[str] = []
        kept, notes = join(_read_samples(path, file, header, cut), header.reference_ms)
    return Samples(header, kept, (*cut, *(f'{path}: {note}' for note in notes)))


def _read_samples(
    path: str | Path, file: Iterable[bytes], header: Header, cut: list[str]
) -> Iterator[Sample]:
    known: dict[Widths, Widths] = {}
    for number, line in enumerate(file, 2):
        if line.endswith(b'\n'):
            yield _read_sample(f'{path}, line {number}', line, header, known)
        else:
            cut.append(f'{path}: truncated last line')


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
    timings: dict[Widths, list[Sample]] = {}
    for sample in samples:
        timings.setdefault(sample.widths, []).append(sample)
    kept, notes = [], []
    for widths, own in timings.items():
        joined, said = (own[0], []) if len(own) == 1 else _join(own, reference_ms)
        kept.append(joined)
        notes += [f'{list(widths)}: {note}' for note in said]
    return tuple(kept), notes


def _join(timings: Sequence[Sample], reference_ms: float) -> tuple[Sample, list[str]]:
    attempt = max(sample.attempt for sample in timings)
    different: dict[Visits, Sample] = {}
    for sample in timings:
        if not sample.failure:
            different.setdefault(sample.calls_ms, sample)
    good = list(different.values())
    failures = [f'failed once: {sample.failure}' for sample in timings if sample.failure]
    if not good:
        return dataclasses.replace(timings[0], attempt=attempt), failures[1:]
    identical = ['identical line dropped'] * (len(timings) - len(failures) - len(good))
    if len(good) == 1:
        return dataclasses.replace(good[0], attempt=attempt), [*failures, *identical]
    calls_ms = tuple(visit for sample in good for visit in sample.calls_ms)
    references_ms = tuple(visit for sample in good for visit in sample.reference_ms)
    ratio = locate(calls_ms, references_ms)
    joined = dataclasses.replace(
        good[0],
        ms=ratio.value * reference_ms,
        error=ratio.error,
        calls_ms=calls_ms,
        reference_ms=references_ms,
        outliers=ratio.outliers,
        attempt=attempt,
    )
    return joined, [*failures, *identical, f'{"two" if len(good) == 2 else len(good)} timings joined']


def _header_json(header: Header) -> dict[str, Any]:
    shallow = {field.name: getattr(header, field.name) for field in dataclasses.fields(header)}
    return {**shallow, 'graph': header.graph.to_json(), 'input_shape': header.input_shape}


def _read_header(path: str | Path, line: bytes) -> Header:
    where = f'{path}, line 1'
    try:
        record = lines.parse(where, line)
    except ValueError:
        record = {}
    if 'reference_ms' not in record or 'graph' not in record:
        raise ValueError(f'{path} does not begin with a header of latency samples')
    if record.get('version') != VERSION:
        raise ValueError(
            f'{path} has version {record.get("version")!r} of the format, expected {VERSION}: '
            'time the networks again, into a new file'
        )
    lines.check(where, line)
    fields = {field.name for field in dataclasses.fields(Header)}
    if set(record) != {*fields, 'version', 'input_shape'}:
        raise ValueError(f'{where}: the header has the fields {sorted(record)}')
    try:
        graph = Graph.from_json(record['graph'])
        if record['input_shape'] != list(graph.input_shape):
            raise ValueError(f'images {record["input_shape"]} of a graph of {list(graph.input_shape)}')
        about = {name: record[name] for name in fields}
        return Header(**{**about, 'graph': graph, 'reference': tuple(record['reference'])})
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:
        raise ValueError(f'{where}: not a header of latency samples: {error}') from None


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
        return float(f'{value:.7g}')
    return [_rounded(item) for item in value] if isinstance(value, tuple) else value


def _read_sample(where: str, line: bytes, header: Header, known: dict[Widths, Widths]) -> Sample:
    """Read a line; `known` are the widths that were found to be in the graph, each kept once."""
    record = lines.parse(where, line)
    lines.check(where, line)
    if 'widths' not in record or not record.keys() <= FIELDS:
        raise ValueError(f'{where}: not a latency sample: {sorted(record.keys() - FIELDS)}')
    try:
        widths = tuple(record['widths'])
        if widths not in known:
            header.graph.to_choices(record['widths'])
            known[widths] = widths
        visits = {name: tuple(map(tuple, record.get(name, ()))) for name in ('calls_ms', 'reference_ms')}
        sample = Sample(**{**record, **visits, 'widths': known[widths]})
        if not sample.failure and not is_time(sample.ms):
            raise ValueError(f'estimate of {sample.ms!r} ms')
    except (ValueError, TypeError, ArithmeticError) as error:
        raise ValueError(f'{where}: {error}') from None
    return sample
