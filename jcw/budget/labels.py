"""The exact search: grow configurations site by site, and drop those that cannot win.

A *label* is the beginning of a configuration: the choices of the first sites, their cost, their utility, and the
*state*, which is what the sites to come need to know of them. One pass goes over the sites. At each it extends every
label by every choice of that site, and drops a label for one of three reasons:

- *Room in the budget.* Even its cheapest completion exceeds every budget.
- *Bound.* No completion can beat the best configuration known. The bound is Lagrangian: the greatest of
  utility - price x cost over all completions, plus price x budget.
- *Dominance.* Another label in the same state costs no more and gains no less.

None of these loses the optimum. The pool of labels has a fixed size, however. A label that is dropped because the
pool is full might have won, so the greatest bound among such labels is returned: the optimum is at most that.
"""

from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jcw.budget.dual import Completion
from jcw.budget.tables import Tables
from jcw.trellis import Trellis, advance, onward_from


class Problem(NamedTuple):
    """What a pass needs to know, for several budgets at once.

    Attributes:
      tables: gains and spends.
      limits: the budgets.
      prices: prices whose bounds are used.
      ways: the best way on at each of the prices.
      least: least cost of each kind from each state to the end.
    """

    tables: Tables
    limits: Float[Array, 'budgets costs']
    prices: Float[Array, 'prices costs']
    ways: Completion
    least: Float[Array, 'rows *state costs']


class Labels(NamedTuple):
    """The pool before one step: an array per field, a place per label; utility -inf marks an empty place."""

    utility: Float[Array, ' labels']
    cost: Float[Array, 'costs labels']
    state: tuple[Int[Array, ' labels'], ...]  # 0 in free slots


class Incumbent(NamedTuple):
    """The best whole configuration so far, at each budget.

    It is the label at place `parent` of the pool before `step`, completed by the best way on at the price numbered
    `price`.
    """

    utility: Float[Array, ' budgets']
    step: Int[Array, ' budgets']
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

    incumbent: Int[Array, 'budgets sites']
    known: Float[Array, ' budgets']
    final: Int[Array, 'labels sites']
    utility: Float[Array, ' labels']
    dropped: Float[Array, ' budgets']


