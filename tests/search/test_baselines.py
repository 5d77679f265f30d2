"""Baselines: each is the best of its own kind within the budget, by enumeration of a small space."""

import itertools

import jax
import numpy as np
import pytest

from jcw import budget
from jcw.field import Field, chain_scopes, independent, scores
from jcw.search import baselines
from tests.tiny_graph import GRAPH

RNG = np.random.default_rng(1)
LIVE = GRAPH.width_table > 0
PAIRS = (GRAPH.num_sites - 1, *LIVE.shape[1:] * 2)
PRICED = np.where(LIVE, GRAPH.width_table + RNG.random(LIVE.shape), -np.inf)
COST = Field(PRICED, RNG.random(PAIRS), chain_scopes(GRAPH.num_sites))
UTILITY = independent(np.where(LIVE, RNG.random(LIVE.shape), -np.inf))
EVERY = np.array(list(itertools.product(*(range(n) for n in GRAPH.num_choices))))
BUDGETS = np.quantile(scores(COST, EVERY), [0.2, 0.5, 0.9])


@pytest.mark.parametrize('limit', BUDGETS)
def test_uniform_is_the_widest_multiplier_within_the_budget(limit):
    found = baselines.uniform(GRAPH, COST, limit)
    assert scores(COST, found[None])[0] <= limit
    for multiplier in np.linspace(0.1, 3, 300):
        widths = GRAPH.nearest([multiplier * site.base for site in GRAPH.sites])
        if scores(COST, GRAPH.to_choices(widths)[None])[0] <= limit:
            assert widths.sum() <= GRAPH.to_widths(found).sum()


def test_a_budget_below_every_multiplier_is_refused_with_the_least_that_would_do():
    with pytest.raises(ValueError, match='the narrowest costs'):
        baselines.uniform(GRAPH, COST, 0.1)


def test_random_configurations_differ_and_use_nearly_all_of_the_budget():
    drawn = baselines.random_within(jax.random.key(0), GRAPH, COST, BUDGETS[1], 10)
    costs = scores(COST, drawn)
    assert len({tuple(choices) for choices in drawn.tolist()}) == len(drawn) == 10
    assert ((costs <= BUDGETS[1]) & (costs >= baselines.NEAR * BUDGETS[1])).all()


def test_random_search_returns_the_drawn_configuration_of_least_loss():
    asked = {}

    def loss(choices):
        asked[tuple(choices.tolist())] = float(-UTILITY.unary[range(4), choices].sum())
        return asked[tuple(choices.tolist())]

    found = baselines.random_search(jax.random.key(1), GRAPH, loss, COST, BUDGETS[1], 8)
    assert len(asked) == 8
    assert asked[tuple(found.tolist())] == min(asked.values())


def test_the_true_cost_as_its_own_stand_in_gives_the_joint_optimum():
    limit = BUDGETS[1]
    best = budget.solve(UTILITY, COST, limit)
    found = baselines.by_proxy(GRAPH, UTILITY, COST, COST, limit)
    assert scores(UTILITY, found[None])[0] == pytest.approx(float(best.utility), abs=0.05)
    assert scores(UTILITY, found[None])[0] <= best.utility


@pytest.mark.parametrize('limit', BUDGETS)
def test_a_stand_in_cost_holds_the_true_budget_and_is_no_better_than_the_optimum(limit):
    proxy = independent(np.where(LIVE, GRAPH.width_table**2.0, -np.inf))
    found = baselines.by_proxy(GRAPH, UTILITY, proxy, COST, limit)
    assert scores(COST, found[None])[0] <= limit
    assert scores(UTILITY, found[None])[0] <= budget.solve(UTILITY, COST, limit).utility


@pytest.mark.parametrize(
    ('run', 'message'),
    [
        (lambda: baselines.random_within(jax.random.key(0), GRAPH, COST, 20.0, 0), 'count must be positive'),
        (
            lambda: baselines.random_search(jax.random.key(0), GRAPH, lambda c: 0.0, COST, 0.1, 5),
            'no configuration found',
        ),
        (lambda: baselines.by_proxy(GRAPH, UTILITY, COST, COST, 0.1), 'no optimum of the stand-in cost'),
    ],
)
def test_what_cannot_be_found_is_said(run, message):
    with pytest.raises(ValueError, match=message):
        run()
