"""The best utility at every budget."""

import numpy as np

from jcw.budget.exact import Solution, solve
from jcw.field import Field


def frontier(utility: Field, cost: Field, num_budgets: int, *, max_labels: int = 4096) -> Solution:
    """Solve at `num_budgets` even budgets, from the smallest reachable cost to that of the best of all.

    Below the first budget nothing is feasible and beyond the last nothing is gained. Each answer carries its
    own proof, as that of `solve`.

    Raises:
      ValueError: as `solve`, or fewer than two budgets, or every configuration is forbidden.
    """
    if num_budgets < 2:
        raise ValueError(f'a frontier needs at least two budgets, got {num_budgets}')
    ends = solve(utility, cost, [0.0, np.inf], max_labels=max_labels)
    lowest, highest = ends.cost
    if not ends.feasible[1]:
        raise ValueError(
            'every configuration is forbidden: utility.tables or infinite costs leave no way through the sites'
        )
    budgets = np.linspace(max(lowest, 0.0), max(highest, 0.0), num_budgets)
    return solve(utility, cost, budgets, max_labels=max_labels)
