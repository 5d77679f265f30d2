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
    Where no single step saves cost, one is taken by loss alone.

    Args:
      space: the search space.
      loss: of the configuration of given choices, on validation images; `(layers * choices)` times `layers` calls.
      cost: of the configuration of given choices.
      budget: of the cost.
      per_cost: whether to divide the rise in loss by the cost saved.
      start: choices to begin at, such as the last step of an interrupted way; by default the largest.
      report: called with every step.

    Raises:
      ValueError: even the smallest configuration exceeds the budget.
    """
    choices = np.array(space.num_choices - 1 if start is None else start, np.int32)
    way = [Step(choices, loss(choices), cost(choices))]
    while way[-1].cost > budget:
        candidates = [
            _narrowed(way[-1].choices, layer) for layer in range(len(choices)) if way[-1].choices[layer]
        ]
        if not candidates:
            raise ValueError(
                f'the smallest configuration costs {way[-1].cost:.4g}, over the budget of {budget:.4g}'
            )
        steps = [Step(c, loss(c), cost(c)) for c in candidates]
        way.append(_least_harm(way[-1], steps, per_cost))
        report(way[-1])
    return way


def _narrowed(choices: np.ndarray, layer: int) -> np.ndarray:
    narrower = choices.copy()
    narrower[layer] -= 1
    return narrower


def _least_harm(here: Step, steps: list[Step], per_cost: bool) -> Step:
    saving = [step for step in steps if step.cost < here.cost]
    if not saving or not per_cost:
        return min(saving or steps, key=lambda step: step.loss)
    # A step that lowers the loss is free: the more it lowers it the better, whatever it saves.
    free = [step for step in saving if step.loss <= here.loss]
    if free:
        return min(free, key=lambda step: step.loss)
    return min(saving, key=lambda step: (step.loss - here.loss) / (here.cost - step.cost))
