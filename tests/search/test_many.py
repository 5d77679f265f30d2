"""Several devices in one call, against brute force."""

import itertools

import numpy as np
import pytest

from jcw.field import Field, chain_scopes, independent, scores
from jcw.search.many import solve_many

SITES, CHOICES = 4, 4
EVERY = np.array(list(itertools.product(range(CHOICES), repeat=SITES)), np.int32)


def field(rng: np.random.Generator) -> Field:
    pairs = rng.random((SITES - 1, CHOICES, CHOICES)).cumsum(1).cumsum(2) / 4
    return Field(rng.random((SITES, CHOICES)).cumsum(1), pairs, chain_scopes(SITES))


def problem(seed: int):
    rng = np.random.default_rng(seed)
    utility = independent(rng.random((SITES, CHOICES)).cumsum(1))
    costs = {name: field(rng) for name in ('phone', 'server', 'camera')}
    budgets = {
        name: float(np.quantile(scores(cost, EVERY), rng.uniform(0.2, 0.8))) for name, cost in costs.items()
    }
    return utility, costs, budgets


@pytest.mark.parametrize('seed', range(5))
def test_each_device_and_all_together_get_their_best_network(seed):
    utility, costs, budgets = problem(seed)
    answer = solve_many(utility, costs, budgets)
    value = scores(utility, EVERY)
    within = {name: scores(cost, EVERY) <= budgets[name] for name, cost in costs.items()}
    for name, solution in answer.each.items():
        assert solution.utility == pytest.approx(value[within[name]].max())
    everywhere = np.all(list(within.values()), 0)
    assert answer.together.feasible == everywhere.any()
    if everywhere.any():
        assert answer.together.utility == pytest.approx(value[everywhere].max())
        assert (np.asarray(answer.together.cost) <= list(budgets.values())).all()
        assert answer.together.utility <= min(s.utility for s in answer.each.values()) + 1e-12


def test_costs_say_what_one_devices_network_takes_on_another():
    utility, costs, budgets = problem(1)
    answer = solve_many(utility, costs, budgets)
    for name, other in itertools.product(costs, repeat=2):
        expected = scores(costs[other], np.asarray(answer.each[name].choices)[None])[0]
        assert answer.costs[name][other] == pytest.approx(expected)
    assert all(answer.costs[name][name] <= budgets[name] for name in costs)


def test_budgets_that_only_one_device_cannot_meet_leave_the_others_their_networks():
    utility, costs, budgets = problem(2)
    answer = solve_many(utility, costs, {**budgets, 'phone': 0.0})
    assert not answer.each['phone'].feasible
    assert answer.each['server'].feasible
    assert not answer.together.feasible


def test_one_device_is_both_its_own_and_the_common_network():
    utility, costs, budgets = problem(3)
    answer = solve_many(utility, {'phone': costs['phone']}, {'phone': budgets['phone']})
    assert answer.together.utility == pytest.approx(answer.each['phone'].utility)


def test_a_device_without_a_budget_is_refused():
    utility, costs, budgets = problem(0)
    budgets.pop('phone')
    with pytest.raises(ValueError, match='need a budget for each cost'):
        solve_many(utility, costs, budgets)
    with pytest.raises(ValueError, match='need a budget'):
        solve_many(utility, {}, {})
