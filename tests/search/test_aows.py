"""Adaptive draws: against the table of all configurations, the schedule, the price's limit, messages."""

import itertools

import numpy as np
import pytest

from jcw import budget
from jcw.builder import build
from jcw.field import Field, add, chain_scopes, independent, scores
from jcw.search import aows, stats
from tests.tiny_graph import RESIDUAL


def _net(g):
    x = g.images
    for number, choices in enumerate([(2, 4, 6), (2, 4), (2, 4, 6)]):
        x = g.conv(x, g.site(f'site_{number}', 4, choices))
    return g.classify(x)


GRAPH = build(_net, (4, 4, 1), 5)
LIVE = GRAPH.present
CONFIGURATIONS = np.array(list(itertools.product(range(3), range(2), range(3))))


def fields(seed=0):
    rng = np.random.default_rng(seed)
    utility = independent(np.where(LIVE, np.sort(rng.normal(size=(3, 3)), 1), -np.inf))
    tables = np.sort(rng.uniform(0, 1, (2, 3, 3)), 2)
    cost = Field(np.sort(rng.uniform(0, 1, (3, 3)), 1), tables, chain_scopes(3))
    return utility, cost


def sums(field):
    return scores(field, CONFIGURATIONS)


def gibbs(utility, cost, price, heat):
    score = (sums(utility) - price * sums(cost)) / heat
    weight = np.exp(score - score.max())
    return weight / weight.sum()


def between(cost, share):
    return sums(cost).min() + share * (sums(cost).mean() - sums(cost).min())


def test_entropy_and_mean_cost_match_the_table():
    utility, cost = fields()
    p = gibbs(utility, cost, 0.7, 0.5)
    field = aows.priced(utility, cost, 0.7, 0.5)
    np.testing.assert_allclose(aows.entropy(field), -(p * np.log(p)).sum(), rtol=1e-4)
    np.testing.assert_allclose(aows.mean_cost(field, cost), p @ sums(cost), rtol=1e-4)


@pytest.mark.parametrize('heat', [0.1, 1.0, 10.0])
def test_the_price_makes_draws_meet_the_budget_on_average(heat):
    utility, cost = fields(1)
    limit = between(cost, 0.5)
    price = aows.budget_price(utility, cost, limit, heat)
    np.testing.assert_allclose(gibbs(utility, cost, price, heat) @ sums(cost), limit, rtol=1e-3)
    assert aows.budget_price(utility, cost, 100.0, heat) == 0


def test_cold_draws_are_the_best_configuration_at_the_lagrange_multiplier():
    utility, cost = fields(2)
    limit = between(cost, 0.6)
    price = aows.budget_price(utility, cost, limit, 1e-3)
    prices = np.geomspace(1e-3, 1e3, 4001)
    bounds = (sums(utility) - prices[:, None] * sums(cost)).max(1) + prices * limit
    at_price = (sums(utility) - price * sums(cost)).max() + price * limit
    np.testing.assert_allclose(at_price, bounds.min(), atol=0.01)
    assert float(budget.solve(utility, cost, limit).utility) <= at_price + 1e-6


def test_the_temperature_is_infinite_then_falls_to_the_coldest():
    schedule = aows.Schedule(0.5, 2.0, 0.2)
    heats = [aows.temperature(p, schedule) for p in (0, 0.49, 0.5, 0.75, 1)]
    np.testing.assert_allclose(heats, [np.inf, np.inf, 2.0, (2.0 * 0.2) ** 0.5, 0.2])


def test_entropy_falls_over_the_run_from_that_of_even_draws():
    utility, cost = fields(3)
    known = aows.warm(stats.Unary(np.asarray(utility.unary), np.ones((3, 3))), GRAPH)
    limit = between(cost, 0.5)
    curve = [
        float(aows.refreshed(known, GRAPH, cost, limit, p, aows.Schedule()).entropy) for p in (0, 0.4, 0.7, 1)
    ]
    np.testing.assert_allclose(curve[0], np.log(len(CONFIGURATIONS)), rtol=1e-5)
    assert all(a > b for a, b in itertools.pairwise(curve))


def test_the_floor_keeps_every_live_choice_and_no_other():
    utility, cost = fields(4)
    draws = aows.narrowed(utility, cost, between(cost, 0.2), 0.01, floor=0.3)
    probabilities = np.asarray(draws.probabilities)
    assert (probabilities[LIVE] >= 0.3 / 3 - 1e-6).all()
    assert (probabilities[~LIVE] == 0).all()
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)


