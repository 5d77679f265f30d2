"""Put calls made at a machine's different speeds on one scale: networks slow down with the reference."""

import dataclasses
from collections.abc import Sequence

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

    With x and y the visits' medians of log r and log c, less their network's mean, the estimate is
    (sum x y + k) / (sum x^2 + k), k = var(y - x) / deviation^2: on a machine whose speed never changes it is
    1.
    """
    pairs = [_centred(sample) for sample in samples.timed if len(sample.calls_ms) > 1]
    if not pairs:
        return 1.0
    x, y = np.concatenate(pairs, 1)
    prior = (1.4826 * np.median(np.abs(y - x)) / deviation) ** 2
    ordinary = np.abs(y - x) <= 5 * 1.4826 * np.median(np.abs(y - x))
    x, y = x[ordinary], y[ordinary]
    return float((x @ y + prior) / (x @ x + prior)) if x @ x + prior > 0 else 1.0


def _centred(sample: Sample) -> np.ndarray:
    logs = np.array([_medians(*visit) for visit in zip(sample.reference_ms, sample.calls_ms, strict=True)]).T
    return logs - logs.mean(1, keepdims=True)


def _medians(reference_ms: Sequence[float], calls_ms: Sequence[float]) -> tuple[float, float]:
    """Return the median log times of a visit's uninterrupted calls."""
    reference, calls = np.log(reference_ms), np.log(calls_ms)
    kept = uninterrupted(calls - reference)
    return float(np.median(reference[kept])), float(np.median(calls[kept]))


def _relocate(sample: Sample, elasticity: float, normal_ms: float) -> Sample:
    if sample.failure:
        return sample
    ratio = locate(sample.calls_ms, sample.reference_ms, elasticity, normal_ms)
    return dataclasses.replace(sample, ms=ratio.value * normal_ms, error=ratio.error, outliers=ratio.outliers)
