"""Correct times for a machine whose speed changes while networks are timed.

Every call of a network stands beside a call of the reference network. When the machine is slow, both take longer, but
not by the same factor: where the reference takes r times as long, a network takes r^elasticity times as long. The
elasticity is estimated from the samples; then every time is restated for the reference's normal speed.
"""

import dataclasses

import numpy as np

from jcw.latency.location import locate, uninterrupted
from jcw.latency.samples import Sample, Samples


def corrected(samples: Samples, others: Samples | None = None) -> Samples:
    """Return the samples with every time restated for a reference that takes the time in the header.

    Args:
      samples: to correct.
      others: from which the elasticity is estimated, where `samples` are too few to tell it.
    """
    elasticity = estimate_elasticity(others or samples)
    normal_ms = samples.header.reference_ms
    return samples._replace(samples=tuple(_relocate(s, elasticity, normal_ms) for s in samples.samples))


def estimate_elasticity(samples: Samples, deviation: float = 0.3) -> float:
    """Estimate how networks slow down with the reference: the slope of log calls on log reference calls.

    A plain regression gives too small a slope, because the reference's times are noisy themselves. So the calls of
    each visit are halved, alternately. Noise in one half is independent of the other half, which makes one half an
    instrument for the other (Durbin, 1954). With x and x' the median log reference times of the halves, y and y'
    those of the network, each less the mean over the network's visits,

        e = 1 + sum t / a,   t = (x (y' - x') + x' (y - x)) / 2,   a = sum x x'

    On a machine whose speed never changes, a is noise, and e would be anything. So e is shrunk towards 1, by its
    variance sum t^2 / a^2 against a prior deviation, and a is increased by what noise alone may amount to. Visits far
    from the line are left out and e is estimated again.

    Args:
      samples: timed networks; a visit of a single call cannot be halved and does not count.
      deviation: by which elasticities are believed to differ from 1 before any is measured.
    """
    halves = [part for sample in samples.timed if len(part := _halves(sample)) > 1]
    if not halves:
        return 1.0
    visits = np.concatenate([part - part.mean(0) for part in halves])
    elasticity = _shrunk_slope(visits, deviation)
    x, y, other_x, other_y = visits.T
    apart = np.abs(y + other_y - elasticity * (x + other_x))
    return _shrunk_slope(visits[apart <= 5 * 1.4826 * np.median(apart)], deviation)


def _shrunk_slope(visits: np.ndarray, deviation: float) -> float:
    x, y, other_x, other_y = visits.T
    terms = (x * (other_y - other_x) + other_x * (y - x)) / 2
    noise = np.mean((x - other_x) ** 2) / 2
    common = x @ other_x + 3 * noise * np.sqrt(len(x))
    total = common**2 + terms @ terms / deviation**2
    return float(1 + terms.sum() * common / total) if total > 0 else 1.0


def _halves(sample: Sample) -> np.ndarray:
    """Return the median log times [visits 4] of the uninterrupted calls: reference and network, of each half."""
    rows = []
    for reference_ms, calls_ms in zip(sample.reference_ms, sample.calls_ms, strict=True):
        reference, calls = np.log(reference_ms), np.log(calls_ms)
        kept = uninterrupted(calls - reference)
        halves = [kept & (np.arange(len(kept)) % 2 == half) for half in (0, 1)]
        if all(half.any() for half in halves):
            rows.append([np.median(values[half]) for half in halves for values in (reference, calls)])
    return np.array(rows).reshape(-1, 4)


def _relocate(sample: Sample, elasticity: float, normal_ms: float) -> Sample:
    if sample.failure:
        return sample
    ratio = locate(sample.calls_ms, sample.reference_ms, elasticity, normal_ms)
    return dataclasses.replace(sample, ms=ratio.value * normal_ms, error=ratio.error, outliers=ratio.outliers)
