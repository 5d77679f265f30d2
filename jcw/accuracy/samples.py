"""Trained networks on disk: a header and one JSON line per training, appended, resumed and merged."""

import dataclasses
import itertools
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jcw import records
from jcw.accuracy.storage import checksum
from jcw.accuracy.table import UNITS

FORMAT = 'jcw accuracy samples'
VERSION = 1


@dataclasses.dataclass(frozen=True)
class Header:
    """What was trained, and how; samples under different headers never mix.

    Attributes:
      sites: names of the network's sites.
      widths: choices of every site.
      dataset: name, version and split that accuracy is taken on.
      recipe: everything that decides a training's result but its seed: epochs, rate, batch, augmentation.
      details: versions and hardware, for the reader; not compared.
    """

    sites: tuple[str, ...]
    widths: tuple[tuple[int, ...], ...]
    dataset: str
    recipe: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        named = all(isinstance(name, str) and name for name in (*self.sites, self.dataset))
        if not named or len({*self.sites}) != len(self.sites):
            raise ValueError(f'sites and dataset must be names, got {self.sites} and {self.dataset!r}')
        if len(self.widths) != len(self.sites) or not all(_are_choices(site) for site in self.widths):
            raise ValueError(
                f'{len(self.sites)} sites need as many lists of growing widths, got {self.widths}'
            )
        if not isinstance(self.recipe, Mapping) or not isinstance(self.details, Mapping):
            raise ValueError(f'recipe and details must be names and values, got {self.recipe!r}')

    def conflicts(self, other: 'Header') -> list[str]:
        """Name the fields in which another header trains something else."""
        return [
            f'{name} {getattr(other, name)!r} instead of {getattr(self, name)!r}'
            for name in ('sites', 'widths', 'dataset', 'recipe')
            if getattr(self, name) != getattr(other, name)
        ]


@dataclasses.dataclass(frozen=True)
class Sample:
    """One training, or the reason why it came to nothing.

    Attributes:
      widths: of every site.
      seed: of the training; the same widths with another seed are a repeat.
      accuracy: percent, on the header's data set; NaN for a failure.
      loss: nats; NaN where not measured.
      seconds: the training took.
      failure: empty, or what went wrong.
    """

    widths: tuple[int, ...]
    seed: int = 0
    accuracy: float = float('nan')
    loss: float = float('nan')
    seconds: float = 0.0
    failure: str = ''

    def __post_init__(self) -> None:
        if not all(type(w) is int and w >= 0 for w in self.widths) or type(self.seed) is not int:
            raise ValueError(f'widths and seed must be whole numbers, got {self.widths} and {self.seed!r}')
        for name in ('accuracy', 'loss', 'seconds'):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or math.isinf(value):
                raise ValueError(f'{name} must be a finite number or NaN, got {value!r}')
        if not self.seconds >= 0:
            raise ValueError(f'seconds must not be negative, got {self.seconds!r}')
        if not isinstance(self.failure, str):
            raise ValueError(f'failure must be a reason, got {self.failure!r}')


class Samples(NamedTuple):
    """What a file, or several, held."""

    header: Header
    samples: tuple[Sample, ...]  # in order of first appearance; no two of the same widths and seed
    excluded: tuple[str, ...]  # what was left out, and why

    @property
    def trained(self) -> tuple[Sample, ...]:
        """Samples that did not fail."""
        return tuple(sample for sample in self.samples if not sample.failure)

    @property
    def choices(self) -> Int[np.ndarray, 'samples sites']:
        """Choices of those trained."""
        sites = self.header.widths
        rows = [
            [site.index(w) for site, w in zip(sites, sample.widths, strict=True)] for sample in self.trained
        ]
        return np.array(rows, np.int64).reshape(-1, len(sites))

    def utility(self, unit: str) -> Float[np.ndarray, ' samples']:
        """Return accuracies or negative losses of those trained.

        Raises:
          ValueError: another unit, or a sample without a loss.
        """
        if unit not in UNITS:
            raise ValueError(f'unit must be one of {UNITS}, got {unit!r}')
        values = np.array([s.accuracy if unit == UNITS[0] else -s.loss for s in self.trained], np.float64)
        if np.isnan(values).any():
            raise ValueError(f'{int(np.isnan(values).sum())} of {len(values)} trainings have no {unit}')
        return values


def create(path: str | Path, header: Header) -> None:
    """Begin a file; it must not exist."""
    with open(path, 'x', encoding='utf-8') as file:
        file.write(_line({'format': FORMAT, 'version': VERSION, **dataclasses.asdict(header)}))


def append(path: str | Path, sample: Sample) -> None:
    """Append one line, and have it on the disk on return."""
    record = {
        name: value for name, value in dataclasses.asdict(sample).items() if value == value
    }  # NaN is not JSON
    with open(path, 'ab') as file:
        file.write(_line(record).encode())
        file.flush()
        os.fsync(file.fileno())


def resume(path: str | Path, header: Header) -> Samples:
    """Open a file to go on with: begin it, or cut off an interrupted last line and read what it holds.

    Raises:
      ValueError: the file is of another header, or damaged.
    """
    if not Path(path).exists():
        create(path, header)
    complete = records.read(path).rfind(b'\n') + 1
    os.truncate(path, complete)
    if not complete:
        Path(path).unlink()
        create(path, header)
    found = read(path)
    if conflicts := header.conflicts(found.header):
        raise ValueError(f'{path} has trainings of something else: {"; ".join(conflicts)}; begin a new file')
    return found


