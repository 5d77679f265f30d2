"""What is believed of a table before anything is timed: a roofline, and how layers may stray from it."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jcw.latency.signatures import Signatures

TERMS = ('group', 'output', 'input', 'pair')


class Prior(NamedTuple):
    """Entries are (features @ coefficients) (1 + deviation); deviations are normal around 0.

    The covariance of deviations is a sum of terms, each with a variance to be chosen: layers of one group
    (kind, kernel, stride, input size) stray together, those of one output width or one input width in a group
    stray together, and every pair of widths on its own.
    """

    features: Float[np.ndarray, 'signatures features']  # non-negative, largest value 1
    covariances: Float[np.ndarray, 'terms signatures signatures']


def roofline(signatures: Signatures) -> Prior:
    """Build the prior: time grows with multiply-adds, with numbers moved and with the number of layers.

    A roofline (Williams, Waterman and Patterson, 2009) with additive terms, so that its coefficients are a
    small non-negative least-squares problem. Depthwise and dense multiply-adds have one each.
    """
    kinds = np.array([signature.kind for signature in signatures.all])
    launches = np.stack([kinds == 'conv', kinds == 'separable'], 1).astype(np.float64)
    features = np.concatenate([launches, signatures.work], 1)
    features = features[:, features.any(0)]
    return Prior((features / features.max(0)).astype(np.float32), _covariances(signatures))


def flat(signatures: Signatures) -> Prior:
    """Build the prior that knows nothing: all entries alike, each straying on its own."""
    size = len(signatures)
    return Prior(np.ones((size, 1), np.float32), np.eye(size, dtype=np.float32)[None])


def _covariances(signatures: Signatures) -> Float[np.ndarray, 'terms signatures signatures']:
    groups = _labels([signature[:5] for signature in signatures.all])
    outputs = _labels([(*s[:5], s.out_channels) for s in signatures.all])
    inputs = _labels([(*s[:5], s.in_channels) for s in signatures.all])
    each = np.arange(len(signatures))
    return np.stack([label[:, None] == label for label in (groups, outputs, inputs, each)]).astype(np.float32)


def _labels(keys: list[tuple]) -> np.ndarray:
    known: dict[tuple, int] = {}
    return np.array([known.setdefault(key, len(known)) for key in keys])
