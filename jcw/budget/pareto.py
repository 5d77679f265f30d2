"""The best utility at every budget, and the least cost that can be reached."""

from collections.abc import Sequence

import numpy as np

from jcw.budget.exact import Solution, solve
from jcw.field import Field, add, to_host


def frontier(
    utility: Field,
    cost: Field,
    num_budgets: int,
    *,
    beside: Sequence[Field] = (),
    most: Sequence[float] = (),
    max_labels: int = 4096,
) -> Solution:
    """Solve at `num_budgets` even budgets, from the smallest reachable cost to that of the best of all.

    Below the first budget nothing is feasible and beyond the last nothing is gained. Each answer carries its
    own proof, as that of `solve`.

    Args:
      utility: of configurations.
      cost: whose budgets they are.
      num_budgets: how many.
      beside: further costs.
      most: their budgets, the same everywhere.
      max_labels: as in `solve`.

    Raises:
      ValueError: as `solve`, or fewer than two budgets, or nothing is within `most`, or every configuration is
        forbidden.
    """
    if num_budgets < 2:
        raise ValueError(f'a frontier needs at least two budgets, got {num_budgets}')
    costs = (cost, *beside)
    best = solve(utility, costs, [np.inf, *most], max_labels=max_labels)
    if not best.feasible:
        raise ValueError(
            'every configuration is forbidden: utility.tables, infinite costs or further budgets leave no way '
            'through the sites'
        )
    lowest = float(cheapest(utility, cost, beside=beside, most=most, max_labels=max_labels).cost)
    budgets = np.linspace(max(lowest, 0.0), max(float(best.cost[0]), 0.0), num_budgets)
    if not beside:
        return solve(utility, cost, budgets, max_labels=max_labels)
    limits = np.broadcast_to(most, (num_budgets, len(most)))
    found = solve(utility, costs, np.column_stack([budgets, limits]), max_labels=max_labels)
    return found._replace(cost=found.cost[:, 0])


def cheapest(
    utility: Field,
    cost: Field,
    *,
    beside: Sequence[Field] = (),
    most: Sequence[float] = (),
    max_labels: int = 4096,
) -> Solution:
    """Find the least cost of a configuration that `utility` does not forbid, within the budgets of further costs.

    The answer's `utility` is minus its cost; it is not feasible where everything is forbidden or beyond those budgets.
    """
    utility, cost = to_host(utility), to_host(cost)
    absent = np.isneginf(utility.unary)
    allowed = utility.replace(
        unary=np.where(absent, -np.inf, 0.0), tables=np.where(np.isneginf(utility.tables), -np.inf, 0.0)
    )
    saved = cost.replace(unary=np.where(absent, 0.0, -cost.unary), tables=-cost.tables)
    found = solve(add(allowed, saved), beside or (cost,), most or [np.inf], max_labels=max_labels)
    return found._replace(cost=-found.utility)
