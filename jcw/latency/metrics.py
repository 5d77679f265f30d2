"""How wrong predictions are."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jcw.ranks import spearman

Times = Float[np.ndarray, ' samples']


class Errors(NamedTuple):
    """Predicted against measured times of networks."""

    nrmse: float  # root mean squared error over the mean measured time
    r2: float  # 1 - squared errors over squared deviations from the mean
    spearman: float  # correlation of ranks

    def __str__(self) -> str:
        return f'NRMSE {100 * self.nrmse:.2f} %, R2 {self.r2:.4f}, Spearman {self.spearman:.4f}'


def errors(predicted: Times, measured: Times) -> Errors:
    """Compare predictions with measurements.

    Raises:
      ValueError: fewer than two networks, or measurements that are all equal.
    """
    predicted, measured = np.asarray(predicted, np.float64), np.asarray(measured, np.float64)
    if predicted.shape != measured.shape or measured.size < 2:
        raise ValueError(f'need two or more pairs of times, got {predicted.shape} and {measured.shape}')
    deviations = ((measured - measured.mean()) ** 2).sum()
    if deviations == 0:
        raise ValueError(f'all {measured.size} measured times are {measured[0]} ms: nothing can be explained')
    squared = ((predicted - measured) ** 2).sum()
    return Errors(
        nrmse=float(np.sqrt(squared / measured.size) / measured.mean()),
        r2=float(1 - squared / deviations),
        spearman=spearman(predicted, measured),
    )
