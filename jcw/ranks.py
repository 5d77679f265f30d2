"""Correlation of ranks."""

import numpy as np
from jaxtyping import Float

Values = Float[np.ndarray, ' samples']


def spearman(a: Values, b: Values) -> float:
    """Return the correlation of ranks, ties sharing their mean; 0 if a side is constant (Spearman, 1904)."""
    ranks = _ranks(a), _ranks(b)
    if any(rank.std() == 0 for rank in ranks):
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])


def _ranks(values: Values) -> Values:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[inverse]