def read(path: str | Path) -> Samples:
    """Read a file. A truncated last line, repeated lines and failures made good are left out, and said.

    Raises:
      ValueError: no header, another version, or a damaged line, named by its number.
    """
    lines = records.read(path).split(b'\n')
    notes = [f'{path}: truncated last line'] if lines[-1] else []
    held = [_parse(path, number, line) for number, line in enumerate(lines[:-1], 1)]
    if not held or held[0].get('format') != FORMAT:
        raise ValueError(f'{path} does not begin with a header of accuracy samples')
    if held[0].get('version') != VERSION:
        raise ValueError(f'{path} has version {held[0].get("version")!r} of the format, expected {VERSION}')
    header = _read_header(path, held[0])
    samples = [_read_sample(path, number, record, header) for number, record in enumerate(held[1:], 2)]
    kept, dropped = _join(samples)
    return Samples(header, kept, (*notes, *(f'{path}: {note}' for note in dropped)))


def merge(parts: Sequence[Samples]) -> Samples:
    """Join files of the same recipe, written by several processes or machines.

    Raises:
      ValueError: no file, or one of another header.
    """
    if not parts:
        raise ValueError('merge needs at least one file of samples')
    for part in parts[1:]:
        if conflicts := parts[0].header.conflicts(part.header):
            raise ValueError(f'trainings of a foreign header: {"; ".join(conflicts)}')
    kept, notes = _join([sample for part in parts for sample in part.samples])
    return Samples(parts[0].header, kept, (*(note for part in parts for note in part.excluded), *notes))


def _join(samples: Sequence[Sample]) -> tuple[tuple[Sample, ...], list[str]]:
    kept: dict[tuple[tuple[int, ...], int], Sample] = {}
    notes = []
    for sample in samples:
        key = (sample.widths, sample.seed)
        known = kept.get(key)
        if known is None or known.failure:
            if known is not None:
                notes.append(f'{list(key[0])}, seed {key[1]}: failed once: {known.failure}')
            kept[key] = sample
        elif sample.failure:
            notes.append(f'{list(key[0])}, seed {key[1]}: failed once: {sample.failure}')
        else:
            notes.append(
                f'{list(key[0])}, seed {key[1]}: trained twice, the first is kept; give repeats other seeds'
            )
    return tuple(kept.values()), notes


def _line(record: Mapping[str, Any]) -> str:
    plain = json.loads(json.dumps(record, allow_nan=False))  # the checksum is of what will be read
    return json.dumps({**plain, 'checksum': checksum(plain)}, separators=(',', ':')) + '\n'


def _parse(path: str | Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record, why = records.parse(line), ''
    except ValueError as error:
        record, why = None, f' ({error})'
    if not isinstance(record, dict):
        raise ValueError(
            f'{path}, line {number}: not a JSON object{why}; remove the line to go on: {line[:80]!r}'
        )
    said = record.pop('checksum', None)
    if said != checksum(record):
        raise ValueError(
            f'{path}, line {number}: the checksum does not fit; remove the line to go on: {line[:80]!r}'
        )
    return record


def _read_header(path: str | Path, record: dict[str, Any]) -> Header:
    fields = {name: value for name, value in record.items() if name not in ('format', 'version')}
    if set(fields) != {field.name for field in dataclasses.fields(Header)}:
        raise ValueError(f'{path}, line 1: not the fields of a header: {sorted(fields)}')
    try:
        about = {'sites': tuple(fields['sites']), 'widths': tuple(map(tuple, fields['widths']))}
        return Header(**{**fields, **about})
    except (ValueError, TypeError) as error:
        raise ValueError(f'{path}, line 1: not a header of accuracy samples: {error}') from None


def _read_sample(path: str | Path, number: int, record: dict[str, Any], header: Header) -> Sample:
    where = f'{path}, line {number}'
    known = {field.name for field in dataclasses.fields(Sample)}
    if 'widths' not in record or not set(record) <= known:
        raise ValueError(f'{where}: not an accuracy sample: {sorted(record)}')
    try:
        sample = Sample(**{**record, 'widths': tuple(record['widths'])})
    except (ValueError, TypeError) as error:
        raise ValueError(f'{where}: {error}') from None
    if len(sample.widths) != len(header.sites):
        raise ValueError(f'{where}: {len(sample.widths)} widths for {len(header.sites)} sites')
    for name, site, width in zip(header.sites, header.widths, sample.widths, strict=True):
        if width not in site:
            raise ValueError(f'{where}: site {name} has no width {width}')
    if not sample.failure and not 0 <= sample.accuracy <= 100:
        return dataclasses.replace(sample, failure=f'accuracy of {sample.accuracy} %')
    return sample


def _are_choices(widths: Any) -> bool:
    """Return whether these may be a site's widths: whole numbers that grow."""
    whole = isinstance(widths, tuple) and all(type(w) is int and w >= 0 for w in widths)
    return whole and len(widths) > 0 and all(a < b for a, b in itertools.pairwise(widths))