def test_even_draws_are_even_over_every_sites_own_choices():
    draws = aows.even_draws(GRAPH)
    for row, count in zip(np.asarray(draws.probabilities), GRAPH.num_choices, strict=True):
        np.testing.assert_allclose(row, np.where(np.arange(3) < count, 1 / count, 0), rtol=1e-6)
    assert (draws.temperature, draws.price) == (np.inf, 0)
    np.testing.assert_allclose(draws.entropy, np.log(len(CONFIGURATIONS)), rtol=1e-6)


def test_blocks_are_drawn_and_dropped_whole_on_a_graph_with_residuals():
    """Against the table of all settled configurations; the cost's factors are the graph's own."""
    graph = RESIDUAL
    every = np.array(list(itertools.product(*map(range, graph.num_choices))))
    every = every[(graph.settled(every) == every).all(1)]
    rng = np.random.default_rng(6)
    shape = graph.present.shape
    unary = stats.Unary(np.where(graph.present, rng.normal(size=shape), -np.inf), np.ones(shape))
    cost = Field(rng.random(shape), rng.random((len(graph.scopes), *shape[1:] * 2)), graph.scopes)
    utility = aows.warm(unary, graph)
    limit = float(np.quantile(scores(cost, every), 0.3))
    draws = aows.narrowed(utility, cost, limit, 0.5, floor=0.0)
    score = (scores(utility, every) - float(draws.price) * scores(cost, every)) / 0.5
    p = np.exp(score - score.max())
    p /= p.sum()
    np.testing.assert_allclose(p @ scores(cost, every), limit, rtol=1e-3)
    np.testing.assert_allclose(draws.entropy, -(p * np.log(p)).sum(), rtol=1e-3)
    for site, row in enumerate(np.asarray(draws.probabilities)):
        np.testing.assert_allclose(row, np.bincount(every[:, site], p, len(row)), atol=1e-4)


def test_a_live_choice_not_yet_drawn_counts_as_its_sites_best():
    unary = stats.Unary(np.array([[-1.0, -np.inf, 0.5], [0.0, 0.1, -np.inf], [-np.inf] * 3]), np.ones((3, 3)))
    field = aows.warm(unary, GRAPH)
    np.testing.assert_array_equal(field.unary[0], [-1.0, 0.5, 0.5])
    np.testing.assert_array_equal(field.unary[1], [0.0, 0.1, -np.inf])
    np.testing.assert_array_equal(field.unary[2], 0.0)


def test_wrong_requests_are_named():
    with pytest.raises(ValueError, match='fraction of the run'):
        aows.temperature(1.5, aows.Schedule())
    with pytest.raises(ValueError, match='coldest <= hottest'):
        aows.temperature(0.5, aows.Schedule(hottest=0.1, coldest=0.2))
    with pytest.raises(ValueError, match='must be positive and finite'):
        aows.narrowed(*fields(), 1.0, np.inf)


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_effects_that_are_no_numbers_pass_neither_to_a_field_nor_to_draws(value):
    from jcw.search import ows
    from tests.tiny_graph import GRAPH

    mean = np.where(GRAPH.present, -0.1, -np.inf)
    mean[1, 2] = value
    unary = stats.Unary(mean, np.ones(mean.shape))
    named = r'the effect of choice 2 of site 1 is (nan|inf)'
    with pytest.raises(ValueError, match=named):
        ows.to_field(unary, GRAPH)
    with pytest.raises(ValueError, match=named):
        aows.warm(unary, GRAPH)


def test_draws_from_fields_with_numbers_that_are_none_are_refused():
    utility, cost = fields()
    utility = add(
        utility, cost.replace(unary=0 * cost.unary, tables=0 * cost.tables)
    )  # with tables of its own
    for field, name in [(utility, 'utility'), (cost, 'cost')]:
        for part in ('unary', 'tables'):
            wrong = np.array(getattr(field, part))
            wrong.flat[0] = np.nan
            pair = {'utility': utility, 'cost': cost, name: field.replace(**{part: wrong})}
            if (name, part) == ('utility', 'unary'):
                wrong.flat[0] = np.inf
            with pytest.raises(ValueError, match=f'the field of {name} holds NaN or infinity'):
                aows.narrowed(pair['utility'], pair['cost'], 1.0, 0.5)
    for budget_, floor in [(np.nan, 0.1), (1.0, np.nan), (1.0, 1.5)]:
        with pytest.raises(ValueError, match='need a budget and a floor'):
            aows.narrowed(utility, cost, budget_, 0.5, floor)
