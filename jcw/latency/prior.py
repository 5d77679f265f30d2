"""What is believed of a table before anything is timed: a roofline, and how layers may stray from it."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jcw.latency.entries import Entries

TERMS = ('group', 'output', 'input', 'pair')


class Prior(NamedTuple):
    """Entries are (features @ coefficients) (1 + deviation); deviations are normal around 0.

    The covariance of deviations is a sum of terms, each with a variance to be chosen: layers of one group
    (operations, input size) stray together, those of one output width or one input width in a group
    stray together, and every pair of widths on its own.
    """

    features: Float[np.ndarray, 'signatures features']  # non-negative, largest value 1
    covariances: Float[np.ndarray, 'terms signatures signatures']


def roofline(entries: Entries) -> Prior:
    """Build the prior: time grows with multiply-adds, with numbers moved and with the number of operations.

    A roofline (Williams, Waterman and Patterson, 2009) with additive terms, so that its coefficients are a
    small non-negative least-squares problem. Depthwise, 1x1 and larger convolutions have one each.
    """
    features = np.concatenate([entries.launches, entries.work], 1)
    features = features[:, features.any(0)]
    return Prior((features / features.max(0)).astype(np.float32), _covariances(entries))


def flat(entries: Entries) -> Prior:
    """Build the prior that knows nothing: all entries alike, each straying on its own."""
    size = len(entries)
    return Prior(np.ones((size, 1), np.float32), np.eye(size, dtype=np.float32)[None])


def _covariances(entries: Entries) -> Float[np.ndarray, 'terms signatures signatures']:
    groups = _labels([signature[:3] for signature in entries.all])
    outputs = _labels([(*s[:3], s.out_channels) for s in entries.all])
    inputs = _labels([(*s[:3], s.in_channels) for s in entries.all])
    each = np.arange(len(entries))
    return np.stack([label[:, None] == label for label in (groups, outputs, inputs, each)]).astype(np.float32)


def _labels(keys: list[tuple]) -> np.ndarray:
    known: dict[tuple, int] = {}
    return np.array([known.setdefault(key, len(known)) for key in keys])
