"""One supernet, several devices: a network for each, and the single network within all budgets."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jcw.budget import Solution, solve
from jcw.field import Field, scores, to_host
from jcw.search.limits import Limits


class ManyDevices(NamedTuple):
    """Solutions for several devices.

    Attributes:
      each: for every device, the best network within its own budget.
      together: the best single network within all budgets; its `cost` and the budgets are in the devices' order.
      costs: what every device's own network costs on every device, network first.
    """

    each: dict[str, Solution]
    together: Solution
    costs: dict[str, dict[str, float]]


def solve_many(
    utility: Field,
    costs: Mapping[str, Field],
    budgets: Mapping[str, float],
    *,
    limits: Limits | None = None,
    max_labels: int = 4096,
) -> ManyDevices:
    """Solve for each device alone and for all of them at once; infeasible budgets are answers, as in `solve`.

    The utility of the single network is at most the least of the others'.

    Args:
      utility: of configurations, from one supernet.
      costs: by device, such as `LatencyTable.to_cost()` of tables measured there.
      budgets: by device, in the unit of its cost.
      limits: what every network must hold besides.
      max_labels: as in `solve`.

    Raises:
      ValueError: no device, or devices with a cost and no budget or the other way round.
    """
    if not costs or set(costs) != set(budgets):
        raise ValueError(
            f'need a budget for each cost, got costs of {sorted(costs)}, budgets of {sorted(budgets)}'
        )
    counted: tuple[Field, ...] = ()
    most: list[float] = []
    if limits is not None:
        utility, counted = limits.utility(utility), tuple(limits.costs.values())
        most = [limits.most[name] for name in limits.costs]

    def within(*names: str) -> Solution:
        every = (*(costs[name] for name in names), *counted)
        found = solve(utility, every, [*(budgets[name] for name in names), *most], max_labels=max_labels)
        return found._replace(cost=found.cost[: len(names)])

    each = {name: within(name) for name in costs}
    each = {name: found._replace(cost=found.cost[0]) for name, found in each.items()}
    together = within(*costs)
    tables = {name: to_host(cost) for name, cost in costs.items()}
    across = {
        name: {other: float(scores(tables[other], np.asarray(solution.choices)[None])[0]) for other in costs}
        for name, solution in each.items()
    }
    return ManyDevices(each, together, across)
