"""Time a few networks at once, in turn, each call beside a call of the reference."""

import dataclasses
import time
from collections.abc import Iterator

import numpy as np

from jcw.graph import Widths
from jcw.latency.location import locate
from jcw.latency.runtimes.interface import Program, Runtime, RuntimeFailure
from jcw.latency.samples import Sample

WARM_MS = 100.0
"""A call of this length has filled the caches alone: further untimed calls would only take time."""

LEAST = 5
"""Calls that a visit has however long they are: of fewer, one that was interrupted is not told from the others."""

INTERRUPTED = 1.5
"""Two calls in a row that differ by more than this factor differ by an interruption."""


@dataclasses.dataclass(frozen=True)
class TimingPlan:
    """How networks are timed.

    A machine's disturbances last for seconds, so that a hundred calls in a row share them; the same calls in
    short visits, with other networks in between, average them out. What is timed is a network that serves: its own
    untimed calls come first, since the call before it was of another network and has emptied the caches.

    Attributes:
      warmup: untimed calls right before every timed one, of the network and of the reference alike; one that takes
        longer than `WARM_MS` is enough.
      calls: timed calls of a visit at most, each with a call of the reference before and after it.
      visit_ms: a visit ends once its timed calls have taken so long together, but not before `LEAST` of them: long
        calls disturb each other less, and would cost most.
      min_visits: visits of a network at least.
      long_visits: the same of one whose calls end a visit by `visit_ms`. Three are enough for a table, which is of many
        networks; where one is to hold a limit, their standard error would say too often that it does.
      max_visits: visits of a network at most.
      error: stop once the standard error of the ratio to the reference is below this, relative.
      doubt: time a network again, after the others, if its standard error is still above this, relative.
      attempts: of timing a network, at most.
      window: networks that are held open together, visited in turn.
      load_s: call the reference for so long before anything is timed, s: a phone under sustained load lowers its clock,
        and networks rank otherwise than in bursts.
    """

    warmup: int = 3
    calls: int = 10
    visit_ms: float = 5.0
    min_visits: int = 5
    long_visits: int = 5
    max_visits: int = 8
    error: float = 0.008
    doubt: float = 0.02
    attempts: int = 3
    window: int = 6
    load_s: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.min_visits <= self.max_visits:
            raise ValueError(
                f'need 1 <= min_visits <= max_visits, got {self.min_visits} and {self.max_visits}'
            )
        if min(self.calls, self.window, self.attempts, self.long_visits) < 1 or self.warmup < 0:
            raise ValueError('calls, visits, window and attempts must be positive, warmup not negative')
        if not self.visit_ms > 0:
            raise ValueError(f'visit_ms must be positive, got {self.visit_ms}')
        if not 0 <= self.load_s < np.inf:
            raise ValueError(f'load_s must be a time, got {self.load_s}')


def time_call(program: Program, warmup: int = 0) -> float:
    """Time one call, ms, after `warmup` untimed ones; nonsense is a failure."""
    for _ in range(warmup):
        if program.time_ms() > WARM_MS:
            break
    milliseconds = program.time_ms()
    if not (np.isfinite(milliseconds) and milliseconds > 0):
        raise RuntimeFailure(f'time of {milliseconds} ms')
    return milliseconds


def time_reference(reference: Program, plan: TimingPlan) -> float:
    """Return the median time of the reference alone, ms, after the plan's load."""
    began = time.perf_counter()
    while time.perf_counter() - began < plan.load_s:
        reference.time_ms()
    times = [time_call(reference) for _ in range(plan.warmup + plan.calls * plan.min_visits)]
    return float(np.median(times[plan.warmup :]))


