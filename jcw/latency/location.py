"""The time of a network relative to a reference, robust to drift, bursts and stray interruptions."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Visits = Sequence[Sequence[float]]


class Ratio(NamedTuple):
    """A network's time over the reference's."""

    value: float
    error: float  # standard error, relative; NaN for a single visit
    outliers: int  # calls more than five robust standard deviations away


def locate(calls_ms: Visits, reference_ms: Visits, elasticity: float = 1.0, normal_ms: float = 1.0) -> Ratio:
    """Locate a network's time when the reference takes `normal_ms`, over `normal_ms`.

    With call times c and reference times r, z = log c - elasticity (log r - log normal) - log normal; the
    value is exp(median z) over all calls, its error the standard deviation of the visits' medians over the
    root of their number. Elasticity 1 makes it the plain median ratio c / r.

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
    logs = np.concatenate(visits)
    distances = np.abs(logs - np.median(logs))
    spread = 1.4826 * float(np.median(distances))
    medians = [np.median(visit) for visit in visits]
    error = np.std(medians, ddof=1) / np.sqrt(len(visits)) if len(visits) > 1 else np.nan
    outliers = int((distances > 5 * spread).sum()) if spread > 0 else 0
    return Ratio(float(np.exp(np.median(logs))), float(error), outliers)
