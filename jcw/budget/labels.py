"""Dynamic programming over (choice, cost): partial configurations, pruned by dominance and by bounds.

A label is a partial configuration: its last choice, its costs and its utility. Layer by layer every label is
extended by every choice. An extension is dropped when it cannot meet any budget, when the Lagrangian bound on
its completions beats the best solution known at no budget, or when another one with the same last choice costs
no more and gains no less. What is dropped for want of room raises the stated bound instead.
"""

from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jcw.budget.dual import Completion
from jcw.budget.tables import Tables


class Problem(NamedTuple):
    """What a pass needs to know, for several budgets at once.

    Attributes:
      tables: gains and spends.
      limits: the budgets.
      prices: prices whose bounds are used.
      ways: the best way on at each of the prices.
      least: least cost of each kind from each choice to the end.
    """

    tables: Tables
    limits: Float[Array, 'budgets costs']
    prices: Float[Array, 'prices costs']
    ways: Completion
    least: Float[Array, 'rows choices costs']


class Labels(NamedTuple):
    """A pool of partial configurations that end at one layer; utility -inf marks an empty place."""

    utility: Float[Array, ' labels']
    cost: Float[Array, 'costs labels']
    choice: Int[Array, ' labels']


class Incumbent(NamedTuple):
    """The best completed label at each budget: place `parent` in the pool before `layer`, then way `price`."""

    utility: Float[Array, ' budgets']
    layer: Int[Array, ' budgets']
    parent: Int[Array, ' budgets']
    price: Int[Array, ' budgets']


class Search(NamedTuple):
    """Outcome of one pass.

    Attributes:
      incumbent: feasible configuration that was completed on the way, at each budget.
      known: its utility, or the one given at the start where that is greater.
      final: complete configurations that may be better still.
      utility: their utilities, -inf for empty places.
      dropped: greatest bound among labels dropped for want of room, -inf if none was.
    """

    incumbent: Int[Array, 'budgets layers']
    known: Float[Array, ' budgets']
    final: Int[Array, 'labels layers']
    utility: Float[Array, ' labels']
    dropped: Float[Array, ' budgets']


def search(problem: Problem, known: Float[Array, ' budgets'], capacity: int, wanted: int = 1) -> Search:
    """Run one pass over the layers, with room for `capacity` labels, for the `wanted` best configurations."""
    tables, limits = problem.tables, problem.limits
    dtype = tables.gain.dtype
    slack, tolerance, scale = rounding(problem)

    def step(carry, layer):
        labels, known, best, dropped = carry
        index, gain, spend, here, onward, least = layer
        best, known = _complete_all(problem, labels, known, best, (index, *here), limits - slack, wanted)
        beaten = jnp.where(jnp.isneginf(known), -2 * scale, known)  # finite, to keep the order among labels
        longer, excess = _extend(problem, labels, beaten, (gain, spend, onward, least), limits + slack)
        keep = excess > (tolerance if wanted == 1 else -tolerance)
        key, chosen = lax.top_k(jnp.where(keep, excess / scale, -jnp.inf).astype(jnp.float32), capacity)
        lost = beaten + scale * jnp.nextafter(key[-1], jnp.float32(jnp.inf)).astype(dtype)
        dropped = jnp.where(keep.sum() > capacity, jnp.maximum(dropped, lost), dropped)
        pool = Labels(longer.utility[chosen], longer.cost[:, chosen], longer.choice[chosen])
        alive = keep[chosen] & ~_dominated(pool, wanted)
        pool = pool._replace(utility=jnp.where(alive, pool.utility, -jnp.inf))
        return (pool, known, best, dropped), (chosen % capacity, pool.choice)

    ways = problem.ways
    none = jnp.full(len(limits), -jnp.inf, dtype)
    zeros = jnp.zeros(len(limits), jnp.int32)
    empty = Labels(
        jnp.full(capacity, -jnp.inf, dtype).at[0].set(0),
        jnp.zeros((limits.shape[1], capacity), dtype),
        jnp.zeros(capacity, jnp.int32),
    )
    layers = (
        jnp.arange(len(tables.gain), dtype=jnp.int32),
        tables.gain,
        jnp.moveaxis(tables.spend, 1, 0),
        (ways.utility[:-1], ways.cost[:-1]),
        ways.value[1:],
        problem.least[1:],
    )
    start = (empty, known, Incumbent(none, zeros, zeros, zeros), none)
    (pool, known, best, dropped), (parents, choices) = lax.scan(step, start, layers)
    places = jnp.arange(capacity, dtype=jnp.int32)
    final = jax.vmap(lambda place: _trace(place, parents, choices))(places)
    incumbent = jax.vmap(lambda one: _finish(one, parents, choices, ways.following))(best)
    return Search(incumbent, known, final, pool.utility, dropped)


