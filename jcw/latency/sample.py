"""What a sample of latency is, and under what it was timed: checked as they are made, hence also as they are read."""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any

from jcw.graph import Graph, Widths
from jcw.latency.location import Visits

UNIT = 'ms per call'
COMPARED = ('load', 'network')
"""Details without which times are of something else: load before timing, the file that a command was given."""


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
      details: of the device (governor, affinity, memory), for the reader; only those of `COMPARED` must be alike.
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

    def __post_init__(self) -> None:
        for name in ('device', 'runtime', 'dtype'):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise ValueError(f'{name} must be a name, got {getattr(self, name)!r}')
        if self.unit != UNIT:
            raise ValueError(f'samples are in {UNIT}, not in {self.unit!r}')
        for name, least in (('batch', 1), ('warmup', 0)):
            if not _whole(getattr(self, name), least):
                raise ValueError(f'{name} must be a whole number from {least}, got {getattr(self, name)!r}')
        if not is_time(self.reference_ms):
            raise ValueError(f'reference_ms must be positive and finite, got {self.reference_ms!r}')
        for name in ('versions', 'details'):
            if not all(isinstance(text, str) for pair in getattr(self, name).items() for text in pair):
                raise ValueError(f'{name} must be names and texts, got {getattr(self, name)!r}')
        self.graph.to_choices(self.reference)

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
        pairs = {name: (getattr(other, name), getattr(self, name)) for name in fields}
        pairs |= {name: (other.details.get(name), self.details.get(name)) for name in COMPARED}
        return [f'{name} {new!r} instead of {old!r}' for name, (new, old) in pairs.items() if new != old]


@dataclasses.dataclass(frozen=True, slots=True)
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

    widths: Widths
    ms: float = float('nan')
    error: float = float('nan')
    calls_ms: Visits = ()
    reference_ms: Visits = ()
    outliers: int = 0
    attempt: int = 1
    opening_s: float = 0.0
    failure: str = ''

    def __post_init__(self) -> None:
        if not isinstance(self.failure, str):
            raise ValueError(f'failure must be a reason, got {self.failure!r}')
        calls = [*itertools.chain(*self.calls_ms, *self.reference_ms)]
        if [*map(len, self.calls_ms)] != [*map(len, self.reference_ms)] or not _are_times(calls):
            raise ValueError('calls and those of the reference must be as many, positive and finite')
        if not (self.error != self.error or self.error >= 0) or self.error == math.inf:
            raise ValueError(f'error must be finite and not negative, got {self.error!r}')
        if not _whole(self.attempt, 1) or not _whole(self.outliers, 0):
            raise ValueError(
                f'attempt and outliers must be counts, got {self.attempt!r} and {self.outliers!r}'
            )
        if not (self.opening_s >= 0 and self.opening_s != math.inf):
            raise ValueError(f'opening_s must be finite and not negative, got {self.opening_s!r}')


def is_time(value: Any) -> bool:
    """Return whether a value is a time: positive and finite."""
    return isinstance(value, int | float) and value is not True and 0 < value < math.inf


def _are_times(values: list[Any]) -> bool:
    """Ask `is_time` of all; of floats, as they come from a file, at once."""
    if {*map(type, values)} == {float}:
        return min(values) > 0 and all(map(math.isfinite, values))
    return all(map(is_time, values))


def _whole(value: Any, least: int) -> bool:
    return type(value) is int and value >= least
