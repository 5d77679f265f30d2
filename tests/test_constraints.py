"""Each constraint forbids exactly the configurations it says."""

import itertools

import numpy as np
import pytest

from jcw import budget, constraints
from jcw.field import Field, add, chain_scopes, independent, scores

WIDTHS = np.array([[8, 16, 24, 0], [0, 16, 24, 32], [16, 24, 32, 48]])  # the second site may be dropped
SIZES = np.array([3, 4, 4])
LIVE = np.arange(4) < SIZES[:, None]
PRESENT = independent(np.where(LIVE, 0.0, -np.inf))


def allowed_by(constraint):
    """List the widths of all configurations that are left."""
    every = np.array(list(itertools.product(range(4), repeat=3)))
    left = every[np.isfinite(scores(add(PRESENT, constraint), every))]
    return [tuple(row) for row in WIDTHS[np.arange(3), left].tolist()]


EVERY = list(itertools.product(*(row[:size].tolist() for row, size in zip(WIDTHS, SIZES, strict=True))))


@pytest.mark.parametrize(
    ('constraint', 'rule'),
    [
        (constraints.multiples_of(WIDTHS, SIZES, 8), lambda w: True),
        (constraints.multiples_of(WIDTHS, SIZES, 16), lambda w: all(x % 16 == 0 for x in w)),
        (constraints.at_least(WIDTHS, SIZES, 16), lambda w: min(w) >= 16),
        (constraints.at_least(WIDTHS, SIZES, np.array([8, 32, 24])), lambda w: w[1] >= 32 and w[2] >= 24),
        (constraints.fixed(WIDTHS, SIZES, {0: 24, 2: 48}), lambda w: w[0] == 24 and w[2] == 48),
        (constraints.at_least(WIDTHS, SIZES, 0), lambda w: True),
        (constraints.fixed(WIDTHS, SIZES, {1: 0}), lambda w: w[1] == 0),
        (constraints.tied(WIDTHS, SIZES, [(0, 2)]), lambda w: w[0] == w[2]),
        (constraints.non_decreasing(WIDTHS, SIZES, [(2, 0)]), lambda w: w[2] <= w[0]),
        (constraints.non_decreasing(WIDTHS, SIZES, chain_scopes(3)), lambda w: w[0] <= w[1] <= w[2]),
        (constraints.tied(WIDTHS, SIZES, [(1, 2)]), lambda w: w[1] == w[2]),
        (constraints.tied(WIDTHS, SIZES, [(0, 1), (2, 1)]), lambda w: w[0] == w[1] == w[2]),
    ],
)
def test_a_constraint_leaves_exactly_what_its_rule_allows(constraint, rule):
    assert allowed_by(constraint) == [widths for widths in EVERY if rule(widths)]


def test_constraints_add_up_and_the_solver_keeps_them():
    rng = np.random.default_rng(0)
    utility = independent(np.where(LIVE, rng.random((3, 4)), -np.inf))
    cost = Field(rng.random((3, 4)), rng.random((2, 4, 4)), chain_scopes(3))
    held = add(
        utility,
        constraints.non_decreasing(WIDTHS, SIZES, chain_scopes(3)),
        constraints.multiples_of(WIDTHS, SIZES, 16),
    )
    widths = WIDTHS[np.arange(3), budget.solve(held, cost, np.inf).choices]
    assert (np.diff(widths) >= 0).all()
    assert (widths % 16 == 0).all()


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (
            lambda: constraints.multiples_of(WIDTHS, SIZES, 64),
            r'no width of site 0 is a multiple of 64: \[8, 16, 24\]',
        ),
        (lambda: constraints.fixed(WIDTHS, SIZES, {0: 0}), 'no width of site 0 is among the fixed widths'),
        (lambda: constraints.at_least(WIDTHS, SIZES[:2], 8), r'choices of 3 sites, got shape \(2,\)'),
        (lambda: constraints.multiples_of(WIDTHS, SIZES, 0), 'divisor must be positive, got 0'),
        (lambda: constraints.at_least(WIDTHS, SIZES, 40), 'no width of site 0 is at least 40'),
        (
            lambda: constraints.at_least(WIDTHS, SIZES, np.array([8, 8])),
            r'a number or 3 of them, got shape \(2,\)',
        ),
        (lambda: constraints.fixed(WIDTHS, SIZES, {1: 20}), 'no width of site 1 is among the fixed widths'),
        (lambda: constraints.fixed(WIDTHS, SIZES, {3: 8}), 'site must be from 0 to 2, got 3'),
        (lambda: constraints.tied(WIDTHS, SIZES, [(2, 3)]), r'different sites from 0 to 2, got \(2, 3\)'),
        (
            lambda: constraints.tied(np.array([[8, 0], [24, 32]]), np.array([1, 2]), [(0, 1)]),
            'sites 0 and 1 have no widths in common',
        ),
    ],
)
def test_a_constraint_that_nothing_meets_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
