"""Lagrangian relaxation: a price on each cost turns the budgeted problem into an ordinary decode, and bounds it.

For multipliers `price >= 0`,

    max {utility(x) : cost(x) <= budget}  <=  max_x utility(x) - price . cost(x) + price . budget,

and the least right-hand side over prices is the dual bound (Everett, 1963; Fisher, 1981).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jcw.budget.tables import Tables


class Completion(NamedTuple):
    """The best way on from each choice at given prices; row `l` is what follows layer `l`, row `layers` is nothing.

    Row 0 belongs to the virtual choice before the first layer, so its entries are all alike.

    Attributes:
      value: best `utility - price . cost` of all later layers, [layers+1 choices].
      utility: its utility, [layers+1 choices].
      cost: its costs, [costs layers+1 choices].
      following: the next layer's choice in it, [layers choices].
    """

    value: Float[Array, 'rows choices']
    utility: Float[Array, 'rows choices']
    cost: Float[Array, 'costs rows choices']
    following: Int[Array, 'layers choices']


def complete(
    tables: Tables, price: Float[Array, ' costs'], weight: float | Float[Array, ''] = 1.0
) -> Completion:
    """Decode backwards at one vector of prices; `weight` 0 leaves cost alone to be minimised."""
    gain = jnp.where(jnp.isneginf(tables.gain), -jnp.inf, weight * tables.gain)
    nothing = jnp.zeros_like(tables.gain[0, 0])
    none_spent = jnp.zeros_like(tables.spend[:, 0, 0])

    def step(carry, layer):
        value, utility, cost = carry
        priced, gain, spend = layer
        total = priced + value[None, :]
        following = total.argmax(1)
        rows = jnp.arange(total.shape[0])
        carry = (
            total.max(1),
            gain[rows, following] + utility[following],
            spend[:, rows, following] + cost[:, following],
        )
        return carry, (*carry, following.astype(jnp.int32))

    priced = gain - jnp.tensordot(price, tables.spend, 1)
    start = (nothing, nothing, none_spent)
    layers = (priced, tables.gain, jnp.moveaxis(tables.spend, 1, 0))
    _, (value, utility, cost, following) = lax.scan(step, start, layers, reverse=True)
    return Completion(
        jnp.concatenate([value, nothing[None]]),
        jnp.concatenate([utility, nothing[None]]),
        jnp.moveaxis(jnp.concatenate([cost, none_spent[None]]), 1, 0),
        following,
    )


def dual_value(tables: Tables, price: Float[Array, ' costs']) -> Float[Array, '']:
    """Return `max_x utility(x) - price . cost(x)`."""

    def step(value, priced):
        return (priced + value[None, :]).max(1), None

    priced = tables.gain - jnp.tensordot(price, tables.spend, 1)
    return lax.scan(step, jnp.zeros_like(tables.gain[0, 0]), priced, reverse=True)[0][0]


def best_price(tables: Tables, budget: Float[Array, ' costs']) -> Float[Array, ' costs']:
    """Minimise the dual bound by sweeps over a cloud of prices, each narrower than the last and around its best."""
    costs = tables.spend.shape[0]
    cloud = jnp.asarray(_spread(64, costs), tables.gain.dtype)
    shrink = 4 * len(cloud) ** (-1 / costs)
    radii = 12.0 * shrink ** np.arange(5 * costs)

    def sweep(centre, radius):
        prices = jnp.exp(centre + radius * cloud)
        bound = jax.vmap(lambda price: dual_value(tables, price) + price @ budget)(prices)
        return jnp.log(prices[bound.argmin()]), None

    start = jnp.log(_range(tables, tables.gain) / jax.vmap(lambda s: _range(tables, s))(tables.spend))
    centre, _ = lax.scan(sweep, start, jnp.asarray(radii, tables.gain.dtype))
    return jnp.exp(centre)


def price_cloud(price: Float[Array, ' costs'], points: int) -> Float[Array, 'prices costs']:
    """Spread prices around the best one, itself and zero among them, for the bounds of partial configurations."""
    factors = np.exp(1.0 * _spread(points - 2, len(price)))
    return jnp.concatenate(
        [jnp.zeros_like(price)[None], price[None], price * jnp.asarray(factors, price.dtype)]
    )


def _range(tables: Tables, table: Float[Array, 'layers choices choices']) -> Float[Array, '']:
    """Sum over layers the range of a table's allowed entries; 1 where there is none."""
    allowed = ~jnp.isneginf(tables.gain)
    most = jnp.where(allowed, table, -jnp.inf).max((1, 2))
    least = jnp.where(allowed, table, jnp.inf).min((1, 2))
    total = (most - least).sum()
    return jnp.where(jnp.isfinite(total) & (total > 0), total, 1)


def _spread(points: int, dimensions: int) -> np.ndarray:
    """Place points evenly in the cube [-1, 1]^dimensions, none twice in any coordinate (Roberts, 2018)."""
    root = 2.0
    for _ in range(32):
        root = (1 + root) ** (1 / (dimensions + 1))
    steps = root ** -np.arange(1.0, dimensions + 1)
    return 2 * ((0.5 + np.arange(1, points + 1)[:, None] * steps) % 1) - 1
