"""The frontier and the explanation of a solution."""

import numpy as np
import pytest

from jcw import budget
from jcw.budget import exact
from jcw.budget.passes import run_pass
from jcw.field import independent, scores
from tests.solver_oracle import RESIDUAL, TREE, best_by_table, random_field, table

ROUNDING = 1e-11


def problem(seed, sites=4, choices=4, scopes=None, **kwargs):
    rng = np.random.default_rng(seed)
    return tuple(random_field(rng, sites, choices, scopes, **kwargs) for _ in range(2))


@pytest.mark.parametrize('scopes', [None, TREE, RESIDUAL])
@pytest.mark.parametrize('integers', [False, True])
def test_every_point_of_the_frontier_is_the_best_of_the_table(integers, scopes):
    utility, cost = problem(1, scopes=scopes, integers=integers)
    curve = budget.frontier(utility, cost, 50)
    _, spent = table(cost)
    budgets = np.linspace(spent.min(), curve.cost[-1], 50)
    np.testing.assert_allclose(curve.utility[-1], table(utility)[1].max())
    for limit, best in zip(budgets, curve.utility, strict=True):
        expected = best_by_table(utility, [cost], [limit * (1 + 1e-12)])[0]
        np.testing.assert_allclose(best, expected, atol=ROUNDING)
    np.testing.assert_allclose(curve.upper_bound, curve.utility, atol=ROUNDING)
    np.testing.assert_allclose(scores(utility, curve.choices), curve.utility, atol=ROUNDING)
    assert (scores(cost, curve.choices) <= budgets).all()
    assert (np.diff(curve.utility) >= 0).all()


def test_budgets_left_over_have_the_same_answers_alone_and_in_a_second_shared_pass(monkeypatch):
    utility, cost = problem(4, sites=14, choices=9)
    shared, curves = exact.TOGETHER // 4, []
    for few in (0, 60):
        sizes = set()

        def counted(utility, costs, limits, *rest, sizes=sizes):
            sizes.add(len(limits))
            return run_pass(utility, costs, limits, *rest)

        monkeypatch.setattr(exact, 'FEW', few)
        monkeypatch.setattr(exact, 'run_pass', counted)
        curves.append(budget.frontier(utility, cost, 60))
        assert (shared in sizes) == (few == 0)
    np.testing.assert_allclose(*(curve.utility for curve in curves))
    for curve in curves:
        np.testing.assert_allclose(curve.upper_bound, curve.utility, atol=ROUNDING)


def test_a_vector_of_budgets_in_any_order_gives_what_each_gives_alone():
    utility, cost = problem(2)
    limits = np.array([4.0, 0.0, 2.5, np.inf, 3.0, 2.5])
    together = budget.solve(utility, cost, limits)
    for i, limit in enumerate(limits):
        alone = budget.solve(utility, cost, limit)
        assert together.feasible[i] == alone.feasible
        np.testing.assert_allclose(together.cost[i], alone.cost)
        np.testing.assert_array_equal(together.utility[i], alone.utility)


def test_a_frontier_needs_two_budgets_and_a_way_through():
    utility, cost = problem(3)
    with pytest.raises(ValueError, match='at least two budgets, got 1'):
        budget.frontier(utility, cost, 1)
    nowhere = utility.replace(tables=np.full_like(utility.tables, -np.inf))
    with pytest.raises(ValueError, match='every configuration is forbidden'):
        budget.frontier(nowhere, cost, 5)


def test_an_explanation_adds_up_and_its_next_change_is_the_best_single_one():
    for seed in range(10):
        utility, cost = problem(seed, scopes=[None, RESIDUAL][seed % 2])
        limit = float(np.quantile(table(cost)[1], 0.3))
        solution = budget.solve(utility, cost, limit)
        why = budget.explain(utility, cost, limit, solution.choices)
        np.testing.assert_allclose([why.utility.sum(), why.cost.sum()], [solution.utility, solution.cost])
        configurations, values = table(utility)
        single = (configurations != solution.choices).sum(1) == 1
        affordable = table(cost)[1] <= limit
        for site in range(4):
            mine = single & affordable & (configurations[:, site] != solution.choices[site])
            expected = values[mine].max(initial=-np.inf) - solution.utility
            np.testing.assert_allclose(why.next_utility[site], expected, atol=ROUNDING)
            if mine.any():
                changed = solution.choices.copy()
                changed[site] = why.next_choice[site]
                moved = [scores(field, changed[None])[0] for field in (utility, cost)]
                np.testing.assert_allclose(moved[0] - solution.utility, expected, atol=ROUNDING)
                np.testing.assert_allclose(moved[1] - solution.cost, why.next_cost[site], atol=ROUNDING)
            else:
                assert why.next_choice[site] == -1
        if (single & affordable).any():
            assert why.next_utility[why.next_site] == why.next_utility.max()
        else:
            assert why.next_site == -1


def test_the_price_is_the_slope_of_the_dual_bound():
    utility, cost = problem(4)
    limit = float(np.quantile(table(cost)[1], 0.3))
    why = budget.explain(utility, cost, limit, budget.solve(utility, cost, limit).choices)
    values, spent = table(utility)[1], table(cost)[1]

    def bound(price):
        return (values - price * spent).max() + price * limit

    best = min(bound(price) for price in np.linspace(0, 10, 20_001))
    np.testing.assert_allclose(bound(why.price), best, rtol=1e-3)


def test_rates_compare_dearer_and_cheaper_choices_of_each_site():
    utility = independent(np.array([[0.0, 1.0, 4.0], [0.0, 2.0, 3.0]]))
    cost = independent(np.array([[1.0, 2.0, 4.0], [1.0, 2.0, 4.0]]))
    why = budget.explain(utility, cost, 4.0, np.array([1, 1]))
    np.testing.assert_allclose(why.gain_per_cost, [1.5, 0.5])
    np.testing.assert_allclose(why.loss_per_cost, [1.0, 2.0])
    np.testing.assert_array_equal(why.next_choice, [0, 0])
    assert why.next_site == 0


def test_an_explanation_refuses_what_is_no_configuration():
    utility, cost = problem(5)
    with pytest.raises(ValueError, match='choices must be 4 below 4'):
        budget.explain(utility, cost, 1.0, np.array([0, 1, 4, 0]))
