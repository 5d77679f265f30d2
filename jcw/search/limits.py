"""What a network must hold beside its budget on this device: forbidden widths, and further costs with budgets."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jcw import budget as budgets
from jcw.budget import Solution
from jcw.field import Field, add, scores, to_host
from jcw.graph import Graph
from jcw.search import ows


class Limits(NamedTuple):
    """Conditions of a search; costs are known from tables, or counted.

    Attributes:
      allowed: potentials of 0 and -inf, as `jcw.constraints` makes them.
      costs: further costs, by name.
      most: what each of them may be.
    """

    allowed: Field
    costs: Mapping[str, Field] = {}
    most: Mapping[str, float] = {}

    def utility(self, utility: Field) -> Field:
        """Forbid in a utility what is forbidden."""
        return add(to_host(utility), self.allowed)

    def priced(self, cost: Field, budget: float) -> tuple[tuple[Field, ...], list[float]]:
        """Return a cost and the further ones, and their budgets."""
        return (cost, *self.costs.values()), [budget, *(self.most[name] for name in self.costs)]

    def solve(self, utility: Field, cost: Field, budget: float) -> Solution:
        """Solve within all limits; `cost` of the answer has the one given first."""
        return budgets.solve(self.utility(utility), *self.priced(cost, budget))

    def shares(
        self, cost: Field, budget: float, choices: Int[np.ndarray, 'networks sites']
    ) -> Float[np.ndarray, ' networks']:
        """Return how much of its tightest budget every network uses, and 1 more for every potential that forbids it.

        A network is within all limits where that is at most 1.
        """
        costs, most = self.priced(cost, budget)
        used = np.max([scores(each, choices) / limit for each, limit in zip(costs, most, strict=True)], 0)
        forbids = self.allowed.replace(
            unary=np.isneginf(self.allowed.unary) * 1.0, tables=np.isneginf(self.allowed.tables) * 1.0
        )
        return used + scores(forbids, choices)

    def beside(self, choices: Int[np.ndarray, ' sites']) -> dict[str, float]:
        """Return the further costs of a network, by name."""
        return {name: float(scores(cost, choices[None])[0]) for name, cost in self.costs.items()}

    @property
    def present(self) -> Bool[np.ndarray, 'sites choices']:
        """Which choices are allowed to their sites."""
        return ~np.isneginf(np.asarray(self.allowed.unary))


def none(graph: Graph) -> Limits:
    """Return no limits but the graph's own: blocks are dropped whole."""
    return Limits(ows.flat(graph))
