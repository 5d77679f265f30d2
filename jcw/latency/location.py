"""The time of a network relative to a reference, robust to drift, bursts and stray interruptions."""

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
    visits = [
        np.log(c) - elasticity * (np.log(r) - np.log(normal_ms)) - np.log(normal_ms)
        for c, r in zip(calls_ms, reference_ms, strict=True)
    ]
    kept = [visit[uninterrupted(visit)] for visit in visits]
    medians = [np.median(visit) for visit in kept]
    error = np.std(medians, ddof=1) / np.sqrt(len(visits)) if len(visits) > 1 else np.nan
    every = np.concatenate(kept)
    return Ratio(float(np.exp(np.median(every))), float(error), sum(shapes[0]) - len(every))


def uninterrupted(logs: Float[np.ndarray, ' calls'], deviations: float = 5.0) -> Bool[np.ndarray, ' calls']:
    """Mark the calls of a visit that lie where most of them lie.

    On a shared core another process takes whole slices of time: such a call is several times too long, such a
    reference makes its call look too short, and where the two are not equally frequent a median of all is biased. The
    shortest interval that holds half of the calls is where undisturbed ones lie (least median of squares, Rousseeuw
    1984); its half length is 0.67 standard deviations of a normal distribution.
    """
    ordered = np.sort(logs)
    half = len(logs) // 2 + 1
    lengths = ordered[half - 1 :] - ordered[: len(logs) - half + 1]
    start = int(lengths.argmin())
    centre = np.median(ordered[start : start + half])
    return np.abs(logs - centre) <= max(deviations * lengths[start] / (2 * 0.6745), 1e-9)
