"""When two arrays of float32 are the same: to rounding, which grows with the numbers that were added up."""

import numpy as np
from numpy.typing import ArrayLike

ROUNDING = 1e-5
"""Of sums of some hundred terms in any order, relative to the largest: `sqrt(terms)` times 6e-8, times ten."""


def assert_close(found: ArrayLike, expected: ArrayLike, relative: float = ROUNDING) -> None:
    """Compare element by element, the tolerance being a fraction of the largest that is expected.

    An absolute tolerance passes on one processor and fails on another, whose instructions add in another order.
    """
    scale = float(np.abs(np.asarray(expected, np.float64)).max())
    np.testing.assert_allclose(found, expected, atol=relative * scale, rtol=0)