def rounding(problem: Problem) -> tuple[Float[Array, ' costs'], Float[Array, ''], Float[Array, '']]:
    """Bound the rounding in any order of addition: of a cost, of a bound; and give the scale of bounds."""
    tables, prices = problem.tables, problem.prices
    eps = 4 * len(tables.gain) * jnp.finfo(tables.gain.dtype).eps
    gains = jnp.where(jnp.isneginf(tables.gain), 0, jnp.abs(tables.gain)).max((1, 2)).sum()
    costs = jnp.abs(tables.spend).max((2, 3)).sum(1)
    scale = gains + (prices @ costs).max()
    return eps * costs, eps * scale, jnp.where(scale > 0, scale, 1)


def _complete_all(problem, labels, known, best, row, limits, wanted):
    """Complete every label at every price and keep what is feasible and better than the incumbents."""
    index, utility, cost = row
    reached = labels.utility[:, None] + utility[labels.choice]  # [labels prices]
    total = labels.cost + cost[:, labels.choice].transpose(2, 0, 1)  # [prices costs labels]

    def within(total):
        return (total <= limits[:, :, None]).all(1)  # [budgets labels]

    value = jnp.full((len(limits), len(labels.choice)), -jnp.inf, labels.utility.dtype)
    for price in range(len(problem.prices)):
        value = jnp.maximum(value, jnp.where(within(total[price]), reached[:, price], -jnp.inf))
    place = value.argmax(1).astype(jnp.int32)
    fits = (total[:, :, place] <= limits.T).all(1)  # [prices budgets]
    way = jnp.where(fits, reached[place].T, -jnp.inf).argmax(0).astype(jnp.int32)
    found = Incumbent(value.max(1), jnp.full_like(place, index), place, way)
    better = found.utility > best.utility
    best = jax.tree.map(lambda new, old: jnp.where(better, new, old), found, best)
    if wanted == 1:
        return best, jnp.maximum(known, found.utility)
    # Completions of different labels differ: the least of `wanted` of them is met by as many configurations.
    _, top = lax.top_k(value.astype(jnp.float32), wanted)
    return best, jnp.maximum(known, jnp.take_along_axis(value, top, 1).min(1))


def _extend(problem, labels, beaten, layer, limits):
    """Extend every label by every choice; say by how much each may yet beat what is known at some budget."""
    gain, spend, onward, least = layer
    utility = labels.utility + gain.T[:, labels.choice]  # [choices labels]
    cost = labels.cost[:, None, :] + spend.transpose(0, 2, 1)[:, :, labels.choice]
    needed = cost + least.T[:, :, None]
    priced = [
        utility - sum(paid * price for paid, price in zip(cost, prices, strict=True)) + onward[:, index, None]
        for index, prices in enumerate(problem.prices)
    ]
    groups = max(1, len(limits) // 4)
    # Of neighbouring budgets, max_b min_p (value_p + p . limit_b - beaten_b) <= min_p (value_p + credit_p).
    credit = (limits @ problem.prices.T - beaten[:, None]).reshape(groups, -1, len(priced)).max(1)
    furthest = limits.reshape(groups, -1, limits.shape[1]).max(1)

    excess = jnp.full(utility.shape, -jnp.inf, utility.dtype)
    for limit, credits in zip(furthest, credit, strict=True):
        bound = reduce(jnp.minimum, (value + one for value, one in zip(priced, credits, strict=True)))
        within = (needed <= limit[:, None, None]).all(0)
        excess = jnp.maximum(excess, jnp.where(within, bound, -jnp.inf))
    choice = jnp.broadcast_to(jnp.arange(len(gain), dtype=jnp.int32)[:, None], utility.shape)
    return Labels(utility.ravel(), cost.reshape(len(cost), -1), choice.ravel()), excess.ravel()


def _dominated(labels: Labels, wanted: int) -> Bool[Array, ' labels']:
    """Find labels that `wanted` others with the same choice equal or better; the first of equals stays."""
    utility, cost, choice = labels
    same = choice[None, :] == choice[:, None]
    no_worse = (utility[None, :] >= utility[:, None]) & (cost[:, None, :] <= cost[:, :, None]).all(0)
    equal = (utility[None, :] == utility[:, None]) & (cost[:, None, :] == cost[:, :, None]).all(0)
    order = jnp.arange(len(choice))
    before = order[None, :] < order[:, None]
    return (same & no_worse & (~equal | before)).sum(1) >= wanted


def _trace(place, parents, choices) -> Int[Array, ' layers']:
    """Read the configuration of a place in the last pool off the back-pointers."""

    def back(place, layer):
        parent, choice = layer
        return parent[place], choice[place]

    return lax.scan(back, place, (parents, choices), reverse=True)[1]


def _finish(best: Incumbent, parents, choices, following) -> Int[Array, ' layers']:
    """Read off the incumbent's label and the way on it was given."""

    def back(place, layer):
        index, parent, choice = layer
        return jnp.where(index < best.layer, parent[place], place), choice[place]

    def onward(choice, layer):
        index, chosen, follow = layer
        choice = jnp.where(index < best.layer, chosen, follow[choice, best.price])
        return choice, choice

    indices = jnp.arange(len(parents), dtype=jnp.int32)
    prefix = lax.scan(back, best.parent, (indices, parents, choices), reverse=True)[1]
    return lax.scan(onward, jnp.zeros((), jnp.int32), (indices, prefix, following))[1]
