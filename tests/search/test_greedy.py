"""Greedy slimming: each step against all single steps, restart, edges; one-shot fields and their messages."""

import itertools

import numpy as np
import pytest

from jcw.search import greedy, ows, stats
from tests.tiny_space import SPACE

RNG = np.random.default_rng(0)
HARM = RNG.uniform(0.01, 1, SPACE.width_table.shape)
PRICE = RNG.uniform(0.1, 1, SPACE.num_layers)


def loss(choices):
    """Every narrowing of a layer adds its own harm."""
    return float(sum(HARM[layer, choice:last].sum() for layer, (choice, last) in enumerate(_pairs(choices))))


def _pairs(choices):
    return zip(choices, SPACE.num_choices - 1, strict=True)


def cost(choices):
    return float((PRICE * (1 + np.asarray(choices))).sum())


@pytest.mark.parametrize('per_cost', [False, True])
def test_every_step_is_the_least_harmful_single_step(per_cost):
    way = greedy.slim(SPACE, loss, cost, 1.2 * cost(np.zeros(4)), per_cost=per_cost)
    for here, after in itertools.pairwise(way):
        harms = {}
        for layer in np.flatnonzero(here.choices):
            harm = HARM[layer, here.choices[layer] - 1]
            harms[layer] = harm / PRICE[layer] if per_cost else harm
        assert np.argmax(here.choices - after.choices) == min(harms, key=harms.get)
        assert (here.choices - after.choices).sum() == 1
    assert way[-1].cost <= 1.2 * cost(np.zeros(4)) < way[-2].cost


def test_a_way_begun_in_the_middle_ends_where_the_whole_way_ends():
    whole = greedy.slim(SPACE, loss, cost, cost(np.zeros(4)))
    rest = greedy.slim(SPACE, loss, cost, cost(np.zeros(4)), start=whole[3].choices)
    np.testing.assert_array_equal([s.choices for s in rest], [s.choices for s in whole[3:]])


def test_a_budget_above_the_largest_network_needs_no_step():
    assert len(greedy.slim(SPACE, loss, cost, 100.0)) == 1


def test_a_width_slower_than_the_next_wider_one_is_jumped_over():
    def bumpy(choices):
        return cost(choices) + 5 * (choices[0] == 1)

    way = greedy.slim(SPACE, loss, bumpy, bumpy(np.zeros(4)))
    np.testing.assert_array_equal(way[-1].choices, 0)
    assert all(step.choices[0] != 1 for step in way)
    assert all(after.cost < here.cost for here, after in itertools.pairwise(way))


def test_a_device_on_which_the_smallest_network_is_not_the_fastest_is_slimmed_to_its_fastest():
    def cost_with_slow_smallest(choices):
        return cost(choices) + 5 * (choices[3] == 0)

    fastest = cost(np.array([0, 0, 0, 1]))
    way = greedy.slim(SPACE, loss, cost_with_slow_smallest, fastest, start=np.array([1, 1, 1, 0]))
    np.testing.assert_array_equal(way[-1].choices, [0, 0, 0, 1])


def test_an_infeasible_budget_names_the_smallest_cost():
    with pytest.raises(ValueError, match='no change of one layer saves any more'):
        greedy.slim(SPACE, loss, cost, 0.5 * cost(np.zeros(4)))


def test_a_field_keeps_unaries_and_has_no_pairs():
    unary = stats.Unary(np.where(SPACE.width_table > 0, HARM, -np.inf), np.ones(HARM.shape))
    field = ows.to_field(unary, SPACE)
    np.testing.assert_array_equal(field.unary, unary.mean)
    assert not field.scopes


def test_a_layer_never_drawn_and_a_wrong_space_are_named():
    nothing = np.full(HARM.shape, -np.inf)
    with pytest.raises(ValueError, match='no width of layer 0 was ever drawn'):
        ows.to_field(stats.Unary(nothing, -nothing), SPACE)
    with pytest.raises(ValueError, match='do not fit the space'):
        ows.to_field(stats.Unary(HARM[:2], HARM[:2]), SPACE)
