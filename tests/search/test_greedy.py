"""Greedy slimming: each step against all single steps, restart, edges; one-shot fields and their messages."""

import itertools
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from jcw.field import scores
from jcw.search import greedy, ows, stats
from tests.tiny_graph import GRAPH, RESIDUAL

RNG = np.random.default_rng(0)
HARM = RNG.uniform(0.01, 1, GRAPH.width_table.shape)
PRICE = RNG.uniform(0.1, 1, GRAPH.num_sites)


def loss(choices):
    """Every narrowing of a site adds its own harm."""
    return float(sum(HARM[site, choice:last].sum() for site, (choice, last) in enumerate(_pairs(choices))))


def _pairs(choices):
    return zip(choices, GRAPH.num_choices - 1, strict=True)


def cost(choices):
    return float((PRICE * (1 + np.asarray(choices))).sum())


@pytest.mark.parametrize('per_cost', [False, True])
def test_every_step_is_the_least_harmful_single_step(per_cost):
    way = greedy.slim(GRAPH, loss, cost, 1.2 * cost(np.zeros(4)), per_cost=per_cost)
    for here, after in itertools.pairwise(way):
        harms = {}
        for site in np.flatnonzero(here.choices):
            harm = HARM[site, here.choices[site] - 1]
            harms[site] = harm / PRICE[site] if per_cost else harm
        assert np.argmax(here.choices - after.choices) == min(harms, key=harms.get)
        assert (here.choices - after.choices).sum() == 1
    assert way[-1].cost <= 1.2 * cost(np.zeros(4)) < way[-2].cost


def test_losses_that_several_threads_compute_at_once_lead_the_same_way():
    def late(choices):
        time.sleep(0.001 * float(np.sum(choices)))  # the first asked answers last
        return loss(choices)

    alone = greedy.slim(GRAPH, loss, cost, cost(np.zeros(4)))
    with ThreadPoolExecutor(4) as pool:
        at_once = greedy.slim(GRAPH, late, cost, cost(np.zeros(4)), over=pool.map)
    assert [step.loss for step in at_once] == [step.loss for step in alone]
    np.testing.assert_array_equal([s.choices for s in at_once], [s.choices for s in alone])


def test_a_way_begun_in_the_middle_ends_where_the_whole_way_ends():
    whole = greedy.slim(GRAPH, loss, cost, cost(np.zeros(4)))
    rest = greedy.slim(GRAPH, loss, cost, cost(np.zeros(4)), start=whole[3].choices)
    np.testing.assert_array_equal([s.choices for s in rest], [s.choices for s in whole[3:]])


def test_a_budget_above_the_largest_network_needs_no_step():
    assert len(greedy.slim(GRAPH, loss, cost, 100.0)) == 1


def test_a_width_slower_than_the_next_wider_one_is_jumped_over():
    def bumpy(choices):
        return cost(choices) + 5 * (choices[0] == 1)

    way = greedy.slim(GRAPH, loss, bumpy, bumpy(np.zeros(4)))
    np.testing.assert_array_equal(way[-1].choices, 0)
    assert all(step.choices[0] != 1 for step in way)
    assert all(after.cost < here.cost for here, after in itertools.pairwise(way))


def test_a_device_on_which_the_smallest_network_is_not_the_fastest_is_slimmed_to_its_fastest():
    def cost_with_slow_smallest(choices):
        return cost(choices) + 5 * (choices[3] == 0)

    fastest = cost(np.array([0, 0, 0, 1]))
    way = greedy.slim(GRAPH, loss, cost_with_slow_smallest, fastest, start=np.array([1, 1, 1, 0]))
    np.testing.assert_array_equal(way[-1].choices, [0, 0, 0, 1])


def test_an_infeasible_budget_names_the_smallest_cost():
    with pytest.raises(ValueError, match='no change of one site saves any more'):
        greedy.slim(GRAPH, loss, cost, 0.5 * cost(np.zeros(4)))


def test_a_field_keeps_unaries_and_has_no_pairs():
    unary = stats.Unary(np.where(GRAPH.width_table > 0, HARM, -np.inf), np.ones(HARM.shape))
    field = ows.to_field(unary, GRAPH)
    np.testing.assert_array_equal(field.unary, unary.mean)
    assert not field.scopes


def test_that_a_block_is_dropped_counts_once_and_all_its_sites_agree():
    graph = RESIDUAL
    mean = np.where(graph.present, np.random.default_rng(1).random(graph.present.shape), -np.inf)
    field = ows.to_field(stats.Unary(mean, np.ones(mean.shape)), graph)
    whole = graph.num_choices - 1
    first, second = (graph.site_index[name] for name in ('first', 'second'))
    dropped, torn = whole.copy(), whole.copy()
    dropped[[first, second]] = torn[first] = 0
    values = scores(field, np.stack([whole, dropped, torn]))
    gone = mean[first, whole[first]] + mean[second, whole[second]] - mean[first, 0]
    np.testing.assert_allclose(values[0] - values[1], gone, rtol=1e-12)
    assert np.isneginf(values[2])


def test_a_block_is_dropped_in_one_step():
    graph = RESIDUAL
    way = greedy.slim(
        graph,
        lambda choices: -float(np.sum(choices)),
        lambda choices: float(1 + np.sum(choices)),
        1.0,
        per_cost=False,
    )
    np.testing.assert_array_equal(way[-1].choices, 0)
    for step in way:
        np.testing.assert_array_equal(graph.settled(step.choices), step.choices)
        assert step.cost == 1 + step.choices.sum()


def test_a_site_never_drawn_and_a_wrong_graph_are_named():
    nothing = np.full(HARM.shape, -np.inf)
    with pytest.raises(ValueError, match="no width of site 'stem' was ever drawn"):
        ows.to_field(stats.Unary(nothing, -nothing), GRAPH)
    with pytest.raises(ValueError, match='do not fit the graph'):
        ows.to_field(stats.Unary(HARM[:2], HARM[:2]), GRAPH)
