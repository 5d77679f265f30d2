"""What to train next: networks that would be best if the table's uncertain effects were as drawn."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from jcw.accuracy.table import AccuracyTable, refit

NetworkChoices = Int[np.ndarray, 'networks sites']
Solve = Callable[[Float[np.ndarray, 'sites choices'], float], Int[np.ndarray, ' sites']]
"""From utilities of choices and a budget to the choices of the best network that holds it (exact)."""

DRAWS = 128
"""Fields drawn in a round before it is said that no optimum is new."""


FIRST = 6
"""Networks of the first round, under the prior alone."""

EACH = 3
"""Networks of a later round."""


def propose(
    key: Array,
    table: AccuracyTable,
    solve: Solve,
    budgets: Sequence[float],
    count: int,
    *,
    trained: Int[np.ndarray, 'trained sites'] | None = None,
    draws: int = DRAWS,
    last: bool = False,
) -> NetworkChoices:
    """Choose the networks to train next: Thompson sampling (Thompson, 1933) with an exact solver.

    Each field drawn from the posterior is maximised under one of the budgets, in turn; what is new is taken. In the
    last round the optima of the mean come first: who takes only what was trained would go without them.

    Args:
      key: of the draws.
      table: what is believed; before anything is trained, `table.untrained`.
      solve: exact maximiser under a budget.
      budgets: of which networks are wanted; all share what is trained.
      count: networks to choose; fewer, perhaps none, where the draws have fewer new optima.
      trained: networks not to choose; by default those of the table.
      draws: fields to draw at most.
      last: whether nothing will be trained after these.

    Raises:
      ValueError: no budget, or a count below 1.
    """
    if not len(budgets) or count < 1:
        raise ValueError(f'expected budgets and a count of at least 1, got {list(budgets)} and {count}')
    known = table.evidence.choices if trained is None else trained
    taken = set(map(tuple, np.asarray(known).tolist()))
    chosen: list[tuple[int, ...]] = []
    means = [table.unary()] * len(budgets) if last else []
    for index, field in enumerate([*means, *table.draw(key, draws)]):
        network = tuple(np.asarray(solve(field, budgets[index % len(budgets)])).tolist())
        if network not in taken:
            taken.add(network)
            chosen.append(network)
            if len(chosen) == count:
                break
    return np.array(chosen, np.int64).reshape(-1, len(table.sites))


class Found(NamedTuple):
    """What a search knows after a round."""

    choices: NetworkChoices  # trained, in order
    utility: Float[np.ndarray, ' networks']
    table: AccuracyTable


def search(
    key: Array,
    before: AccuracyTable,
    train: Callable[[NetworkChoices], Float[np.ndarray, ' networks']],
    solve: Solve,
    budgets: Sequence[float],
    trainings: int,
    *,
    first: int | None = None,
    each: int | None = None,
) -> Iterator[Found]:
    """Train in rounds and yield after each; end when no draw's optimum is new or the trainings are used up.

    Args:
      key: of the draws.
      before: what is believed before anything is trained (`table.untrained`).
      train: trains networks and tells their utilities.
      solve: exact maximiser under a budget.
      budgets: of which networks are wanted.
      trainings: at most.
      first: networks of the first round; by default `FIRST`, and one per budget at least.
      each: networks of every later round; by default `EACH`.
    """
    first = max(FIRST, len(budgets)) if first is None else first
    each = EACH if each is None else each
    choices, utility, table = np.zeros((0, len(before.sites)), np.int64), np.zeros(0), before
    while len(choices) < trainings:
        left = trainings - len(choices)
        count = min(each if len(choices) else first, left)
        own = jax.random.fold_in(key, len(choices))
        new = propose(own, table, solve, budgets, count, trained=choices, last=count == left)
        if not len(new):
            return
        choices, utility = np.concatenate([choices, new]), np.concatenate([utility, train(new)])
        table = refit(before, choices, utility)
        yield Found(choices, utility, table)


def winner(table: AccuracyTable, candidates: NetworkChoices, holds: Sequence[bool] | np.ndarray) -> int:
    """Return the index of the best candidate by the posterior mean, among those that hold the budget.

    Candidates are the trained networks, the optimum of the mean, and baselines.

    Raises:
      ValueError: no candidate holds the budget, or the numbers of candidates and answers differ.
    """
    holds = np.asarray(holds, bool)
    if len(holds) != len(candidates):
        raise ValueError(f'{len(candidates)} candidates but {len(holds)} say whether they hold the budget')
    if not holds.any():
        raise ValueError(f'none of {len(candidates)} candidates holds the budget: add one that does')
    return int(np.where(holds, table.predict(candidates)[0], -np.inf).argmax())
