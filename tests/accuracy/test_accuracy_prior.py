import numpy as np
import pytest

from jcw.accuracy import prior

WIDTHS = ((8, 16, 24, 32), (0, 8, 16), (64,), (0, 24))


def slopes(widths, values):
    return np.diff(values) / np.diff(widths)


def test_log_width_is_0_at_the_least_and_1_at_the_greatest_width():
    found = prior.log_width(WIDTHS)
    np.testing.assert_allclose(found.curves[0], np.log([1, 2, 3, 4]) / np.log(4))
    assert found.curves[1, 1] == 0
    assert found.curves[1, 2] == 1
    assert found.present.sum(1).tolist() == [4, 3, 1, 2]
    assert not found.curves[~found.present].any()


def test_expected_heights_go_with_the_span_of_the_logarithm():
    found = prior.log_width(((8, 16), (8, 64)))
    assert found.spans[1] == pytest.approx(3 * found.spans[0])
    assert found.spans.mean() == pytest.approx(1)


def test_curves_are_increasing_and_concave_with_width_0_on_the_tangent():
    found = prior.log_width(WIDTHS)
    for site, widths in enumerate(WIDTHS):
        slope = slopes(widths, found.curves[site, : len(widths)])
        assert (slope > 0).all()
        assert (np.diff(slope) <= 1e-12).all()
    # the derivative of log(w / 8) / log(2) at 8 is the slope from 0
    assert slopes((0, 8), found.curves[1, :2])[0] == pytest.approx(1 / 8 / np.log(2))


def test_a_branch_that_is_whole_or_dropped_has_a_height():
    found = prior.log_width(((0, 24), (8, 16)))
    assert found.spans[0] > 0
    assert found.curves[0].tolist() == [-1, 0]


def test_a_supernet_changes_no_curve():
    widths = ((8, 16, 24, 32), (0, 8, 16))
    mean = np.array([[0, 0.1, 0.9, 1.0], [0, 0.7, 0.9, -np.inf]])
    found = prior.from_supernet(widths, mean, np.full(mean.shape, 1e-6))
    assert found.heard.all()
    np.testing.assert_array_equal(found.curves, prior.log_width(widths).curves)


def test_dropping_a_branch_has_no_part_in_its_height():
    widths = ((0, 8, 16), (8, 16))
    found = [
        prior.from_supernet(widths, np.array([[dropped, 0, 2.0], [0, 1, -np.inf]]), np.full((2, 3), 0.1))
        for dropped in (-5, 0)
    ]
    np.testing.assert_array_equal(found[0].supernet, found[1].supernet)
    assert found[0].supernet[0] - found[0].supernet[1] == pytest.approx(np.log(2))


def test_heights_of_the_supernet_are_relative_and_heard_only_where_significant():
    widths = ((8, 16), (8, 16), (8, 16))
    mean, std = np.array([[0, 1.0], [0, 4.0], [0, 0.1]]), np.full((3, 2), 0.1)
    found = prior.from_supernet(widths, mean, std)
    assert found.heard.tolist() == [True, True, False]
    assert found.supernet[1] - found.supernet[0] == pytest.approx(np.log(4))
    assert found.supernet[:2].sum() == pytest.approx(0)
    assert found.supernet[2] == 0


@pytest.mark.parametrize('ends', [(-np.inf, 1.0), (0, -np.inf), (-np.inf, -np.inf)])
def test_a_site_whose_least_or_greatest_width_was_never_drawn_is_not_heard(ends):
    mean, std = np.array([[ends[0], 0.7, ends[1]]]), np.full((1, 3), 0.01)
    found = prior.from_supernet(((8, 16, 24),), mean, std)
    assert not found.heard.any()
    assert found.supernet.tolist() == [0]


@pytest.mark.parametrize('widths', [(), ((),), ((8, 8),), ((16, 8),), ((-1, 8),), ((0,),)])
def test_widths_that_do_not_increase_are_refused(widths):
    with pytest.raises(ValueError, match='widths'):
        prior.log_width(widths)


def test_a_supernet_of_another_shape_or_of_nan_is_refused():
    with pytest.raises(ValueError, match='shape'):
        prior.from_supernet(((8, 16),), np.zeros((2, 2)), np.ones((2, 2)))
    with pytest.raises(ValueError, match='numbers'):
        prior.from_supernet(((8, 16),), np.array([[0, np.nan]]), np.ones((1, 2)))