@dataclasses.dataclass
class Conveyor:
    """Networks being timed: each is put on, visited with the others, and taken off once it is known."""

    runtime: Runtime
    reference: Program
    normal_ms: float
    plan: TimingPlan
    timings: list['_Timing'] = dataclasses.field(default_factory=list)

    def put(self, widths: Widths, attempt: int) -> None:
        """Open a network; where that fails, it comes off with the reason."""
        timing = _Timing(widths, attempt)
        self.timings.append(timing)
        start = time.perf_counter()
        try:
            timing.program = self.runtime.open(widths)
        except RuntimeFailure as failure:
            timing.failure = str(failure)
        timing.opening_s = time.perf_counter() - start

    def visit(self) -> None:
        """Call every network in turn, the reference before and after each call, as often as the plan says."""
        for timing in self.timings:
            timing.begin_visit()
        for _ in range(self.plan.calls):
            before = None
            for timing in self.timings:
                if not timing.failure and not timing.visited(self.plan):
                    before = timing.call(self.reference, before, self.plan.warmup)

    def take(self) -> Iterator[Sample]:
        """Take off the networks that failed or are known well enough."""
        done = [timing for timing in self.timings if timing.done(self.plan)]
        self.timings = [timing for timing in self.timings if timing not in done]
        for timing in done:
            timing.close()
            yield timing.sample(self.normal_ms)

    def close(self) -> None:
        """Close what is still open."""
        for timing in self.timings:
            timing.close()


@dataclasses.dataclass(eq=False)
class _Timing:
    """One network while it is timed."""

    widths: Widths
    attempt: int
    program: Program | None = None
    calls_ms: list[list[float]] = dataclasses.field(default_factory=list)
    reference_ms: list[list[float]] = dataclasses.field(default_factory=list)
    opening_s: float = 0.0
    failure: str = ''

    def begin_visit(self) -> None:
        self.calls_ms.append([])
        self.reference_ms.append([])

    def visited(self, plan: TimingPlan) -> bool:
        """Whether this visit has taken long enough."""
        calls = self.calls_ms[-1]
        return len(calls) >= LEAST and sum(calls) >= plan.visit_ms

    def call(self, reference: Program, before: float | None, warmup: int) -> float | None:
        """Call once between two calls of the reference, whose last call may serve as the first of these."""
        assert self.program is not None
        try:
            before = _time_reference_call(reference, warmup) if before is None else before
            milliseconds = time_call(self.program, warmup)
            after = _time_reference_call(reference, warmup)
        except RuntimeFailure as failure:
            self.failure = str(failure)
            return None
        self.calls_ms[-1].append(milliseconds)
        self.reference_ms[-1].append(_between(before, after))
        return after

    def done(self, plan: TimingPlan) -> bool:
        visits = len(self.calls_ms)
        if self.failure or visits >= plan.max_visits:
            return True
        ended = len(self.calls_ms[-1]) < plan.calls
        least = min(plan.min_visits, plan.long_visits) if ended else plan.min_visits
        return visits >= least and locate(self.calls_ms, self.reference_ms).error < plan.error

    def close(self) -> None:
        if self.program is not None:
            self.program.close()

    def sample(self, normal_ms: float) -> Sample:
        sample = Sample(self.widths, attempt=self.attempt, opening_s=self.opening_s, failure=self.failure)
        if self.failure:
            return sample
        ratio = locate(self.calls_ms, self.reference_ms)
        return dataclasses.replace(
            sample,
            ms=ratio.value * normal_ms,
            error=ratio.error,
            calls_ms=tuple(map(tuple, self.calls_ms)),
            reference_ms=tuple(map(tuple, self.reference_ms)),
            outliers=ratio.outliers,
        )


def _between(before: float, after: float) -> float:
    """Return the reference's time between two of its calls; where one was interrupted, that of the other."""
    least = min(before, after)
    return least if max(before, after) > INTERRUPTED * least else (before + after) / 2


def _time_reference_call(reference: Program, warmup: int) -> float:
    try:
        return time_call(reference, warmup)
    except RuntimeFailure as failure:
        raise RuntimeFailure(f'reference network: {failure}') from failure
