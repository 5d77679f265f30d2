"""The time of one network relative to a reference, robust to drift, bursts and stray interruptions."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jcw.latency.runtimes.protocol import Program, Runtime, RuntimeFailure
from jcw.latency.samples import Sample


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How networks are timed.

    Attributes:
      warmup: untimed calls after opening.
      min_calls: timed calls at least.
      max_calls: timed calls at most.
      error: stop once the standard error of the ratio to the reference is below this, relative.
      disagreement: time a network again if the halves of its calls disagree by more, relative.
      attempts: timings of one network at most.
      group: networks that are held open together and called in turn.
    """

    warmup: int = 3
    min_calls: int = 30
    max_calls: int = 120
    error: float = 0.003
    disagreement: float = 0.02
    attempts: int = 3
    group: int = 4

    def __post_init__(self) -> None:
        if not 2 <= self.min_calls <= self.max_calls:
            raise ValueError(f'need 2 <= min_calls <= max_calls, got {self.min_calls} and {self.max_calls}')
        if min(self.group, self.attempts) < 1 or self.warmup < 0:
            raise ValueError('group and attempts must be positive, warmup not negative')


class Ratio(NamedTuple):
    """A network's time over the reference's."""

    value: float  # median over calls
    error: float  # its standard error, relative
    disagreement: float  # between the medians of the first and the second half of the calls, relative
    outliers: int  # calls whose ratio is more than five robust standard deviations away


def locate(calls_ms: Sequence[float], reference_ms: Sequence[float]) -> Ratio:
    """Locate the ratio r = calls / reference, call by call.

    m = median(r); s = 1.4826 median|r - m|, the standard deviation if most calls are normal; the error of a
    median of n is sqrt(pi / 2) s / sqrt(n).

    Raises:
      ValueError: fewer than two calls, or lists of different lengths.
    """
    if len(calls_ms) != len(reference_ms) or len(calls_ms) < 2:
        raise ValueError(f'need two or more paired calls, got {len(calls_ms)} and {len(reference_ms)}')
    ratios = np.asarray(calls_ms, np.float64) / np.asarray(reference_ms, np.float64)
    middle = np.median(ratios)
    distances = np.abs(ratios - middle)
    deviation = 1.4826 * np.median(distances)
    early, late = np.array_split(ratios, 2)
    return Ratio(
        value=float(middle),
        error=float(np.sqrt(np.pi / 2 / len(ratios)) * deviation / middle),
        disagreement=float(abs(np.median(early) - np.median(late)) / middle),
        outliers=int((distances > 5 * deviation).sum()) if deviation > 0 else 0,
    )


def time_call(program: Program) -> float:
    """Time one call, ms; nonsense is a failure."""
    milliseconds = program.time_ms()
    if not (np.isfinite(milliseconds) and milliseconds > 0):
        raise RuntimeFailure(f'time of {milliseconds} ms')
    return milliseconds


def time_reference(reference: Program, protocol: Protocol) -> float:
    """Return the median time of the reference alone, ms."""
    for _ in range(protocol.warmup):
        reference.time_ms()
    return float(np.median([time_call(reference) for _ in range(protocol.max_calls)]))


def time_group(
    runtime: Runtime,
    reference: Program,
    group: Sequence[tuple[tuple[int, ...], int]],
    reference_ms: float,
    protocol: Protocol,
) -> Iterator[Sample]:
    """Open a few networks, given with their attempt numbers, and call them in turn until each is known.

    The reference is called between every two of them; a call is compared with the mean of the two around it.
    """
    timings = [_Timing(widths, attempt) for widths, attempt in group]
    try:
        for timing in timings:
            timing.open(runtime, protocol)
        for turn in range(protocol.max_calls):
            active = [timing for timing in timings if timing.wants(turn, protocol)]
            if not active:
                break
            _take_turns(active, reference)
    finally:
        for timing in timings:
            timing.close()
    return (timing.sample(reference_ms) for timing in timings)


@dataclasses.dataclass
class _Timing:
    """One network while it is timed."""

    widths: tuple[int, ...]
    attempt: int
    program: Program | None = None
    calls_ms: list[float] = dataclasses.field(default_factory=list)
    reference_ms: list[float] = dataclasses.field(default_factory=list)
    opening_s: float = 0.0
    failure: str = ''

    def open(self, runtime: Runtime, protocol: Protocol) -> None:
        start = time.perf_counter()
        try:
            self.program = runtime.open(self.widths)
            for _ in range(protocol.warmup):
                self.program.time_ms()
        except RuntimeFailure as failure:
            self.failure = str(failure)
        self.opening_s = time.perf_counter() - start

    def wants(self, turn: int, protocol: Protocol) -> bool:
        """Whether another call is needed; the error is looked at every tenth turn, which is cheap enough."""
        if self.failure or turn < protocol.min_calls or turn % 10:
            return not self.failure
        return locate(self.calls_ms, self.reference_ms).error > protocol.error

    def close(self) -> None:
        if self.program is not None:
            self.program.close()

    def sample(self, reference_ms: float) -> Sample:
        sample = Sample(self.widths, attempt=self.attempt, opening_s=self.opening_s, failure=self.failure)
        if self.failure:
            return sample
        ratio = locate(self.calls_ms, self.reference_ms)
        return dataclasses.replace(
            sample,
            ms=ratio.value * reference_ms,
            ratio=ratio.value,
            error=ratio.error,
            disagreement=ratio.disagreement,
            calls_ms=tuple(self.calls_ms),
            reference_ms=tuple(self.reference_ms),
            outliers=ratio.outliers,
        )


def _take_turns(timings: Sequence[_Timing], reference: Program) -> None:
    """Call each once; without the reference before and after it a call is worth nothing."""
    before = None
    for timing in timings:
        assert timing.program is not None
        try:
            before = _time_reference_call(reference) if before is None else before
            milliseconds = time_call(timing.program)
            after = _time_reference_call(reference)
        except RuntimeFailure as failure:
            timing.failure = str(failure)
            before = None
            continue
        timing.calls_ms.append(milliseconds)
        timing.reference_ms.append((before + after) / 2)
        before = after


def _time_reference_call(reference: Program) -> float:
    try:
        return time_call(reference)
    except RuntimeFailure as failure:
        raise RuntimeFailure(f'reference network: {failure}') from failure
