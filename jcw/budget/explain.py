"""What drives a solution: where its utility and cost are, what a unit of cost buys, what would be next."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jcw.budget.checks import check_shapes
from jcw.budget.dual import best_price
from jcw.budget.tables import tabulate
from jcw.field import Field, scores, to_host


class Explanation(NamedTuple):
    """A solution taken apart. Sites' parts sum to the whole; a table's potential belongs to the later of its sites.

    Attributes:
      utility: utility of each site.
      cost: cost of each site, in the unit of `cost` (milliseconds).
      price: utility per unit of cost at this budget: the Lagrange multiplier of the budget.
      gain_per_cost: for each site, the most utility per unit of cost that a dearer choice of it alone would
        add; 0 where none does.
      loss_per_cost: for each site, the least utility per unit of cost that a cheaper choice of it alone would
        give up; inf where there is none.
      next_choice: for each site, its best other choice within the budget, all else equal; -1 for none.
      next_utility: what that changes in utility, -inf where there is none.
      next_cost: what it changes in cost.
      next_site: the site whose change is the next best of all, -1 where there is none.
    """

    utility: Float[np.ndarray, ' sites']
    cost: Float[np.ndarray, ' sites']
    price: float
    gain_per_cost: Float[np.ndarray, ' sites']
    loss_per_cost: Float[np.ndarray, ' sites']
    next_choice: Int[np.ndarray, ' sites']
    next_utility: Float[np.ndarray, ' sites']
    next_cost: Float[np.ndarray, ' sites']
    next_site: int


def explain(
    utility: Field,
    cost: Field,
    budget: float,
    choices: Int[np.ndarray, ' sites'],
    *,
    beside: Sequence[Field] = (),
    most: Sequence[float] = (),
) -> Explanation:
    """Say what drives a solution of `solve(utility, cost, budget)`, and what would be next within further budgets, too.

    Raises:
      ValueError: shapes do not fit, or the configuration is not one.
    """
    check_shapes(utility, (cost, *beside))
    utility, cost = to_host(utility), to_host(cost)
    choices = np.asarray(choices)
    if (
        choices.shape != utility.unary.shape[:1]
        or (choices < 0).any()
        or (choices >= utility.unary.shape[1]).any()
    ):
        raise ValueError(
            f'choices must be {len(utility.unary)} below {utility.unary.shape[1]}, got {choices}'
        )
    gained, spent = _parts(utility, choices), _parts(cost, choices)
    change, dearer = _changes(utility, choices, -np.inf), _changes(cost, choices, np.inf)
    with np.errstate(divide='ignore', invalid='ignore'):
        rate = change / dearer
    affordable = (spent.sum() + dearer <= budget) & (change > -np.inf)
    for other, limit in zip(map(to_host, beside), most, strict=True):
        affordable &= scores(other, choices[None]) + _changes(other, choices, np.inf) <= limit
    affordable[np.arange(len(choices)), choices] = False
    value = np.where(affordable, change, -np.inf)
    following = value.argmax(1)
    sites = np.arange(len(choices))
    best = value[sites, following]
    return Explanation(
        gained,
        spent,
        _price(utility, cost, budget),
        np.where((dearer > 0) & (change > 0), rate, 0).max(1),
        np.where((dearer < 0) & (change > -np.inf), np.maximum(rate, 0), np.inf).min(1),
        np.where(best > -np.inf, following, -1),
        best,
        np.where(best > -np.inf, dearer[sites, following], 0),
        int(best.argmax()) if best.max() > -np.inf else -1,
    )


def _parts(field: Field, choices: Int[np.ndarray, ' sites']) -> Float[np.ndarray, ' sites']:
    parts = np.asarray(field.unary[np.arange(len(choices)), choices])
    for (i, j), table in zip(field.scopes, field.tables, strict=True):
        parts[max(i, j)] += table[choices[i], choices[j]]
    return parts


def _changes(
    field: Field, choices: Int[np.ndarray, ' sites'], absent: float
) -> Float[np.ndarray, 'sites choices']:
    """Return what replacing one site's choice changes in the whole, or `absent` where it cannot be."""
    sites, options = np.arange(len(choices)), np.arange(field.unary.shape[1])
    neighbours = np.broadcast_to(choices, (len(sites), len(options), len(choices))).copy()
    neighbours[sites, :, sites] = options
    values = scores(field, neighbours.reshape(-1, len(choices))).reshape(len(sites), len(options))
    return np.where(np.isfinite(values), values, absent) - scores(field, choices[None])


def _price(utility: Field, cost: Field, budget: float) -> float:
    with jax.enable_x64(True):
        return float(_best_price(utility, cost, budget)[0])


@jax.jit
def _best_price(utility: Field, cost: Field, budget: Array) -> Float[Array, ' costs']:
    tables = tabulate(utility, (cost,))
    return best_price(tables, jnp.minimum(budget, 2 * tables.greatest))
