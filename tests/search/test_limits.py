"""Limits beside the budget, held by the search, its repair and every baseline: against enumeration."""

import itertools

import jax
import numpy as np
import pytest

from jcw import budget, constraints
from jcw.field import Field, add, independent, scores
from jcw.search import baselines, greedy, ows
from jcw.search.limits import Limits, none
from jcw.search.many import solve_many
from jcw.search.repair import Repair
from jcw.search.rounds import together
from tests.tiny_graph import chain

LAYERS = [('conv', 16, 3, 1), *[('separable', width, 3, 1) for width in (32, 32, 48)]]
GRAPH = chain(LAYERS, (8, 8, 3), 5, levels=5, divisor=4)
EVERY = np.array(list(itertools.product(*(range(n) for n in GRAPH.num_choices))))
WIDTHS = GRAPH.to_widths(EVERY)
RNG = np.random.default_rng(0)
RISE = 1 + RNG.random((3, GRAPH.num_sites))
COSTS = [independent(np.where(GRAPH.present, rise[:, None] * GRAPH.width_table, -np.inf)) for rise in RISE]
COST, PHONE, PARAMETERS = COSTS
GAIN = independent(np.where(GRAPH.present, np.sqrt(GRAPH.width_table) * RNG.random((4, 1)), -np.inf))


def middle(cost: Field, share: float = 0.6) -> float:
    return float(np.quantile(scores(cost, EVERY), share))


@pytest.fixture
def limits() -> Limits:
    allowed = constraints.multiples_of(GRAPH.width_table, GRAPH.num_choices, 8)
    most = {'phone': middle(PHONE, 0.5), 'parameters': middle(PARAMETERS, 0.55)}
    costs = {'phone': PHONE, 'parameters': PARAMETERS}
    return Limits(add(ows.flat(GRAPH), allowed), costs, most)


def within(limits: Limits, limit: float, choices: np.ndarray) -> np.ndarray:
    widths = GRAPH.to_widths(choices)
    held = (widths % 8 == 0).all(1) & (scores(COST, choices) <= limit)
    for name, cost in limits.costs.items():
        held &= scores(cost, choices) <= limits.most[name]
    return held


def test_shares_say_exactly_who_is_within_all_limits(limits):
    shares = limits.shares(COST, middle(COST), EVERY)
    np.testing.assert_array_equal(shares <= 1, within(limits, middle(COST), EVERY))
    assert (shares <= 1).any()
    assert (shares > 1).any()


def test_the_search_finds_the_best_of_all_within(limits):
    limit = middle(COST)
    found = limits.solve(GAIN, COST, limit)
    best = scores(GAIN, EVERY)[within(limits, limit, EVERY)].max()
    assert found.utility == pytest.approx(best)
    assert found.upper_bound == pytest.approx(best)


def test_every_baseline_keeps_to_the_limits(limits):
    limit = middle(COST)
    key = jax.random.key(0)

    def loss(choices):
        return float(-scores(GAIN, np.asarray(choices)[None])[0])

    def cost(choices):
        return limit * float(limits.shares(COST, limit, np.asarray(choices)[None])[0])

    found = {
        'uniform': baselines.uniform(GRAPH, COST, limit, limits),
        'random': baselines.random_search(key, GRAPH, loss, COST, limit, 5, limits),
        'proxy': baselines.by_proxy(GRAPH, GAIN, PARAMETERS, COST, limit, limits),
        'greedy': greedy.slim(GRAPH, loss, cost, limit, present=limits.present)[-1].choices,
    }
    for name, choices in found.items():
        assert within(limits, limit, np.asarray(choices)[None])[0], name
    drawn = baselines.random_within(key, GRAPH, COST, limit, 5, limits)
    shares = limits.shares(COST, limit, drawn)
    assert ((shares >= baselines.NEAR) & (shares <= 1)).all()


def test_uniform_takes_the_nearest_widths_that_are_allowed(limits):
    found = baselines.uniform(GRAPH, COST, 1e9, limits._replace(costs={}, most={}))
    assert (GRAPH.to_widths(found) % 8 == 0).all()
    assert scores(COST, found[None])[0] > middle(COST, 0.9)


def test_a_slower_device_is_repaired_within_limits_known_from_tables_alone(limits):
    limit = middle(COST)

    def measure(widths):
        return 1.1 * scores(COST, GRAPH.to_choices(widths)), np.full(len(widths), 1e-4)

    found = together({'joint': Repair(GRAPH, GAIN, COST, limit, limits=limits)}, measure, 8)['joint']
    assert found.feasible
    held = within(limits, limit / 1.1, EVERY)
    assert found.utility == pytest.approx(scores(GAIN, EVERY)[held].max())
    for timed in found.rounds:
        assert within(limits, np.inf, GRAPH.to_choices(timed.widths)).all()


def test_where_all_are_too_slow_the_fastest_within_the_other_limits_is_timed(limits):
    repair = Repair(GRAPH, GAIN, COST, 1e-3, limits=limits)
    (asked,) = repair.ask()
    held = EVERY[within(limits, np.inf, EVERY)]
    assert scores(COST, GRAPH.to_choices([asked]))[0] == scores(COST, held).min()


def test_each_devices_network_keeps_what_is_counted(limits):
    own = limits._replace(costs={'parameters': PARAMETERS}, most={'parameters': limits.most['parameters']})
    budgets = {'here': middle(COST), 'phone': limits.most['phone']}
    found = solve_many(GAIN, {'here': COST, 'phone': PHONE}, budgets, limits=own)
    together = limits.solve(GAIN, COST, middle(COST))
    assert found.together.utility == pytest.approx(float(together.utility))
    for name, cost in (('here', COST), ('phone', PHONE)):
        best = own.solve(GAIN, cost, budgets[name])
        assert found.each[name].utility == pytest.approx(float(best.utility))
        assert found.each[name].cost == pytest.approx(found.costs[name][name])


def test_a_frontier_keeps_further_budgets_and_begins_at_the_least_cost_within_them(limits):
    beside, most = tuple(limits.costs.values()), tuple(limits.most.values())
    found = budget.frontier(limits.utility(GAIN), COST, 6, beside=beside, most=most)
    held = within(limits, np.inf, EVERY)
    assert found.cost[0] == pytest.approx(scores(COST, EVERY[held]).min())
    assert found.utility[-1] == pytest.approx(scores(GAIN, EVERY[held]).max())
    assert within(limits, np.inf, found.choices).all()


def test_what_would_be_next_is_within_further_budgets(limits):
    limit = middle(COST)
    found = limits.solve(GAIN, COST, limit)
    beside, most = tuple(limits.costs.values()), tuple(limits.most.values())
    why = budget.explain(limits.utility(GAIN), COST, limit, found.choices, beside=beside, most=most)
    for site, choice in enumerate(why.next_choice):
        changed = np.array(found.choices)
        changed[site] = choice
        assert choice < 0 or within(limits, limit, changed[None])[0]


def test_nothing_within_further_budgets_is_an_answer():
    found = budget.cheapest(GAIN, COST, beside=(PHONE,), most=(1e-3,))
    assert not found.feasible
    assert found.cost == np.inf
    assert none(GRAPH).solve(GAIN, COST, 1e9).feasible
