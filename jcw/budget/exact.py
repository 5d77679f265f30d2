"""The best configuration within budgets, with its proof."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from jcw.budget.checks import check_budget, check_labels, check_shapes, check_values
from jcw.budget.passes import run_pass, solve_in_one_pass
from jcw.field import Field, add, scores, to_host

Budget = ArrayLike | Sequence[Any]

TOGETHER, LABELS_TOGETHER = 32, 256  # neighbouring budgets that share a pass, and its labels
FEW = 96
"""Budgets left that are solved sooner alone than the program of a second shared pass is compiled."""


class Solution(NamedTuple):
    """Best configuration found and what is proven of it; a vector of budgets, or k best, add a leading axis.

    NumPy in float64; under `jit` or `vmap` JAX arrays in the precision of the fields.

    Attributes:
      choices: the configuration, [sites]. Where no configuration meets the budget, the cheapest one.
      utility: its utility; -inf where infeasible.
      cost: its cost, [costs] if several were given. Where infeasible, the smallest reachable one (with several
        costs, those of the configuration whose costs, each over its greatest, have the least sum).
      upper_bound: no configuration within the budget has a greater utility; -inf where infeasible. Sums are rounded,
        so that a configuration whose cost equals the budget to the last bits may count as beyond it.
      feasible: whether a configuration within the budget was found; where not, `upper_bound` -inf says that
        there is none.
    """

    choices: Int[np.ndarray, '... sites'] | Int[Array, '... sites']
    utility: Float[np.ndarray, '...'] | Float[Array, '...']
    cost: Float[np.ndarray, '...'] | Float[Array, '...']
    upper_bound: Float[np.ndarray, '...'] | Float[Array, '...']
    feasible: Bool[np.ndarray, '...'] | Bool[Array, '...']


def solve(
    utility: Field, cost: Field | Sequence[Field], budget: Budget, *, max_labels: int = 4096
) -> Solution:
    """Find `max utility(x)` over configurations x with `cost(x) <= budget`, and prove it.

    The fields may have different scopes; together they must fit a `trellis`.

    The proof is an upper bound on the utility of every configuration within the budget. Passes of the search repeat
    with more labels until the bound equals the utility found. If `max_labels` are not enough, the bound stays above,
    and both numbers are still true.

    A budget that no configuration meets is an answer, not an error: `feasible` is False, and `cost` is the smallest
    that can be reached. So `solve(utility, cost, 0.0).cost` is the least budget that can be met.

    Under `jit` and `vmap` there is one pass, of at most 64 labels. Values are not checked there, and the bound
    includes the rounding of the precision.

    Args:
      utility: what is maximised; -inf in `unary` marks choices that are absent.
      cost: what is limited; +inf forbids. A sequence of fields has one limit for each.
      budget: the limit; a vector of them is answered one by one. With a sequence of costs, its last axis is theirs.
      max_labels: partial configurations that a pass may hold.

    Raises:
      ValueError: shapes do not fit, potentials are complex, an entry is NaN or of the wrong infinity, a budget is NaN
        or negative or there is none, `max_labels` is out of range, or the graph needs too many sites remembered.
    """
    check_labels(max_labels)
    several = not isinstance(cost, Field)
    costs = (cost,) if isinstance(cost, Field) else tuple(cost)
    check_shapes(utility, costs)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((utility, costs, budget))):
        traced = jnp.asarray(budget, jnp.result_type(utility.unary))
        batch = traced.shape[:-1] if several else traced.shape
        one = partial(solve_in_one_pass, utility, costs, capacity=min(max_labels, 64))
        answer = Solution(*jax.vmap(one)(traced.reshape(-1, len(costs))))
    else:
        utility, costs, limits = _checked(utility, costs, budget, several)
        batch = limits.shape[:-1]
        answer = _solve_all(utility, costs, limits.reshape(-1, len(costs)), max_labels)
    answer = Solution(*(leaf.reshape((*batch, *leaf.shape[1:])) for leaf in answer))
    return answer if several else answer._replace(cost=answer.cost[..., 0])


def k_best(
    utility: Field,
    cost: Field | Sequence[Field],
    budget: Budget,
    k: int,
    *,
    max_labels: int = 4096,
) -> Solution:
    """Find the k best configurations within one budget, best first, all different.

    Where there are fewer, the rest have `feasible` False. Each one's `upper_bound` is a bound on the utility of
    that rank, equal to its utility where the order is proven.

    Raises:
      ValueError: as `solve`, or k is out of range, or there is more than one budget for each cost.
    """
    check_labels(max_labels, k)
    several = not isinstance(cost, Field)
    costs = (cost,) if isinstance(cost, Field) else tuple(cost)
    check_shapes(utility, costs)
    utility, costs, limits = _checked(utility, costs, budget, several)
    if limits.ndim != 1:
        raise ValueError(f'need a single budget, got budgets of shape {limits.shape[:-1]}')
    answer = _solve_all(utility, costs, limits[None], max(max_labels, 4 * k), k)
    return answer if several else answer._replace(cost=answer.cost[..., 0])


def _checked(utility, costs, budget, several) -> tuple[Field, tuple[Field, ...], np.ndarray]:
    limits = np.asarray(budget, np.float64)
    check_budget(limits, len(costs), several)
    fields = [to_host(field) for field in (utility, *costs)]
    check_values(fields[0], tuple(fields[1:]))
    return fields[0], tuple(fields[1:]), limits if several else limits[..., None]


def _solve_all(utility, costs, limits, max_labels: int, wanted: int = 1) -> Solution:
    """Run passes, with more labels each time, over the budgets that are not yet proven."""
    order = np.lexsort(limits.T)
    known, bound = np.full(len(limits), -np.inf), np.full(len(limits), np.inf)
    pool = np.zeros((0, utility.unary.shape[0]), np.int32)

    fields = _alike(utility, *costs)

    def run(part):
        with jax.enable_x64(True):  # a setting of the thread
            return jax.device_get(run_pass(fields[0], fields[1:], *part, wanted))

    for together, capacity in _schedule(len(limits) if len(costs) == 1 else 1, max_labels, wanted):
        remaining = order[bound[order] > known[order]]
        if not len(remaining):
            break
        if 1 < together < TOGETHER and len(remaining) <= FEW:
            continue
        parts = [remaining[start : start + together] for start in range(0, len(remaining), together)]
        padded = [np.pad(part, (0, together - len(part)), 'edge') for part in parts]
        with ThreadPoolExecutor() as threads:
            outcomes = list(threads.map(run, [(limits[part], known[part], capacity) for part in padded]))
        for part, (found, cheapest, dual) in zip(parts, outcomes, strict=True):
            pool = np.concatenate(
                [pool, cheapest[None], found.incumbent, found.final[found.utility > -np.inf]]
            )
            proven = np.isneginf(found.dropped)
            stated = np.where(proven, -np.inf, np.minimum(found.dropped, dual))[: len(part)]
            bound[part] = np.minimum(bound[part], stated)
            known[part] = found.known[: len(part)]
        pool = np.unique(pool, axis=0)
        answer = _choose(utility, costs, limits, pool, cheapest, bound, wanted)
        if wanted == 1:
            known = np.asarray(answer.utility)
    return answer


def _alike(*fields: Field) -> tuple[Field, ...]:
    """Give fields the scopes of all of them, so that one program serves a utility with factors and one without."""
    nothing = [
        field.replace(unary=np.zeros_like(field.unary), tables=np.zeros_like(field.tables))
        for field in fields
    ]
    return tuple(add(*nothing, field) for field in fields)


def _schedule(num_budgets: int, max_labels: int, wanted: int) -> list[tuple[int, int]]:
    """Say how many budgets share a pass and how many labels it has room for; a second pass knows more."""
    sizes = [size for size in (64, 256, 1024, 4096, 16384) if 4 * wanted <= size < max_labels]
    alone = [(1, size) for size in (*sizes, max_labels) for _ in range(2)]
    return (
        alone if num_budgets == 1 else [(TOGETHER, LABELS_TOGETHER), (TOGETHER // 4, LABELS_TOGETHER), *alone]
    )


def _choose(utility, costs, limits, pool, cheapest, bound, wanted) -> Solution:
    """Evaluate all candidates in float64 and take the best within each budget, or `wanted` within one."""
    utilities = scores(utility, pool)
    spent = np.stack([scores(cost, pool) for cost in costs], -1)
    spent = np.where(np.isneginf(utilities)[:, None], np.inf, spent)
    order = np.lexsort((spent.sum(-1), -utilities))  # of equals, the first is the cheapest
    pool, utilities, spent = pool[order], utilities[order], spent[order]
    within = (spent[None] <= limits[:, None]).all(-1) & (utilities > -np.inf)
    if wanted == 1:
        best, feasible = within.argmax(1), within.any(1)
    else:
        best = np.flatnonzero(within[0])[:wanted]
        feasible = np.arange(wanted) < len(best)
        best = np.pad(best, (0, wanted - len(best)))
    best = np.where(feasible, best, (pool == cheapest).all(1).argmax())
    values = np.where(feasible, utilities[best], -np.inf)
    return Solution(pool[best], values, spent[best], np.maximum(values, bound), feasible)
