import numpy as np
import pytest

from jcw.latency import report
from jcw.latency.metrics import errors


def times(error: float, count: int = 200) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    measured = rng.uniform(1, 3, count)
    predicted = measured * (1 + error * rng.standard_normal(count))
    return measured, predicted, error * measured, measured + 0.5 * rng.standard_normal(count)


def test_errors_are_those_of_their_definitions():
    scipy_stats = pytest.importorskip('scipy.stats')
    measured, predicted, _, _ = times(0.1)
    found = errors(predicted, measured)
    assert found.nrmse == pytest.approx(np.sqrt(np.mean((predicted - measured) ** 2)) / measured.mean())
    assert found.r2 == pytest.approx(1 - np.var(predicted - measured) / np.var(measured), abs=0.01)
    assert found.spearman == pytest.approx(scipy_stats.spearmanr(predicted, measured).statistic)


def test_constant_or_too_few_times_explain_nothing():
    with pytest.raises(ValueError, match='nothing can be explained'):
        errors(np.array([1.0, 2.0]), np.array([3.0, 3.0]))
    with pytest.raises(ValueError, match='two or more'):
        errors(np.array([1.0]), np.array([3.0]))


def test_a_good_table_is_reported_without_warning():
    found = report.compare(*times(0.01))
    assert found.warnings == ()
    assert found.table.nrmse < found.flops.nrmse
    assert 0.9 < found.inside <= 1
    assert 'FLOPs' in str(found)


def test_errors_larger_than_the_resolution_are_a_warning():
    found = report.compare(*times(0.05), resolution=0.05)
    assert 'cannot be told apart' in found.warnings[0]


def test_error_bars_that_are_too_small_are_a_warning():
    measured, predicted, deviations, flops = times(0.01)
    assert (
        'error bars are too small' in report.compare(measured, predicted, deviations / 5, flops).warnings[-1]
    )


def test_a_table_worse_than_flops_is_a_warning():
    measured, predicted, deviations, _ = times(0.5)
    assert any(
        'FLOPs predict better' in w
        for w in report.compare(measured, predicted, deviations, measured).warnings
    )


def test_the_plot_is_written(tmp_path):
    report.plot(report.compare(*times(0.02)), tmp_path / 'plot.png', 'paper')
    assert (tmp_path / 'plot.png').stat().st_size > 5000
