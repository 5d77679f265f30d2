"""What drives a solution: where its utility and cost are, what a unit of cost buys, what would be next."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from jcw.budget.checks import check_shapes
from jcw.budget.dual import best_price
from jcw.budget.tables import evaluate, tabulate
from jcw.mrf import ChainMRF


class Explanation(NamedTuple):
    """A solution taken apart; layers' parts sum to the whole, a pair's potential belongs to the later layer.

    Attributes:
      utility: utility of each layer.
      cost: cost of each layer, in the unit of `cost` (milliseconds).
      price: utility per unit of cost at this budget: the Lagrange multiplier of the budget.
      gain_per_cost: for each layer, the most utility per unit of cost that a dearer choice of it alone would
        add; 0 where none does.
      loss_per_cost: for each layer, the least utility per unit of cost that a cheaper choice of it alone would
        give up; inf where there is none.
      next_choice: for each layer, its best other choice within the budget, all else equal; -1 for none.
      next_utility: what that changes in utility, -inf where there is none.
      next_cost: what it changes in cost.
      next_layer: the layer whose change is the next best of all, -1 where there is none.
    """

    utility: Float[np.ndarray, ' layers']
    cost: Float[np.ndarray, ' layers']
    price: float
    gain_per_cost: Float[np.ndarray, ' layers']
    loss_per_cost: Float[np.ndarray, ' layers']
    next_choice: Int[np.ndarray, ' layers']
    next_utility: Float[np.ndarray, ' layers']
    next_cost: Float[np.ndarray, ' layers']
    next_layer: int


def explain(
    utility: ChainMRF, cost: ChainMRF, budget: float, choices: Int[np.ndarray, ' layers']
) -> Explanation:
    """Say what drives a solution of `solve(utility, cost, budget)`.

    Raises:
      ValueError: shapes do not fit, or the configuration is not one.
    """
    check_shapes(utility, (cost,))
    utility, cost = (ChainMRF(*(np.asarray(leaf, np.float64) for leaf in field)) for field in (utility, cost))
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
    affordable[np.arange(len(choices)), choices] = False
    value = np.where(affordable, change, -np.inf)
    following = value.argmax(1)
    layers = np.arange(len(choices))
    best = value[layers, following]
    return Explanation(
        gained,
        spent,
        _price(utility, cost, budget),
        np.where((dearer > 0) & (change > 0), rate, 0).max(1),
        np.where((dearer < 0) & (change > -np.inf), np.maximum(rate, 0), np.inf).min(1),
        np.where(best > -np.inf, following, -1),
        best,
        np.where(best > -np.inf, dearer[layers, following], 0),
        int(best.argmax()) if best.max() > -np.inf else -1,
    )


def _parts(field: ChainMRF, choices: Int[np.ndarray, ' layers']) -> Float[np.ndarray, ' layers']:
    layers = np.arange(len(choices))
    parts = np.asarray(field.unary[layers, choices])
    parts[1:] += field.pairwise[layers[:-1], choices[:-1], choices[1:]]
    return parts


def _changes(
    field: ChainMRF, choices: Int[np.ndarray, ' layers'], absent: float
) -> Float[np.ndarray, 'layers choices']:
    """Return what replacing one layer's choice changes in the whole, or `absent` where it cannot be."""
    layers, options = np.arange(len(choices)), np.arange(field.unary.shape[1])
    neighbours = np.broadcast_to(choices, (len(layers), len(options), len(choices))).copy()
    neighbours[layers, :, layers] = options
    values = evaluate(field, neighbours.reshape(-1, len(choices))).reshape(len(layers), len(options))
    return np.where(np.isfinite(values), values, absent) - evaluate(field, choices[None])


def _price(utility: ChainMRF, cost: ChainMRF, budget: float) -> float:
    with jax.enable_x64(True):
        tables = tabulate(utility, (cost,))
        limit = np.minimum(budget, 2 * np.maximum(tables.spend, 0).max((2, 3)).sum(1))
        price = jax.jit(best_price)(tables, limit)
    return float(price[0])