def search(problem: Problem, known: Float[Array, ' budgets'], capacity: int, wanted: int = 1) -> Search:
    """Run one pass over all sites.

    Args:
      problem: gains, spends, budgets, and the bounds at some prices.
      known: a utility that is reached at each budget, -inf where none is known; labels must be able to beat it.
      capacity: places in the pool.
      wanted: how many of the best configurations are looked for; 1 unless they are enumerated.
    """
    tables, limits, way = problem.tables, problem.limits, problem.tables.way
    dtype = tables.gain.dtype
    slack, tolerance, scale = rounding(problem)

    def step(carry, row):
        labels, known, best, dropped = carry
        index, (gain, spend, slot), held, here, later = row
        best, known = _complete_all(problem, labels, known, best, (index, *here), limits - slack, wanted)
        beaten = jnp.where(jnp.isneginf(known), -2 * scale, known)  # finite, to keep the order among labels
        utility, cost, excess = _extend(problem, labels, beaten, (gain, spend, slot, *later), limits + slack)
        keep = excess > (tolerance if wanted == 1 else -tolerance)
        key, chosen = lax.top_k(jnp.where(keep, excess / scale, -jnp.inf).astype(jnp.float32), capacity)
        lost = beaten + scale * jnp.nextafter(key[-1], jnp.float32(jnp.inf)).astype(dtype)
        dropped = jnp.where(keep.sum() > capacity, jnp.maximum(dropped, lost), dropped)
        parent, choice = chosen % capacity, (chosen // capacity).astype(jnp.int32)
        state = advance(tuple(place[parent] for place in labels.state), choice, slot)
        state = tuple(
            jnp.where(held[at], place, 0) if at in freed else place for at, place in enumerate(state)
        )
        pool = Labels(utility[chosen], cost[:, chosen], state)
        alive = keep[chosen] & ~_dominated(pool, wanted)
        pool = pool._replace(utility=jnp.where(alive, pool.utility, -jnp.inf))
        return (pool, known, best, dropped), (parent, choice)

    ways, held = problem.ways, np.array(way.held[1:]) >= 0
    freed = {
        at for at in range(way.num_slots) if not held[:-1, at].all()
    }  # a slot once free holds 0 meanwhile
    none = jnp.full(len(limits), -jnp.inf, dtype)
    zeros = jnp.zeros(len(limits), jnp.int32)
    empty = Labels(
        jnp.full(capacity, -jnp.inf, dtype).at[0].set(0),
        jnp.zeros((limits.shape[1], capacity), dtype),
        (jnp.zeros(capacity, jnp.int32),) * way.num_slots,
    )
    rows = (
        jnp.arange(len(way.order), dtype=jnp.int32),
        tables.rows,
        held,
        (ways.utility[:-1], ways.cost[:-1]),
        (ways.value[1:], problem.least[1:]),
    )
    start = (empty, known, Incumbent(none, zeros, zeros, zeros), none)
    (pool, known, best, dropped), (parents, choices) = lax.scan(step, start, rows)
    places = jnp.arange(capacity, dtype=jnp.int32)
    final = jax.vmap(lambda place: _trace(place, parents, choices))(places)
    incumbent = jax.vmap(lambda one: _finish(way, one, parents, choices, ways.following))(best)
    return Search(incumbent[:, way.position], known, final[:, way.position], pool.utility, dropped)


def rounding(problem: Problem) -> tuple[Float[Array, ' costs'], Float[Array, ''], Float[Array, '']]:
    """Return how far rounding may move a cost and a bound, whatever the order of additions, and the size of bounds."""
    tables, prices = problem.tables, problem.prices
    steps, slots = len(tables.gain), tables.way.num_slots
    eps = 2 * (slots + 1) * steps * jnp.finfo(tables.gain.dtype).eps
    gains = (
        jnp.where(jnp.isneginf(tables.gain), 0, jnp.abs(tables.gain)).max(tuple(range(1, slots + 2))).sum()
    )
    costs = tables.greatest
    scale = gains + (prices @ costs).max()
    return eps * costs, eps * scale, jnp.where(scale > 0, scale, 1)


def _complete_all(problem, labels, known, best, row, limits, wanted):
    """Complete every label by the best way on at every price; keep what is within a budget and better than known."""
    index, utility, cost = row
    reached = labels.utility[:, None] + utility[labels.state]  # [labels prices]
    total = labels.cost + cost[(slice(None), *labels.state)].transpose(2, 0, 1)  # [prices costs labels]

    def within(total):
        return (total <= limits[:, :, None]).all(1)  # [budgets labels]

    value = jnp.full((len(limits), len(labels.utility)), -jnp.inf, labels.utility.dtype)
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


def _extend(problem, labels, beaten, row, limits):
    """Extend every label by every choice; return utilities, costs, and by how much each may still beat what is known.

    Where that is not positive at any budget, the label cannot win; -inf where it cannot meet one.
    """
    gain, spend, slot, value, least = row
    utility = labels.utility + gain[(slice(None), *labels.state)]  # [choices labels]
    cost = labels.cost[:, None, :] + spend[(slice(None), slice(None), *labels.state)]
    value, least = (
        onward_from(table, labels.state, slot, problem.tables.way.kinds) for table in (value, least)
    )
    needed = cost + jnp.moveaxis(least, -1, 0)
    priced = [
        utility - sum(paid * price for paid, price in zip(cost, prices, strict=True)) + value[..., index]
        for index, prices in enumerate(problem.prices)
    ]
    groups = max(1, len(limits) // 4)
    # Neighbouring budgets share a bound, which is looser and never wrong:
    # max_b min_p (value_p + p . limit_b - beaten_b) <= min_p (value_p + credit_p), credit_p the greatest over b.
    credit = (limits @ problem.prices.T - beaten[:, None]).reshape(groups, -1, len(priced)).max(1)
    furthest = limits.reshape(groups, -1, limits.shape[1]).max(1)

    excess = jnp.full(utility.shape, -jnp.inf, utility.dtype)
    for limit, credits in zip(furthest, credit, strict=True):
        bound = reduce(jnp.minimum, (value + one for value, one in zip(priced, credits, strict=True)))
        within = (needed <= limit[:, None, None]).all(0)
        excess = jnp.maximum(excess, jnp.where(within, bound, -jnp.inf))
    return utility.ravel(), cost.reshape(len(cost), -1), excess.ravel()


def _dominated(labels: Labels, wanted: int) -> Bool[Array, ' labels']:
    """Find labels that `wanted` others with the same state equal or better; the first of equals stays."""
    utility, cost, state = labels
    same = reduce(jnp.logical_and, (place[None, :] == place[:, None] for place in state))
    no_worse = (utility[None, :] >= utility[:, None]) & (cost[:, None, :] <= cost[:, :, None]).all(0)
    equal = (utility[None, :] == utility[:, None]) & (cost[:, None, :] == cost[:, :, None]).all(0)
    order = jnp.arange(len(utility))
    before = order[None, :] < order[:, None]
    return (same & no_worse & (~equal | before)).sum(1) >= wanted


def _trace(place, parents, choices) -> Int[Array, ' steps']:
    """Read the configuration of a place in the last pool off the back-pointers."""

    def back(place, row):
        parent, choice = row
        return parent[place], choice[place]

    return lax.scan(back, place, (parents, choices), reverse=True)[1]


def _finish(way: Trellis, best: Incumbent, parents, choices, following) -> Int[Array, ' steps']:
    """Read off the incumbent's label and the way on it was given."""

    def back(place, row):
        index, parent, choice = row
        return jnp.where(index < best.step, parent[place], place), choice[place]

    def forth(state, row):
        index, chosen, follow, slot = row
        choice = jnp.where(index < best.step, chosen, follow[(*state, best.price)])
        return advance(state, choice, slot), choice

    indices = jnp.arange(len(parents), dtype=jnp.int32)
    prefix = lax.scan(back, best.parent, (indices, parents, choices), reverse=True)[1]
    return lax.scan(forth, way.start, (indices, prefix, following, way.slots))[1]
