"""Adaptive draws: against the table of all configurations, the schedule, the price's limit, messages."""

import itertools

import jax
import numpy as np
import pytest

from jcw import budget
from jcw.mrf import ChainMRF
from jcw.search import aows, stats

LIVE = np.array([[True] * 3, [True, True, False], [True] * 3])
CONFIGURATIONS = np.array(list(itertools.product(range(3), range(2), range(3))))


def fields(seed=0):
    rng = np.random.default_rng(seed)
    utility = ChainMRF(np.where(LIVE, np.sort(rng.normal(size=(3, 3)), 1), -np.inf), np.zeros((2, 3, 3)))
    cost = ChainMRF(np.sort(rng.uniform(0, 1, (3, 3)), 1), np.sort(rng.uniform(0, 1, (2, 3, 3)), 2))
    return utility, cost


def sums(field):
    x = CONFIGURATIONS
    pairs = sum(field.pairwise[e, x[:, e], x[:, e + 1]] for e in range(2))
    return field.unary[np.arange(3), x].sum(1) + pairs


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
    unary = stats.Unary(np.asarray(utility.unary), np.ones((3, 3)))
    limit = between(cost, 0.5)
    curve = [
        float(aows.refreshed(unary, LIVE, cost, limit, p, aows.Schedule()).entropy) for p in (0, 0.4, 0.7, 1)
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


def test_joint_draws_have_the_marginals_stated():
    utility, cost = fields(5)
    draws = aows.narrowed(utility, cost, between(cost, 0.6), 0.5, floor=0.2)
    drawn = np.asarray(jax.jit(aows.jointly)(jax.random.split(jax.random.key(0), 20_000), draws))
    shares = np.stack([np.bincount(layer, minlength=3) for layer in drawn.T]) / 20_000
    np.testing.assert_allclose(shares, draws.probabilities, atol=0.02)


def test_a_live_choice_not_yet_drawn_counts_as_its_layers_best():
    unary = stats.Unary(np.array([[-1.0, -np.inf, 0.5], [0.0, 0.1, -np.inf], [-np.inf] * 3]), np.ones((3, 3)))
    field = aows.warm(unary, LIVE)
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
    from tests.tiny_space import SPACE

    mean = np.where(SPACE.width_table > 0, -0.1, -np.inf)
    mean[1, 2] = value
    unary = stats.Unary(mean, np.ones(mean.shape))
    named = r'the effect of choice 2 of layer 1 is (nan|inf)'
    with pytest.raises(ValueError, match=named):
        ows.to_field(unary, SPACE)
    with pytest.raises(ValueError, match=named):
        aows.warm(unary, SPACE.width_table > 0)
    with pytest.raises(ValueError, match=named):
        aows.refreshed(unary, SPACE.width_table > 0, fields()[1], 1.0, 0.9, aows.Schedule())


def test_draws_from_fields_with_numbers_that_are_none_are_refused():
    utility, cost = fields()
    for field, name in [(utility, 'utility'), (cost, 'cost')]:
        for part in ('unary', 'pairwise'):
            wrong = np.array(getattr(field, part))
            wrong.flat[0] = np.nan
            pair = {'utility': utility, 'cost': cost, name: field._replace(**{part: wrong})}
            if (name, part) == ('utility', 'unary'):
                wrong.flat[0] = np.inf
            with pytest.raises(ValueError, match=f'the field of {name} holds NaN or infinity'):
                aows.narrowed(pair['utility'], pair['cost'], 1.0, 0.5)
    for budget_, floor in [(np.nan, 0.1), (1.0, np.nan), (1.0, 1.5)]:
        with pytest.raises(ValueError, match='need a budget and a floor'):
            aows.narrowed(utility, cost, budget_, 0.5, floor)
