"""The best utility at every budget."""

import numpy as np

from jcw.budget.exact import Solution, solve
from jcw.mrf import ChainMRF


def frontier(utility: ChainMRF, cost: ChainMRF, num_budgets: int) -> Solution:
    """Solve at `num_budgets` evenly spaced budgets, from the smallest reachable cost to that of the best utility."""
    lowest = solve(utility, cost, 0.0).cost
    highest = solve(utility, cost, np.inf).cost
    return solve(utility, cost, np.linspace(lowest, highest, num_budgets))
