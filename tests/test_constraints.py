"""Each constraint forbids exactly the configurations it says."""

import itertools

import numpy as np
import pytest

from jcw import budget, constraints, mrf

WIDTHS = np.array([[8, 16, 24, 0], [8, 16, 24, 32], [16, 24, 32, 48]])
PRESENT = mrf.ChainMRF(np.where(WIDTHS > 0, 0.0, -np.inf), np.zeros((2, 4, 4)))


def allowed_by(constraint):
    """List the widths of all configurations that are left."""
    field = mrf.add(PRESENT, constraint)
    every = itertools.product(range(4), repeat=3)
    left = [x for x in every if np.isfinite(float(mrf.score(field, np.array(x))))]
    return [tuple(int(WIDTHS[layer, choice]) for layer, choice in enumerate(x)) for x in left]


EVERY = list(itertools.product(*(row[row > 0].tolist() for row in WIDTHS)))


@pytest.mark.parametrize(
    ('constraint', 'rule'),
    [
        (constraints.multiples_of(WIDTHS, 8), lambda w: True),
        (constraints.multiples_of(WIDTHS, 16), lambda w: all(x % 16 == 0 for x in w)),
        (constraints.at_least(WIDTHS, 16), lambda w: min(w) >= 16),
        (constraints.at_least(WIDTHS, np.array([8, 32, 24])), lambda w: w[1] >= 32 and w[2] >= 24),
        (constraints.fixed(WIDTHS, {0: 24, 2: 48}), lambda w: w[0] == 24 and w[2] == 48),
        (constraints.non_decreasing(WIDTHS), lambda w: w[0] <= w[1] <= w[2]),
        (constraints.tied(WIDTHS, [1]), lambda w: w[1] == w[2]),
        (constraints.tied(WIDTHS, [0, 1]), lambda w: w[0] == w[1] == w[2]),
    ],
)
def test_a_constraint_leaves_exactly_what_its_rule_allows(constraint, rule):
    assert allowed_by(constraint) == [widths for widths in EVERY if rule(widths)]


def test_no_part_of_what_is_left_exceeds_the_limit():
    rng = np.random.default_rng(3)
    cost = mrf.ChainMRF(np.where(WIDTHS > 0, rng.random(WIDTHS.shape), -np.inf), rng.random((2, 4, 4)))

    def greatest(widths):
        choices = [int(np.flatnonzero(row == w)[0]) for row, w in zip(WIDTHS, widths, strict=True)]
        pairs = [cost.pairwise[e, choices[e], choices[e + 1]] for e in range(2)]
        return max(*cost.unary[range(3), choices], *pairs)

    limit = float(np.median([greatest(widths) for widths in EVERY]))
    left = allowed_by(constraints.no_part_above(cost, limit))
    assert left == [widths for widths in EVERY if greatest(widths) <= limit]
    assert 0 < len(left) < len(EVERY)


def test_a_limit_that_some_layer_cannot_keep_is_refused_with_the_least_that_would_do():
    cost = mrf.ChainMRF(np.zeros((2, 2)), np.array([[[5.0, 6.0], [7.0, 8.0]]]))
    with pytest.raises(ValueError, match='the limit must be at least 5'):
        constraints.no_part_above(cost, 4.0)
    assert np.isfinite(constraints.no_part_above(cost, 5.0).pairwise).sum() == 1


def test_constraints_add_up_and_the_solver_keeps_them():
    rng = np.random.default_rng(0)
    utility = mrf.add(PRESENT, mrf.ChainMRF(np.where(WIDTHS > 0, rng.random((3, 4)), 0), np.zeros((2, 4, 4))))
    cost = mrf.ChainMRF(rng.random((3, 4)), rng.random((2, 4, 4)))
    held = mrf.add(utility, constraints.non_decreasing(WIDTHS), constraints.multiples_of(WIDTHS, 16))
    widths = WIDTHS[np.arange(3), budget.solve(held, cost, np.inf).choices]
    assert (np.diff(widths) >= 0).all()
    assert (widths % 16 == 0).all()


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (
            lambda: constraints.multiples_of(WIDTHS, 64),
            r'no width of layer 0 is a multiple of 64: \[8, 16, 24\]',
        ),
        (lambda: constraints.multiples_of(WIDTHS, 0), 'divisor must be positive, got 0'),
        (lambda: constraints.at_least(WIDTHS, 40), 'no width of layer 0 is at least 40'),
        (lambda: constraints.at_least(WIDTHS, np.array([8, 8])), r'a number or 3 of them, got shape \(2,\)'),
        (lambda: constraints.fixed(WIDTHS, {1: 20}), 'no width of layer 1 is among the fixed widths'),
        (lambda: constraints.fixed(WIDTHS, {3: 8}), 'layer must be from 0 to 2, got 3'),
        (lambda: constraints.tied(WIDTHS, [2]), 'edges must be from 0 to 1, got 2'),
        (
            lambda: constraints.tied(np.array([[8, 16], [24, 32]]), [0]),
            'layers 0 and 1 have no width in common',
        ),
    ],
)
def test_a_constraint_that_nothing_meets_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
