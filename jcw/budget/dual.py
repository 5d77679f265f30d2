"""Lagrangian relaxation: a price on each cost makes the budgeted problem an ordinary decode, and bounds it.

For any prices `price >= 0`,

    max {utility(x) : cost(x) <= budget}  <=  max_x utility(x) - price . cost(x) + price . budget,

and the least right-hand side over prices is the dual bound (Everett, 1963; Fisher, 1981). Many prices are
decoded at once, prices on the last axis and choices in a loop, which keeps the arithmetic in vector registers.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jcw.budget.tables import Tables
from jcw.trellis import onward_at


class Completion(NamedTuple):
    """The best way on from each state at each price.

    Row `t` is the way from a state before step `t` through that step and all later ones; the last row is nothing.
    Nothing is remembered before the first step, so the states of row 0 are all alike.

    Attributes:
      value: greatest `utility - price . cost` of all later steps, -inf where there is no way on.
      utility: its utility.
      cost: its costs.
      following: the step's choice in it.
    """

    value: Float[Array, 'rows *state prices']
    utility: Float[Array, 'rows *state prices']
    cost: Float[Array, 'rows costs *state prices']
    following: Int[Array, 'steps *state prices']


def complete(tables: Tables, prices: Float[Array, 'prices costs']) -> Completion:
    """Decode backwards at each of the prices."""
    num_costs, (num_choices, *state) = len(tables.spend), tables.gain.shape[1:]
    kinds, dtype = tables.way.kinds, tables.gain.dtype
    nothing = jnp.zeros((*state, len(prices)), dtype)
    none_spent = jnp.zeros((num_costs, *state, len(prices)), dtype)
    unreached = (nothing - jnp.inf, nothing - jnp.inf, none_spent, nothing.astype(jnp.int32))

    def step(later, row):
        gain, spend, slot = row
        value, utility, cost = later

        def through(choice, best):
            def on(table):
                return onward_at(table, choice, slot, kinds)

            gained, paid = gain[choice, ..., None], spend[:, choice, ..., None]
            total = gained - _priced(paid, prices) + on(value)
            better = total > best[0]
            way = (total, gained + on(utility), paid + jax.vmap(on)(cost), choice)
            return jax.tree.map(lambda new, old: jnp.where(better, new, old).astype(old.dtype), way, best)

        best = lax.fori_loop(0, num_choices, through, unreached)
        return best[:3], best

    _, (value, utility, cost, following) = lax.scan(
        step, (nothing, nothing, none_spent), tables.rows, reverse=True
    )
    value, utility, cost = (
        jnp.concatenate([table, jnp.zeros_like(table[:1])]) for table in (value, utility, cost)
    )
    return Completion(value, utility, cost, following)


def dual_values(tables: Tables, prices: Float[Array, 'prices costs']) -> Float[Array, ' prices']:
    """Return `max_x utility(x) - price . cost(x)` for each of the prices."""
    num_choices, *state = tables.gain.shape[1:]
    nothing = jnp.zeros((*state, len(prices)), tables.gain.dtype)

    def step(value, row):
        gain, spend, slot = row

        def through(choice, best):
            paid = _priced(spend[:, choice, ..., None], prices)
            total = gain[choice, ..., None] - paid + onward_at(value, choice, slot, tables.way.kinds)
            return jnp.maximum(best, total)

        return lax.fori_loop(0, num_choices, through, nothing - jnp.inf), None

    return lax.scan(step, nothing, tables.rows, reverse=True)[0][tables.way.start]


def best_price(tables: Tables, budget: Float[Array, ' costs'], points: int = 64) -> Float[Array, ' costs']:
    """Minimise the dual bound by sweeps over clouds of prices, each narrower and around the best of the last.

    A cloud is in the logarithm of the price, in units of utility range over cost range: units do not matter.
    """
    num_costs = len(tables.spend)
    shrink = min(0.6, 4 * points ** (-1 / num_costs))
    radii = 12 * shrink ** np.arange(math.ceil(math.log(3e-4) / math.log(shrink)))
    cloud = jnp.asarray(even_points(points, num_costs), tables.gain.dtype)

    def sweep(centre, radius):
        prices = jnp.exp(centre + radius * cloud)
        bound = dual_values(tables, prices) + prices @ budget
        return jnp.log(prices[bound.argmin()]), None

    ranges = jax.vmap(lambda spend: _range(tables, spend))(tables.spend)
    start = jnp.log(_range(tables, tables.gain) / ranges)
    return jnp.exp(lax.scan(sweep, start, jnp.asarray(radii, start.dtype))[0])


def price_cloud(ends: Float[Array, 'ends costs'], points: int) -> Float[Array, 'prices costs']:
    """Spread prices between and around those of two budgets, with both ends and zero among them."""
    high = jnp.log(ends.max(0))
    low = jnp.maximum(jnp.log(ends.min(0)), high - 4)
    centre, radius = (high + low) / 2, (high - low) / 2 + 1
    cube = jnp.asarray(even_points(points - 3, ends.shape[1]), ends.dtype)
    cloud = jnp.exp(centre + radius * cube + 2 * cube**3)  # denser near the centre
    return jnp.concatenate([jnp.zeros_like(ends[:1]), ends, cloud])


def even_points(points: int, dimensions: int) -> Float[np.ndarray, 'points dimensions']:
    """Place points evenly in the cube [-1, 1]^dimensions (Roberts, 2018); the first is its centre."""
    root = 2.0
    for _ in range(32):
        root = (1 + root) ** (1 / (dimensions + 1))
    steps = root ** -np.arange(1.0, dimensions + 1)
    return 2 * ((0.5 + np.arange(points)[:, None] * steps) % 1) - 1


def _priced(spend, prices):
    """Weigh the costs on the first axis by prices, [costs ... 1] -> [... prices]."""
    return sum(paid * price for paid, price in zip(spend, prices.T, strict=True))


def _range(tables: Tables, table: Float[Array, 'steps choices *state']) -> Float[Array, '']:
    """Sum over steps the range of a table's allowed entries; 1 where there is none."""
    allowed = ~jnp.isneginf(tables.gain)
    within = tuple(range(1, table.ndim))
    most = jnp.where(allowed, table, -jnp.inf).max(within)
    least = jnp.where(allowed, table, jnp.inf).min(within)
    total = (most - least).sum()
    return jnp.where(jnp.isfinite(total) & (total > 0), total, 1)
