"""Greedy slimming: shrink the layer that hurts least, one width at a time, until the budget holds."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from jcw.space import SearchSpace


class Step(NamedTuple):
    """One configuration on greedy's way down."""

    choices: Int[np.ndarray, 'layers']
    loss: float
    cost: float


def slim(
    space: SearchSpace,
    loss: Callable[[Int[np.ndarray, 'layers']], float],
    cost: Callable[[Int[np.ndarray, 'layers']], float],
    budget: float,
    *,
    per_cost: bool = True,
    start: Int[np.ndarray, 'layers'] | None = None,
    report: Callable[[Step], None] = lambda _: None,
) -> list[Step]:
    """Return the way from the largest configuration to the first within the budget.

    Each step narrows by one choice the layer where `loss` rises least, per unit of cost saved (`per_cost`) or in all.
    Costs measured on a device are not monotone: where no such step saves cost, any other choice of one layer that does
    is a step.

    Args:
      space: the search space.
      loss: of the configuration of given choices, on validation images; `(layers * choices)` times `layers` calls.
      cost: of the configuration of given choices.
      budget: of the cost.
      per_cost: whether to divide the rise in loss by the cost saved.
      start: choices to begin at, such as the last step of an interrupted way; by default the largest.
      report: called with every step.

    Raises:
      ValueError: no change of one layer saves cost any more, and the budget is still exceeded.
    """
    choices = np.array(space.num_choices - 1 if start is None else start, np.int32)
    way = [Step(choices, loss(choices), cost(choices))]
    while way[-1].cost > budget:
        here = way[-1]
        saving = _saving(
            here, [_with(here.choices, layer, choice - 1) for layer, choice in _layers(here)], cost
        )
        if not saving:
            others = [
                _with(here.choices, layer, other)
                for layer, choice in _layers(here)
                for other in range(space.num_choices[layer])
                if other != choice
            ]
            saving = _saving(here, others, cost)
        if not saving:
            raise ValueError(
                f'greedy ends at a cost of {here.cost:.4g}, over the budget of {budget:.4g}: no change of one layer '
                'saves any more'
            )
        steps = [Step(choices, loss(choices), spent) for choices, spent in saving]
        way.append(_least_harm(here, steps, per_cost))
        report(way[-1])
    return way


def _layers(here: Step) -> list[tuple[int, int]]:
    return [(layer, int(choice)) for layer, choice in enumerate(here.choices)]


def _with(choices: np.ndarray, layer: int, choice: int) -> np.ndarray:
    changed = choices.copy()
    changed[layer] = choice
    return changed


def _saving(
    here: Step, candidates: list[np.ndarray], cost: Callable[[Int[np.ndarray, 'layers']], float]
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
