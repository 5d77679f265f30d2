import numpy as np
import pytest

from jcw.ranks import spearman


def test_ties_share_their_rank_and_a_constant_has_no_correlation():
    scipy_stats = pytest.importorskip('scipy.stats')
    a, b = np.array([1.0, 1.0, 2.0, 3.0, 3.0]), np.array([2.0, 1.0, 3.0, 3.0, 4.0])
    assert spearman(a, b) == pytest.approx(scipy_stats.spearmanr(a, b).statistic)
    assert spearman(a, np.ones(5)) == 0
