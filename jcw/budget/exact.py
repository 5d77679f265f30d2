"""The best configuration within budgets, with its proof."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jcw.budget.checks import check_budget, check_shapes, check_values
from jcw.budget.dual import best_price, complete, price_cloud
from jcw.budget.labels import Search, search
from jcw.budget.tables import tabulate
from jcw.mrf import ChainMRF

Budget = (
    Float[Array, '...'] | Float[np.ndarray, '...'] | Int[np.ndarray, '...'] | Sequence[float] | float | int
)
CAPACITIES = (64, 64, 512, 512, 4096, 4096)


class Solution(NamedTuple):
    """Best configuration found and what is proven of it; vectors of budgets or k best add a leading axis.

    Attributes:
      choices: the configuration, [layers].
      utility: its utility, in float64; -inf where infeasible.
      cost: its cost, in float64; [costs] when several costs were given. Where no configuration meets the budget,
        `choices` and `cost` are those of the cheapest: its cost is the smallest reachable.
      upper_bound: no configuration within the budget has a greater utility; -inf where infeasible.
      feasible: whether the budget can be met.
    """

    choices: Int[np.ndarray, '... layers']
    utility: Float[np.ndarray, '...']
    cost: Float[np.ndarray, '...']
    upper_bound: Float[np.ndarray, '...']
    feasible: Bool[np.ndarray, '...']


def solve(utility: ChainMRF, cost: ChainMRF | Sequence[ChainMRF], budget: Budget) -> Solution:
    """Find `max utility(x)` over configurations with `cost(x) <= budget`, and prove it.

    Utility -inf in `unary` marks absent choices, whose costs are ignored. With a sequence of costs, `budget` holds
    one limit for each on its last axis; with one cost it may be a vector of budgets. An infeasible budget is an
    answer, not an error: `feasible` is False and `cost` is the smallest reachable.

    Raises:
      ValueError: shapes do not fit, an entry is NaN or of the wrong infinity, or a budget is NaN or negative.
    """
    several = not isinstance(cost, ChainMRF)
    utility, costs, budget = _prepare(utility, cost, budget)
    batch = budget.shape[:-1]
    answers = [_solve_one(utility, costs, limit, 1) for limit in budget.reshape(-1, len(costs))]
    stacked = Solution(
        *(np.stack(leaf)[:, 0].reshape((*batch, *leaf[0].shape[1:])) for leaf in zip(*answers, strict=True))
    )
    return stacked if several else stacked._replace(cost=stacked.cost[..., 0])


def k_best(utility: ChainMRF, cost: ChainMRF | Sequence[ChainMRF], budget: Budget, k: int) -> Solution:
    """Find the k best configurations within a budget, best first; fewer when there are fewer (`feasible` False)."""
    several = not isinstance(cost, ChainMRF)
    utility, costs, budget = _prepare(utility, cost, budget)
    answer = _solve_one(utility, costs, budget.reshape(-1), k)
    return answer if several else answer._replace(cost=answer.cost[..., 0])


def _prepare(utility, cost, budget) -> tuple[ChainMRF, tuple[ChainMRF, ...], np.ndarray]:
    several = not isinstance(cost, ChainMRF)
    costs = tuple(cost) if several else (cost,)
    check_shapes(utility, costs)
    utility, *rest = (
        ChainMRF(*(np.asarray(leaf, np.float64) for leaf in field)) for field in (utility, *costs)
    )
    check_values(utility, tuple(rest))
    budget = np.asarray(budget, np.float64)
    check_budget(budget, len(costs), several)
    return utility, tuple(rest), budget if several else budget[..., None]


def _solve_one(utility: ChainMRF, costs: tuple[ChainMRF, ...], budget: np.ndarray, k: int) -> Solution:
    known, bound = -np.inf, np.inf
    pool = np.zeros((0, utility.unary.shape[0]), np.int32)
    with jax.enable_x64(True):
        for capacity in CAPACITIES:
            found, cheapest, dual = jax.device_get(_pass(utility, costs, budget, known, capacity, k))
            pool = np.concatenate([pool, found.incumbent[None], found.final])
            known = max(known, float(found.known))
            if np.isneginf(found.dropped):
                bound = -np.inf
                break
            bound = min(bound, float(found.dropped), float(dual))
    pool = np.unique(np.concatenate([pool, cheapest[None]]), axis=0)
    values = evaluate(utility, pool)
    spent = np.stack([evaluate(cost, pool) for cost in costs], -1)
    values = np.where((spent <= budget).all(-1), values, -np.inf)
    order = np.lexsort((spent.sum(-1), -values))[:k]
    if len(order) < k:
        order = np.concatenate([order, np.full(k - len(order), order[-1])])
        values[order[-1]] = -np.inf
    feasible = values[order] > -np.inf
    order = np.where(feasible, order, (pool == cheapest).all(1).argmax())
    upper = np.where(feasible, np.maximum(values[order], bound), -np.inf)
    return Solution(
        pool[order].astype(np.int32),
        np.where(feasible, values[order], -np.inf),
        spent[order],
        upper,
        feasible,
    )


@partial(jax.jit, static_argnames=('capacity', 'k'))
def _pass(utility, costs, budget, known, capacity: int, k: int) -> tuple[Search, Array, Array]:
    tables = tabulate(utility, costs)
    ceiling = jnp.maximum(tables.spend, 0).max((2, 3)).sum(1)
    budget = jnp.minimum(budget, ceiling)
    prices = price_cloud(best_price(tables, budget), 16)
    completions = jax.vmap(lambda price: complete(tables, price))(prices)
    units = jnp.eye(len(costs), dtype=tables.gain.dtype)
    cheapest = jax.vmap(lambda unit: complete(tables, unit, 0.0))(units)
    found = search(tables, budget, prices, completions, -cheapest.value, known, capacity, k)
    dual = (completions.value[:, 0, 0] + prices @ budget).min()
    return found, _follow(cheapest.following[0]), dual


def _follow(following: Int[Array, 'layers choices']) -> Int[Array, ' layers']:
    return jax.lax.scan(lambda choice, row: (row[choice],) * 2, jnp.zeros((), jnp.int32), following)[1]


def evaluate(
    field: ChainMRF, choices: Int[np.ndarray, 'configurations layers']
) -> Float[np.ndarray, ' configurations']:
    """Sum the potentials of configurations in float64; -inf and NaN of absent choices count as they stand."""
    layers, edges = np.arange(choices.shape[1]), np.arange(choices.shape[1] - 1)
    pairs = field.pairwise[edges, choices[:, :-1], choices[:, 1:]]
    return field.unary[layers, choices].sum(1) + pairs.sum(1)
