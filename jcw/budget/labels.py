"""Dynamic programming over (choice, cost): partial configurations, pruned by dominance and by bounds.

A label is a partial configuration: its last choice, its costs and its utility. Layer by layer every label is extended
by every choice. An extension is dropped when it cannot meet the budgets, when the bound on its completions does not
beat the best solution known, or when another one with the same last choice costs no more and gains no less. What is
dropped for want of room raises the stated bound instead.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jcw.budget.dual import Completion
from jcw.budget.tables import Tables


class Labels(NamedTuple):
    """A pool of partial configurations that end at one layer; utility -inf marks an empty place."""

    utility: Float[Array, ' labels']
    cost: Float[Array, 'costs labels']
    choice: Int[Array, ' labels']


class Incumbent(NamedTuple):
    """The best completed label so far: label `parent` of the layer before, then `choice`, then a completion."""

    utility: Float[Array, '']
    layer: Int[Array, '']
    parent: Int[Array, '']
    choice: Int[Array, '']
    price: Int[Array, '']  # index of the completion


class Search(NamedTuple):
    """Outcome of one pass.

    Attributes:
      incumbent: best feasible configuration that was completed on the way, [layers].
      known: its utility, or the one given at the start if that was better.
      final: complete configurations that may still beat it, [labels layers].
      utility: their utilities, -inf for empty places.
      dropped: greatest bound among labels dropped for want of room, -inf if none was.
    """

    incumbent: Int[Array, ' layers']
    known: Float[Array, '']
    final: Int[Array, 'labels layers']
    utility: Float[Array, ' labels']
    dropped: Float[Array, '']


def search(
    tables: Tables,
    budget: Float[Array, ' costs'],
    prices: Float[Array, 'prices costs'],
    completions: Completion,
    cheapest: Float[Array, 'costs rows choices'],
    known: Float[Array, ''],
    capacity: int,
    keep_best: int = 1,
) -> Search:
    """Run one pass over the layers with room for `capacity` labels.

    Args:
      tables: gains and spends.
      budget: limit of each cost.
      prices: multipliers whose bounds are used.
      completions: the best way on at each of the prices (leading axis).
      cheapest: least cost of each kind from each choice to the end.
      known: utility of the best solution known, -inf for none.
      capacity: number of labels.
      keep_best: how many best configurations are wanted.
    """
    num_layers, num_choices = tables.gain.shape[:2]
    dtype = tables.gain.dtype
    slack = _rounding(tables.spend, num_layers)
    scale = 1 + jnp.abs(completions.value[:, 0, 0] + prices @ budget).min()
    tolerance = 8 * num_layers * jnp.finfo(dtype).eps * scale
    reference = (completions.value[:, 0, 0] + prices @ budget).min()

    def step(carry, layer):
        labels, known, best, dropped = carry
        index, gain, spend, value, finish_utility, finish_cost, least = layer
        utility = (labels.utility[:, None] + gain[labels.choice]).ravel()  # [labels * choices]
        cost = (labels.cost[:, :, None] + spend[:, labels.choice]).reshape(len(spend), -1)
        choice = jnp.tile(jnp.arange(num_choices, dtype=jnp.int32), capacity)

        priced = value[:, None, :] + (prices @ budget)[:, None, None]
        slackened = (prices @ cost).reshape(len(prices), capacity, num_choices)
        bound = utility + (priced - slackened).min(0).ravel()

        total = cost.reshape(len(spend), 1, capacity, num_choices) + finish_cost[:, :, None, :]
        within = (total <= (budget - slack)[:, None, None, None]).all(0)
        finished = jnp.where(within, finish_utility[:, None, :], -jnp.inf)
        finished = utility + finished.max(0).ravel()
        winner = finished.argmax()
        found = finished[winner]
        way = (
            (jnp.where(within, finish_utility[:, None, :], -jnp.inf))
            .reshape(len(prices), -1)[:, winner]
            .argmax()
        )
        now = Incumbent(found, index, winner // num_choices, choice[winner], way)
        now = Incumbent(*(leaf.astype(old.dtype) for leaf, old in zip(now, best, strict=True)))
        best = jax.tree.map(lambda new, old: jnp.where(found > best.utility, new, old), now, best)
        if keep_best == 1:
            known = jnp.maximum(known, found)
        else:
            _, top = lax.top_k(finished.astype(jnp.float32), keep_best)
            known = jnp.maximum(known, finished[top].min())

        reach = (cost + least[:, choice] <= (budget + slack)[:, None]).all(0)
        margin = tolerance if keep_best == 1 else -tolerance
        keep = reach & (bound > known + margin)
        key, chosen = lax.top_k(
            jnp.where(keep, (bound - reference) / scale, -jnp.inf).astype(jnp.float32), capacity
        )
        full = keep.sum() > capacity
        lost = jnp.nextafter(key[-1], jnp.float32(jnp.inf)).astype(dtype) * scale + reference
        dropped = jnp.where(full, jnp.maximum(dropped, lost), dropped)

        alive = keep[chosen]
        pool = Labels(jnp.where(alive, utility[chosen], -jnp.inf), cost[:, chosen], choice[chosen])
        alive &= ~_dominated(pool, keep_best)
        pool = pool._replace(utility=jnp.where(alive, pool.utility, -jnp.inf))
        parent = (chosen // num_choices).astype(jnp.int32)
        return (pool, known, best, dropped), (parent, pool.choice)

    empty = Labels(
        jnp.full(capacity, -jnp.inf, dtype).at[0].set(0),
        jnp.zeros((len(tables.spend), capacity), dtype),
        jnp.zeros(capacity, jnp.int32),
    )
    zero = jnp.zeros((), jnp.int32)
    start = (
        empty,
        known,
        Incumbent(jnp.asarray(-jnp.inf, dtype), zero, zero, zero, zero),
        jnp.asarray(-jnp.inf, dtype),
    )
    layers = (
        jnp.arange(num_layers, dtype=jnp.int32),
        tables.gain,
        jnp.moveaxis(tables.spend, 1, 0),
        jnp.moveaxis(completions.value, 1, 0)[1:],
        jnp.moveaxis(completions.utility, 1, 0)[1:],
        completions.cost.transpose(2, 1, 0, 3)[1:],
        jnp.moveaxis(cheapest, 1, 0)[1:],
    )
    (pool, known, best, dropped), (parents, choices) = lax.scan(step, start, layers)
    return Search(
        _finish(best, parents, choices, completions.following),
        known,
        _trace(parents, choices, jnp.arange(capacity, dtype=jnp.int32)),
        pool.utility,
        dropped,
    )


def _dominated(labels: Labels, keep_best: int) -> Bool[Array, ' labels']:
    """Find labels to which `keep_best` others with the same choice are at least equal; the first of equals stays."""
    utility, cost, choice = labels
    same = choice[None, :] == choice[:, None]
    no_worse = (utility[None, :] >= utility[:, None]) & (cost[:, None, :] <= cost[:, :, None]).all(0)
    equal = (utility[None, :] == utility[:, None]) & (cost[:, None, :] == cost[:, :, None]).all(0)
    order = jnp.arange(len(choice))
    before = order[None, :] < order[:, None]
    dominates = same & no_worse & (~equal | before)
    return dominates.sum(1) >= keep_best


def _trace(parents, choices, last) -> Int[Array, 'labels layers']:
    """Read whole configurations off the back-pointers."""

    def step(place, layer):
        parent, choice = layer
        return parent[place], choice[place]

    return lax.scan(step, last, (parents, choices), reverse=True)[1].T


def _finish(best: Incumbent, parents, choices, following) -> Int[Array, ' layers']:
    """Read off the prefix of the incumbent's label, its choice, and the completion it was given."""

    def back(place, layer):
        index, parent, choice = layer
        inside = index < best.layer
        return jnp.where(inside, parent[place], place), choice[place]

    def onward(choice, layer):
        index, prefix, follow = layer
        chosen = jnp.where(
            index < best.layer, prefix, jnp.where(index == best.layer, best.choice, follow[choice])
        )
        return chosen, chosen

    indices = jnp.arange(len(parents), dtype=jnp.int32)
    prefix = lax.scan(back, best.parent, (indices, parents, choices), reverse=True)[1]
    return lax.scan(onward, jnp.zeros((), jnp.int32), (indices, prefix, following[best.price]))[1]


def _rounding(spend, num_layers) -> Float[Array, ' costs']:
    """Bound the rounding of a sum of one spend a layer, whatever the order of addition."""
    eps = jnp.finfo(spend.dtype).eps
    return 2 * num_layers * eps * jnp.abs(spend).max((2, 3)).sum(1)
