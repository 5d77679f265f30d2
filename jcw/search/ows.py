"""One-shot width search: from width statistics to the field, and from the field to a configuration."""

import numpy as np

from jcw.mrf import ChainMRF
from jcw.search import stats
from jcw.space import SearchSpace


def to_field(unary: stats.Unary, space: SearchSpace) -> ChainMRF:
    """Return the chain field of a space's unaries: accuracy needs no pairwise terms.

    Choices never drawn stay at -inf, so that they cannot win.

    Raises:
      ValueError: an effect that is NaN or infinite, or a layer none of whose choices was ever drawn.
    """
    stats.check_means(unary)
    missing = np.flatnonzero(~np.isfinite(unary.mean).any(1))
    if missing.size:
        raise ValueError(f'no width of layer {missing[0]} was ever drawn: train the supernet longer')
    layers, choices = unary.mean.shape
    if (layers, choices) != space.width_table.shape:
        raise ValueError(f'unaries {unary.mean.shape} do not fit the space {space.width_table.shape}')
    return ChainMRF(unary.mean, np.zeros((layers - 1, choices, choices)))
