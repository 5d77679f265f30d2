"""The time of a network relative to a reference, robust to drift, bursts and stray interruptions."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

Visits = Sequence[Sequence[float]]


class Ratio(NamedTuple):
    """A network's time over the reference's."""

    value: float
    error: float  # standard error, relative; NaN for a single visit
    outliers: int  # calls left out as interrupted


def locate(calls_ms: Visits, reference_ms: Visits, elasticity: float = 1.0, normal_ms: float = 1.0) -> Ratio:
    """Locate a network's time when the reference takes `normal_ms`, over `normal_ms`.

    With call times c and reference times r, z = log c - elasticity (log r - log normal) - log normal. Calls that were
    interrupted, or whose reference was, are left out (`uninterrupted`); the value is exp(median z) over the others, its
    error the standard deviation of the visits' medians over the root of their number. Elasticity 1 makes it the
    plain median ratio c / r.

    Raises:
      ValueError: no visit, or a call without its reference.
    """
    shapes = [len(visit) for visit in calls_ms], [len(visit) for visit in reference_ms]
    if not calls_ms or shapes[0] != shapes[1] or 0 in shapes[0]:
        raise ValueError(
            f'need paired calls in every visit, got {shapes[0]} calls and {shapes[1]} of the reference'
        )
    calls, references = (
        np.log(np.fromiter(itertools.chain.from_iterable(visits), np.float64))
        for visits in (calls_ms, reference_ms)
    )
    logs = calls - elasticity * (references - np.log(normal_ms)) - np.log(normal_ms)
    medians, every = [], []
    lengths = np.array(shapes[0])
    for length in np.unique(lengths):  # visits as long as each other at once
        visits = logs[np.repeat(lengths == length, lengths)].reshape(-1, length)
        kept = uninterrupted(visits)
        medians.append(_medians(visits, kept))
        every.append(visits[kept])
    spread = np.concatenate(medians)
    error = np.std(spread, ddof=1) / np.sqrt(len(spread)) if len(spread) > 1 else np.nan
    located = np.concatenate(every)
    return Ratio(float(np.exp(np.median(located))), float(error), len(logs) - len(located))


def uninterrupted(
    logs: Float[np.ndarray, '*visits calls'], deviations: float = 5.0
) -> Bool[np.ndarray, '*visits calls']:
    """Mark the calls of a visit that lie where most of them lie.

    On a shared core another process takes whole slices of time: such a call is several times too long, such a
    reference makes its call look too short, and where the two are not equally frequent a median of all is biased. The
    shortest interval that holds half of the calls is where undisturbed ones lie (least median of squares, Rousseeuw
    1984); its half length is 0.67 standard deviations of a normal distribution.
    """
    ordered = np.sort(logs)
    half = logs.shape[-1] // 2 + 1
    lengths = ordered[..., half - 1 :] - ordered[..., : logs.shape[-1] - half + 1]
    start = lengths.argmin(-1, keepdims=True)
    shortest = np.take_along_axis(lengths, start, -1)
    centre = _middle(ordered, start, half)
    return np.abs(logs - centre) <= np.maximum(deviations * shortest / (2 * 0.6745), 1e-9)


def _medians(
    visits: Float[np.ndarray, 'visits calls'], kept: Bool[np.ndarray, 'visits calls']
) -> Float[np.ndarray, ' visits']:
    """Return the median of each visit's calls that are kept, one at least."""
    ordered = np.sort(np.where(kept, visits, np.inf))
    return _middle(ordered, 0, kept.sum(-1, keepdims=True))[:, 0]


def _middle(ordered: np.ndarray, start: np.ndarray | int, count: np.ndarray | int) -> np.ndarray:
    """Return the median of `count` values from `start` on, of values in order, [... calls] -> [... 1]."""
    lower, upper = (np.broadcast_to(start + n // 2, (*ordered.shape[:-1], 1)) for n in (count - 1, count))
    return (np.take_along_axis(ordered, lower, -1) + np.take_along_axis(ordered, upper, -1)) / 2
