"""Greedy slimming: shrink the site that hurts least, one width at a time, until the budget holds."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

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
    present: Bool[np.ndarray, 'sites choices'] | None = None,
    report: Callable[[Step], None] = lambda _: None,
    over: Callable[..., Iterable[float]] = map,
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
      present: the choices allowed; by default all.
      report: called with every step.
      over: maps `loss` over a step's configurations; the map of an executor evaluates several at once.

    Raises:
      ValueError: no change of one site saves cost any more, and the budget is still exceeded.
    """
    allowed = [np.flatnonzero(row).tolist() for row in (graph.present if present is None else present)]
    choices = np.array([own[-1] for own in allowed] if start is None else start, np.int32)
    way = [Step(choices, loss(choices), cost(choices))]
    while way[-1].cost > budget:
        here = way[-1]
        narrower = [(s, own[own.index(c) - 1]) for s, (c, own) in _sites(here, allowed) if c > own[0]]
        saving = _saving(graph, here, narrower, cost)
        if not saving:
            others = [(s, other) for s, (c, own) in _sites(here, allowed) for other in own if other != c]
            saving = _saving(graph, here, others, cost)
        if not saving:
            raise ValueError(
                f'greedy ends at a cost of {here.cost:.4g}, over the budget of {budget:.4g}: no change of one site '
                'saves any more'
            )
        losses = over(loss, [choices for choices, _ in saving])
        steps = [Step(choices, value, spent) for (choices, spent), value in zip(saving, losses, strict=True)]
        way.append(_least_harm(here, steps, per_cost))
        report(way[-1])
    return way


def _sites(here: Step, allowed: list[list[int]]) -> list[tuple[int, tuple[int, list[int]]]]:
    return list(enumerate(zip(here.choices.tolist(), allowed, strict=True)))


def _saving(
    graph: Graph,
    here: Step,
    changes: list[tuple[int, int]],
    cost: Callable[[Int[np.ndarray, ' sites']], float],
) -> list[tuple[np.ndarray, float]]:
    """Return what changes of one site lead to and what it costs, where that is less."""
    candidates = [_with(graph, here.choices, site, choice) for site, choice in changes]
    costs = [(choices, cost(choices)) for choices in candidates]
    return [(choices, spent) for choices, spent in costs if spent < here.cost]


def _with(graph: Graph, choices: np.ndarray, site: int, choice: int) -> np.ndarray:
    changed = choices.copy()
    changed[site] = choice
    return graph.settled(changed)


def _least_harm(here: Step, steps: list[Step], per_cost: bool) -> Step:
    if not per_cost:
        return min(steps, key=lambda step: step.loss)
    # A step that lowers the loss is free: the more it lowers it the better, whatever it saves.
    free = [step for step in steps if step.loss <= here.loss]
    if free:
        return min(free, key=lambda step: step.loss)
    return min(steps, key=lambda step: (step.loss - here.loss) / (here.cost - step.cost))
