"""Greedy slimming: shrink the site that hurts least, one width at a time, until the budget holds."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from jcw.graph import Graph


class Step(NamedTuple):
    """One configuration on greedy's way down."""

    choices: Int[np.ndarray, ' sites']
    loss: float
    cost: float


def slim(
    graph: Graph,
    loss: Callable[[Int[np.ndarray, ' sites']], float],
    cost: Callable[[Int[np.ndarray, ' sites']], float],
    budget: float,
    *,
    per_cost: bool = True,
    start: Int[np.ndarray, ' sites'] | None = None,
    report: Callable[[Step], None] = lambda _: None,
) -> list[Step]:
    """Return the way from the largest configuration to the first within the budget.

    Each step narrows by one choice the site where `loss` rises least, per unit of cost saved (`per_cost`) or in all.
    Costs measured on a device are not monotone: where no such step saves cost, any other choice of one site that does
    is a step.

    Args:
      graph: of the networks.
      loss: of the configuration of given choices, on validation images; `(sites * choices)` times `sites` calls.
      cost: of the configuration of given choices.
      budget: of the cost.
      per_cost: whether to divide the rise in loss by the cost saved.
      start: choices to begin at, such as the last step of an interrupted way; by default the largest.
      report: called with every step.

    Raises:
      ValueError: no change of one site saves cost any more, and the budget is still exceeded.
    """
    choices = np.array(graph.num_choices - 1 if start is None else start, np.int32)
    way = [Step(choices, loss(choices), cost(choices))]
    while way[-1].cost > budget:
        here = way[-1]
        saving = _saving(
            here, [_with(graph, here.choices, site, choice - 1) for site, choice in _sites(here)], cost
        )
        if not saving:
            others = [
                _with(graph, here.choices, site, other)
                for site, choice in _sites(here)
                for other in range(graph.num_choices[site])
                if other != choice
            ]
            saving = _saving(here, others, cost)
        if not saving:
            raise ValueError(
                f'greedy ends at a cost of {here.cost:.4g}, over the budget of {budget:.4g}: no change of one site '
                'saves any more'
            )
        steps = [Step(choices, loss(choices), spent) for choices, spent in saving]
        way.append(_least_harm(here, steps, per_cost))
        report(way[-1])
    return way


def _sites(here: Step) -> list[tuple[int, int]]:
    return [(site, int(choice)) for site, choice in enumerate(here.choices)]


def _with(graph: Graph, choices: np.ndarray, site: int, choice: int) -> np.ndarray:
    changed = choices.copy()
    changed[site] = choice
    return graph.settled(changed) if choice >= 0 else changed


def _saving(
    here: Step, candidates: list[np.ndarray], cost: Callable[[Int[np.ndarray, ' sites']], float]
) -> list[tuple[np.ndarray, float]]:
    """Return the candidates that cost less, and their costs."""
    costs = [(choices, cost(choices)) for choices in candidates if choices.min() >= 0]
    return [(choices, spent) for choices, spent in costs if spent < here.cost]


def _least_harm(here: Step, steps: list[Step], per_cost: bool) -> Step:
    if not per_cost:
        return min(steps, key=lambda step: step.loss)
    # A step that lowers the loss is free: the more it lowers it the better, whatever it saves.
    free = [step for step in steps if step.loss <= here.loss]
    if free:
        return min(free, key=lambda step: step.loss)
    return min(steps, key=lambda step: (step.loss - here.loss) / (here.cost - step.cost))
