"""The exact solve: against the table of all configurations, against HiGHS, its properties, edges and messages."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jcw import budget
from jcw.field import independent, scores
from jcw.recursions import max_sum
from tests.solver_oracle import (
    RESIDUAL,
    TREE,
    best_by_highs,
    best_by_table,
    random_field,
    random_scopes,
    table,
)

ROUNDING = 1e-11
seeds = st.integers(0, 2**32 - 1)


def scaled(field, factor):
    return jax.tree.map(lambda leaf: leaf * factor, field)


def problem(seed, sites=4, choices=3, scopes=None, **kwargs):
    """A utility, a cost, and a budget between the cheapest and the dearest configuration."""
    rng = np.random.default_rng(seed)
    utility, cost = (random_field(rng, sites, choices, scopes, **kwargs) for _ in range(2))
    low, high = -max_sum(scaled(cost, -1))[0], max_sum(cost)[0]
    return utility, cost, float(low + rng.uniform(0.05, 0.95) * (high - low))


def cost_of(cost, solution):
    return scores(cost, solution.choices[None])[0]


def assert_optimal(solution, utility, cost, limit, best):
    assert solution.feasible
    assert cost_of(cost, solution) <= limit
    np.testing.assert_allclose(solution.utility, best, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(scores(utility, solution.choices[None])[0], best, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(solution.upper_bound, solution.utility, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize('integers', [False, True])
@pytest.mark.parametrize(
    ('sites', 'choices', 'scopes'),
    [
        *[(1, 1, None), (1, 5, None), (4, 1, None), (2, 2, None), (3, 4, None), (5, 3, None)],
        *[(3, 3, ()), (4, 3, TREE), (4, 1, RESIDUAL), (4, 3, RESIDUAL), (5, 3, (*RESIDUAL, (4, 3)))],
    ],
)
def test_solve_is_the_best_of_the_table_at_every_budget(sites, choices, scopes, integers):
    utility, cost, _ = problem(sites, sites, choices, scopes, integers=integers)
    reachable = np.unique(table(cost)[1])
    for limit in [*reachable[:: max(1, len(reachable) // 8)] * (1 + 1e-12), reachable[-1] + 1, np.inf]:
        best = best_by_table(utility, [cost], [limit])[0]
        assert_optimal(budget.solve(utility, cost, limit), utility, cost, limit, best)


@pytest.mark.parametrize('first', range(0, 300, 50))
def test_solve_agrees_with_highs_on_hundreds_of_problems(first):
    for seed in range(first, first + 50):
        utility, cost, limit = problem(seed, 5, 4, pairs=seed % 3 > 0)
        choices = best_by_highs(utility, [cost], [limit])
        assert scores(cost, choices[None])[0] <= limit  # or HiGHS used its tolerance
        assert_optimal(
            budget.solve(utility, cost, limit), utility, cost, limit, scores(utility, choices[None])[0]
        )


@pytest.mark.parametrize('graph', range(12))
def test_solve_agrees_with_highs_on_random_graphs_of_different_scopes(graph):
    rng = np.random.default_rng(graph)
    scopes = random_scopes(rng, 6, extra=graph % 3)
    parts = scopes[::2] if graph % 2 else scopes
    for seed in range(20):
        _, cost, limit = problem(seed, 6, 3, scopes)
        utility = random_field(rng, 6, 3, parts)
        choices = best_by_highs(utility, [cost], [limit])
        assert scores(cost, choices[None])[0] <= limit
        best = scores(utility, choices[None])[0]
        assert_optimal(budget.solve(utility, cost, limit), utility, cost, limit, best)


@pytest.mark.slow
def test_solve_agrees_with_highs_at_the_size_of_a_network():
    for seed in range(10):
        utility, cost, limit = problem(seed, 14, 14, pairs=False)
        choices = best_by_highs(utility, [cost], [limit])
        assert scores(cost, choices[None])[0] <= limit
        assert_optimal(
            budget.solve(utility, cost, limit), utility, cost, limit, scores(utility, choices[None])[0]
        )


graphs = st.sampled_from([None, TREE, RESIDUAL])


@given(seeds, graphs)
@settings(max_examples=40, deadline=None)
def test_solutions_are_feasible_in_float64_and_proven(seed, scopes):
    utility, cost, limit = problem(seed, scopes=scopes)
    single = [jax.tree.map(np.float32, field) for field in (utility, cost)]
    solution = budget.solve(*single, limit)
    widened = [jax.tree.map(np.float64, field) for field in single]
    assert_optimal(solution, *widened, limit, best_by_table(widened[0], [widened[1]], [limit])[0])


@given(seeds, graphs)
@settings(max_examples=20, deadline=None)
def test_a_greater_budget_is_never_worse(seed, scopes):
    utility, cost, limit = problem(seed, scopes=scopes)
    better = budget.solve(utility, cost, limit * np.array([1, 1.01, 1.1, 1.5, 3])).utility
    assert (np.diff(better) >= 0).all()


@given(seeds, st.floats(-1e3, 1e3), st.floats(0, 1e3))
@settings(max_examples=20, deadline=None)
def test_constants_change_nothing(seed, gift, charge):
    utility, cost, limit = problem(seed, pairs=False)
    plain = budget.solve(utility, cost, limit)
    gifted = utility.replace(unary=utility.unary + gift)
    charged = cost.replace(unary=cost.unary + charge)
    moved = budget.solve(gifted, charged, limit + charge * len(cost.unary))
    np.testing.assert_array_equal(moved.choices, plain.choices)
    np.testing.assert_allclose(moved.utility, plain.utility + gift * len(cost.unary), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('unit', [1e-9, 1e-3, 1e6])
def test_units_do_not_matter(unit):
    for seed in range(10):
        utility, cost, limit = problem(seed, 5, 4)
        plain = budget.solve(utility, cost, limit)
        for powers in ((1, 0), (0, 1), (1, -1)):
            a, b = (unit**power for power in powers)
            other = budget.solve(scaled(utility, a), scaled(cost, b), limit * b)
            np.testing.assert_array_equal(other.choices, plain.choices)
            np.testing.assert_allclose(other.upper_bound, other.utility, rtol=ROUNDING, atol=0)


def test_an_infeasible_budget_is_an_answer_with_the_smallest_reachable_cost():
    utility, cost, _ = problem(3)
    smallest = table(cost)[1].min()
    solution = budget.solve(utility, cost, smallest * 0.999)
    assert not solution.feasible
    assert solution.utility == solution.upper_bound == -np.inf
    np.testing.assert_allclose([solution.cost, cost_of(cost, solution)], smallest)
    assert budget.solve(utility, cost, smallest * (1 + 1e-12)).feasible


def test_absent_choices_are_not_taken_and_their_costs_ignored():
    utility, cost, limit = problem(4)
    utility.unary[1, 2] = utility.unary[3, 0] = -np.inf
    dear = scaled(cost, 1)
    dear.unary[1, 2], dear.unary[3, 0], dear.tables[0, :, 2] = 1e9, 1e9, 1e9
    cost.unary[1, 2] = cost.unary[3, 0] = cost.tables[0, 0, 2] = np.nan
    best = best_by_table(utility, [dear], [limit])[0]
    assert_optimal(budget.solve(utility, cost, limit), utility, cost, limit, best)


def test_forbidden_pairs_and_infinite_costs_are_avoided():
    utility, cost, _ = problem(6)
    utility.tables[1, :, 2] = -np.inf
    cost.tables[0, 1, 1] = np.inf
    choices = budget.solve(utility, cost, np.inf).choices
    assert choices[2] != 2
    assert tuple(choices[:2]) != (1, 1)
    utility.tables[2] = -np.inf
    nowhere = budget.solve(utility, cost, np.inf)
    assert not nowhere.feasible
    assert nowhere.cost == np.inf


def test_zero_costs_and_equal_utilities_are_solved():
    utility, cost, _ = problem(7)
    free = scaled(cost, 0)
    assert_optimal(budget.solve(utility, free, 0.0), utility, free, 0.0, table(utility)[1].max())
    flat = scaled(utility, 0)
    limit = table(cost)[1].min() * 1.2
    assert_optimal(budget.solve(flat, cost, limit), flat, cost, limit, 0.0)


def test_a_budget_met_exactly_is_met():
    for seed in range(20):
        utility, cost, _ = problem(seed, integers=True)
        limit = float(np.median(table(cost)[1]).round())
        assert_optimal(
            budget.solve(utility, cost, limit),
            utility,
            cost,
            limit,
            best_by_table(utility, [cost], [limit])[0],
        )
        below = np.nextafter(limit, 0)
        best = best_by_table(utility, [cost], [below])[0]
        assert_optimal(budget.solve(utility, cost, below), utility, cost, below, best)


def test_a_limit_on_labels_leaves_bounds_that_are_true():
    loose = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        unary = rng.random((5, 4)) + 0.5
        utility, cost = independent(unary), random_field(rng, 5, 4, pairs=False).replace(unary=unary)
        limit = float(unary.mean(1).sum())
        solution = budget.solve(utility, cost, limit, max_labels=2)
        best = best_by_table(utility, [cost], [limit])[0]
        assert cost_of(cost, solution) <= limit
        assert solution.utility <= best + ROUNDING
        assert best <= solution.upper_bound + ROUNDING
        loose += solution.upper_bound > solution.utility + ROUNDING
    assert loose  # the limit did stop some of them


@pytest.mark.parametrize('scopes', [(None, None), (TREE, None), (RESIDUAL, ())])
def test_two_budgets_are_solved_exactly_also_of_different_scopes(scopes):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        utility, *costs = (
            random_field(rng, 4, 3, graph, integers=seed % 2 == 0) for graph in (None, *scopes)
        )
        limits = [np.quantile(table(cost)[1], rng.uniform(0.1, 0.6)) + 1e-9 for cost in costs]
        solution, best = budget.solve(utility, costs, limits), best_by_table(utility, costs, limits)
        assert solution.feasible == (len(best) > 0)
        if len(best):
            assert_optimal(solution, utility, costs[0], limits[0], best[0])
            assert (solution.cost <= limits).all()


def test_three_costs_agree_with_highs():
    for seed in range(10):
        rng = np.random.default_rng(seed)
        utility, *costs = (random_field(rng, 4, 3) for _ in range(4))
        limits = [np.quantile(table(cost)[1], 0.5) for cost in costs]
        choices = best_by_highs(utility, costs, limits)
        best = scores(utility, choices[None])[0]
        assert_optimal(budget.solve(utility, costs, limits), utility, costs[2], limits[2], best)


@pytest.mark.parametrize('scopes', [None, TREE, RESIDUAL])
def test_k_best_lists_different_configurations_in_order(scopes):
    for seed in range(10):
        utility, cost, limit = problem(seed, scopes=scopes, integers=seed % 2 == 0)
        expected = best_by_table(utility, [cost], [limit])[:6]
        ranked = budget.k_best(utility, cost, limit, 6)
        assert ranked.feasible.sum() == len(expected)
        np.testing.assert_allclose(ranked.utility[ranked.feasible], expected, atol=ROUNDING)
        np.testing.assert_allclose(ranked.upper_bound[ranked.feasible], expected, atol=ROUNDING)
        assert (ranked.cost[ranked.feasible] <= limit).all()
        assert len(np.unique(ranked.choices[ranked.feasible], axis=0)) == len(expected)


@pytest.mark.parametrize(
    ('scopes', 'gap'), [(None, 1e-3), ((*RESIDUAL, (4, 3)), 1e-2)]
)  # more states, same labels
def test_under_jit_and_vmap_it_agrees_with_the_host_and_does_not_recompile(scopes, gap):
    traces = []

    @jax.jit
    @jax.vmap
    def together(utility, cost, limit):
        traces.append(1)
        return budget.solve(utility, cost, limit)

    for first in (0, 8):
        problems = [problem(seed, 5, 4, scopes) for seed in range(first, first + 8)]
        utilities, costs = (
            jax.tree.map(lambda *leaves: np.stack(leaves).astype(np.float32), *fields)
            for fields in list(zip(*problems, strict=True))[:2]
        )
        limits = np.array([limit for *_, limit in problems], np.float32)
        answers = together(utilities, costs, limits)
        for i in range(8):
            utility, cost = (jax.tree.map(lambda leaf, i=i: leaf[i], field) for field in (utilities, costs))
            alone = budget.solve(utility, cost, float(limits[i]))
            assert answers.feasible[i]
            assert cost_of(jax.tree.map(np.float64, cost), alone) <= limits[i]
            np.testing.assert_allclose(answers.utility[i], alone.utility, rtol=1e-5)
            assert alone.utility <= answers.upper_bound[i] <= alone.utility + gap
    assert len(traces) == 1


CLIQUE = tuple(itertools.combinations(range(4), 2))


def bad(part, entry, value, of='cost'):
    fields = dict(zip(('utility', 'cost'), problem(0)[:2], strict=True))
    getattr(fields[of], part)[entry] = value
    return fields['utility'], fields['cost'], 5.0


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (bad('unary', (2, 1), np.nan), r'cost.unary\[2, 1\] is NaN'),
        (bad('unary', (2, 1), -np.inf), r'cost.unary\[2, 1\] is -inf'),
        (bad('tables', (0, 1, 2), np.nan), r'cost.tables\[0, 1, 2\] is NaN'),
        (bad('tables', (0, 1, 2), np.nan, of='utility'), r'utility.tables\[0, 1, 2\] is NaN'),
        (bad('unary', (0, 1), np.inf, of='utility'), r'utility.unary\[0, 1\] is \+inf'),
        (bad('unary', 3, -np.inf, of='utility'), 'site 3 has no choice'),
        ((*problem(0)[:2], -1.0), 'budget must be zero or more, got -1'),
        ((*problem(0)[:2], [1.0, np.nan]), r'budget\[1\] must be zero or more, got nan'),
        ((problem(0)[0], [problem(0)[1]] * 2, 1.0), '2 costs need 2 budgets'),
        ((problem(0)[0], problem(0, sites=3)[1], 1.0), r'cost.unary has shape \(3, 3\) but utility.unary'),
        (
            (problem(0)[0], problem(0)[1].replace(tables=np.zeros((4, 3, 3))), 1.0),
            r'cost.tables must have shape \(3, 3, 3\)',
        ),
        (
            (problem(0)[0].replace(scopes=((0, 1), (1, 2), (2, 4))), problem(0)[1], 1.0),
            r'from 0 to 3, got \(2, 4\)',
        ),
        ((*problem(0)[:2], []), 'need at least one budget, got an empty array'),
        ((problem(0)[0], [], []), 'need at least one cost'),
        (
            (scaled(problem(0)[0], 1j), problem(0)[1], 1.0),
            'utility.unary must hold real numbers, got complex',
        ),
        (
            (random_field(np.random.default_rng(0), 4, 2, CLIQUE), independent(np.ones((4, 2))), 1.0),
            '2 sites remembered',
        ),
    ],
)
def test_bad_input_is_refused_with_the_entry_that_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        budget.solve(*arguments)


@pytest.mark.parametrize('max_labels', [0, -1, 10**6])
def test_room_for_no_label_and_for_too_many_is_refused(max_labels):
    with pytest.raises(ValueError, match=f'max_labels must be from 1 to 16384, got {max_labels}'):
        budget.solve(*problem(0), max_labels=max_labels)


@pytest.mark.parametrize('k', [0, 10**6])
def test_none_and_too_many_of_the_best_are_refused(k):
    with pytest.raises(ValueError, match=f'k must be from 1 to 4096, got {k}'):
        budget.k_best(*problem(0), k)
