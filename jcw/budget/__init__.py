"""The best configuration under budgets, proven: Lagrangian sweep, exact search over labels, certificate."""

from jcw.budget.exact import Solution, k_best, solve
from jcw.budget.explain import Explanation, explain
from jcw.budget.pareto import cheapest, frontier

__all__ = ['Solution', 'solve', 'frontier', 'cheapest', 'k_best', 'Explanation', 'explain']
