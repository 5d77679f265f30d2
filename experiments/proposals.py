"""What is trained next: the baselines' networks, then optima of draws, all timed first to hold their budgets."""

import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from experiments import candidates
from experiments.baseline_widths import At, within_reach
from experiments.config import Config
from experiments.limits import limits_of
from experiments.paths import paths
from jcw.accuracy import design
from jcw.accuracy.table import AccuracyTable
from jcw.field import Field, add, independent, scores
from jcw.graph import Graph
from jcw.latency.sample import Sample
from jcw.latency.table import LatencyTable
from jcw.search import ows
from jcw.search.repair import TABLE_ERROR, correction

SPARE = 0.5
"""Networks timed in a turn beyond those wanted, a part of them: some will not hold, and a turn takes as long as two."""

MARGIN = 0.01
"""Part of a budget that every further turn leaves unused: networks differ from any table by some 2 % of their own."""

OWN_ERROR = 0.02
"""Part of a table's error, relative, that networks alike do not share: as much as it errs on networks held out."""


def entered(
    config: Config, graph: Graph, table: LatencyTable, baselines: Mapping[str, At], limits: Sequence[float]
) -> np.ndarray:
    """Return the baselines' networks that hold the budgets as measured, as far as they reach: choices [networks sites].

    Without rounds of repair they are those of the table.
    """
    found: list[np.ndarray] = []
    for limit in limits:
        reach = within_reach(baselines, limit)
        if config.repair.rounds:
            held = candidates.hold(config, graph, table, limit, {}, {name: baselines[name] for name in reach})
            reach = {name: graph.to_choices(each.widths) for name, each in held.items() if each.feasible}
        found += reach.values()
    different = {tuple(choices.tolist()): None for choices in found}
    return np.array([*different], np.int64).reshape(-1, graph.num_sites)


def propose(
    config: Config,
    graph: Graph,
    table: LatencyTable,
    accuracy: AccuracyTable,
    limits: Sequence[float],
    known: np.ndarray,
    count: int,
    last: bool,
) -> np.ndarray:
    """Choose what to train next, besides what is known: optima of draws that hold their budgets as measured.

    The optima of a table are the networks that it flatters. So they are timed before they are trained, the table is
    corrected, and others take the place of those that do not hold, within a little less of the budget every turn. Every
    budget keeps its share; what is timed and holds beyond that takes places that are left in the end. In the last round
    nothing is timed to spare: a draw would take the place of the mean's optimum, which the corrected table may find in
    the next turn. Where nothing holds, known or new, or one network alone, those timed nearest to the budget are
    returned all the same; without rounds of repair, what the table says.
    """
    measured = config.repair.rounds > 0
    timed_for_one = 1 if last or not measured else 1 + SPARE
    wanted = [limits[(len(known) + place) % len(limits)] for place in range(count)]
    held, spare, over = known[:0], known[:0], known[:0]
    timed = _timed(config, graph, known)
    most = {sample.widths: candidates.most_ms(config, sample) for sample in timed}
    for turn in range(max(config.repair.rounds, 1)):
        seen = np.concatenate([known, held, spare, over])
        key = jax.random.fold_in(jax.random.key(config.seed + 7), len(seen))
        solve = _Solve(config, graph, _corrected(config, graph, table, timed), (1 - MARGIN) ** turn)
        asked = math.ceil(timed_for_one * len(wanted))
        if not wanted or not len(
            new := design.propose(key, accuracy, solve, wanted, asked, trained=seen, last=last)
        ):
            break
        timed = _timed(config, graph, new)
        most = {sample.widths: candidates.most_ms(config, sample) for sample in timed}
        for choices, widths in zip(new, graph.networks(new), strict=True):
            budget = solve.budgets[tuple(choices.tolist())]
            if measured and most.get(widths, np.inf) > budget:
                over = np.concatenate([over, choices[None]])
            elif budget in wanted:
                held = np.concatenate([held, choices[None]])
                wanted.remove(budget)
            else:
                spare = np.concatenate([spare, choices[None]])
    held = np.concatenate([held, spare[: len(wanted)]])
    enough = len(known) + len(held) > 1  # one network says nothing about widths
    if enough and (len(held) or any(most.get(w, np.inf) <= max(limits) for w in graph.networks(known))):
        return held
    others = most.keys() - {*graph.networks(known), *graph.networks(held)}
    nearest = sorted(others, key=lambda widths: abs(most[widths] - max(limits)))[: max(count - len(held), 0)]
    return np.concatenate([held, graph.to_choices(nearest)]) if nearest else held


class _Solve:
    """Maximises a drawn utility within a part of a budget, ms; remembers for which budget a network was first found."""

    def __init__(self, config: Config, graph: Graph, cost: Field, part: float) -> None:
        self._graph, self._limits, self._cost, self._part = graph, limits_of(config, graph), cost, part
        self.budgets: dict[tuple[int, ...], float] = {}

    def __call__(self, unary: np.ndarray, limit: float) -> np.ndarray:
        utility = add(independent(np.where(self._graph.present, unary, -np.inf)), ows.flat(self._graph))
        choices = np.asarray(self._limits.solve(utility, self._cost, self._part * limit).choices)
        self.budgets.setdefault(tuple(choices.tolist()), limit)
        return choices


def _timed(config: Config, graph: Graph, networks: np.ndarray) -> tuple[Sample, ...]:
    """Time the networks that were not timed; return all candidates of the run that were, with no repair none."""
    if not config.repair.rounds or (not len(networks) and not paths(config).candidates.exists()):
        return ()
    return candidates.samples_of(config, graph, graph.networks(networks)).timed


def _corrected(config: Config, graph: Graph, table: LatencyTable, timed: Sequence[Sample]) -> Field:
    """Return the latency field, ms, corrected where networks were timed, standard errors to spare included."""
    cost = table.to_cost()
    if not timed:
        return cost
    chosen = graph.to_choices([sample.widths for sample in timed])
    ms = np.array([candidates.most_ms(config, sample) for sample in timed])
    scale = _scale(ms / scores(cost, chosen))
    cost = cost.replace(unary=scale * cost.unary, tables=scale * cost.tables)
    noise = ms * np.hypot([sample.error for sample in timed], OWN_ERROR)
    error = TABLE_ERROR * float(ms.mean())
    shift = correction(chosen, ms - scores(cost, chosen), noise, error, cost.unary.shape)
    return cost.replace(unary=cost.unary + shift)


def _scale(slower: np.ndarray) -> float:
    """Return by how much a device is slower or faster than its table beyond what may be the table's error.

    A shift would be right for networks as large as those timed alone.
    """
    beyond = float(np.median(slower)) - 1
    return 1 + float(np.sign(beyond)) * max(abs(beyond) - TABLE_ERROR, 0.0)
