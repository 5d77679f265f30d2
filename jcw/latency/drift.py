"""Put calls made at a machine's different speeds on one scale: networks slow down with the reference."""

import dataclasses

import numpy as np

from jcw.latency.location import locate, uninterrupted
from jcw.latency.samples import Sample, Samples


def corrected(samples: Samples, others: Samples | None = None) -> Samples:
    """Estimate every network's time anew, for a reference that takes the time stated in the header.

    When a neighbour takes half of a core's speed, a network and the reference do not slow down by the same
    factor: c ~ r^elasticity. The elasticity is common to all networks and estimated from them, or from `others`,
    where these are few.
    """
    elasticity = estimate_elasticity(others or samples)
    normal_ms = samples.header.reference_ms
    return samples._replace(samples=tuple(_relocate(s, elasticity, normal_ms) for s in samples.samples))


def estimate_elasticity(samples: Samples, deviation: float = 0.3) -> float:
    """Regress log calls on log reference calls within networks, by visits; shrunk towards 1.

    Both are noisy, and noise in the regressor would make the slope too small. So each visit is halved, every second
    call in each half: with x and x' the halves' medians of log r, y and y' of log c, less their network's mean,
    the noise of x is none of x' nor of y', and the slope is that of an instrumental variable (Durbin, 1954),

        e = 1 + sum t / a,   t = (x (y' - x') + x' (y - x)) / 2,   a = sum x x'

    By its variance, sum t^2 / a^2, it is shrunk towards 1, from which elasticities differ by `deviation`; to a is
    added what noise alone may amount to. So on a machine whose speed never changes it stays near 1. Visits that are
    far from e are left out of a second pass. Visits of a single call cannot be halved and do not count.
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
    spread = common**2 + terms @ terms / deviation**2
    return float(1 + terms.sum() * common / spread) if spread > 0 else 1.0


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
