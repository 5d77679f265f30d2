"""The methods that are compared: what joint search maximises in its variations, and what the baselines choose."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from experiments import baseline_widths, fit_accuracy, progress, search_widths, spent, train_supernet
from experiments.budget import at_budget, load_table
from experiments.config import Config
from experiments.limits import limits_of
from experiments.run_folder import Usage
from jcw import data
from jcw.field import Field
from jcw.graph import Graph, Widths
from jcw.latency.table import LatencyTable, flops_table
from jcw.search import baselines


class Setting(NamedTuple):
    """What all methods share."""

    config: Config
    dataset: data.Dataset
    graph: Graph
    table: LatencyTable
    supernet: Callable[[], train_supernet.Supernet]  # trained, or read, when it is first asked for
    losses: Callable[[], baseline_widths.Losses]  # of its subnets


def _joint(setting: Setting) -> Field:
    return search_widths.utility_of(setting.config, setting.dataset, setting.graph, setting.table)


def _rewards(setting: Setting) -> Field:
    return search_widths.rewards_of(setting.config, setting.supernet(), setting.graph)


def _adaptive(setting: Setting) -> Field:
    config = at_budget(setting.config, setting.config.search.budget, adaptive=True)
    supernet = train_supernet.train(config, setting.dataset, setting.graph)
    return search_widths.rewards_of(config, supernet, setting.graph)


def _uniform(setting: Setting, limit: float) -> np.ndarray:
    limits = limits_of(setting.config, setting.graph)
    return baselines.uniform(setting.graph, setting.table.to_cost(), limit, limits)


def _greedy(setting: Setting, limit: float) -> np.ndarray:
    return baseline_widths.slim(setting.config, setting.graph, setting.table, setting.losses(), limit)


def _random(setting: Setting, limit: float) -> np.ndarray:
    """Search at random, just within the limit, with as many evaluations as greedy needs to get there."""
    config, graph, table, losses = setting.config, setting.graph, setting.table, setting.losses()
    asked: dict[Widths, None] = {}

    def noted(choices: np.ndarray) -> float:
        asked[tuple(choices.tolist())] = None
        return losses(choices)

    baseline_widths.slim(config, graph, table, noted, limit)
    evaluations = len(asked)
    asked.clear()
    with spent.on(config.run, 'random search'), progress.bar('Random search', evaluations) as update:

        def shown(choices: np.ndarray) -> float:
            value = noted(choices)
            update(len(asked), '')
            return value

        key = jax.random.key(config.seed + 4)
        limits = limits_of(config, graph)
        return baselines.random_search(key, graph, shown, table.to_cost(), limit, evaluations, limits)


def _flops(setting: Setting, limit: float) -> np.ndarray:
    return _by_other_cost(setting, flops_table(setting.graph), limit)


def _other_table(setting: Setting, limit: float) -> np.ndarray:
    """Search by the latency table of another run: another runtime's, or another device's."""
    run = setting.config.compare.other_table
    if run is None:
        raise Usage("method 'other_table' needs --compare.other-table, the run folder of that table")
    other = dataclasses.replace(setting.config, run=run)
    return _by_other_cost(setting, load_table(other), limit)


def _by_other_cost(setting: Setting, other: LatencyTable, limit: float) -> np.ndarray:
    """Do what joint search does, by another cost, as far as this device's table allows."""
    limits, cost = limits_of(setting.config, setting.graph), setting.table.to_cost()
    utility, other_cost = _joint(setting), other.to_cost(setting.graph)
    return baselines.by_proxy(setting.graph, utility, other_cost, cost, limit, limits)


def _random_trained(setting: Setting, limit: float) -> np.ndarray:
    """Train as many random networks just within the limit as joint search trains, and take the best.

    Asked again, for a budget that a measurement has corrected, it draws and trains as many anew.
    """
    return fit_accuracy.best_of_random(setting.config, setting.dataset, setting.graph, setting.table, limit)


FIELDS = {'joint': _joint, 'rewards': _rewards, 'adaptive': _adaptive}
"""What joint search maximises."""
BASELINES = {
    'greedy': _greedy,
    'uniform': _uniform,
    'random': _random,
    'random_trained': _random_trained,
    'flops': _flops,
    'other_table': _other_table,
}
"""From a budget in predicted ms to choices."""

_SUPERNET = ('training the supernet',)
_GREEDY = (*_SUPERNET, 'greedy slimming')
_JOINT = (*_GREEDY, 'short trainings')  # it trains the baselines' networks, too
PARTS: dict[str, tuple[str, ...]] = {
    'joint': _JOINT,
    'rewards': _SUPERNET,
    'adaptive': (*_JOINT, 'training the narrowed supernet'),
    'greedy': _GREEDY,
    'uniform': (),
    'random': (*_GREEDY, 'random search'),
    'random_trained': ('trainings of random search',),
    'flops': _JOINT,
    'other_table': _JOINT,
}
"""What each method takes of what the run has spent, besides timing: of this all have the same share."""


def seconds(run: Path, methods: Sequence[str]) -> dict[str, float]:
    """Return what each method would have taken alone, for all budgets, without timing and final trainings."""
    found = spent.of_run(run)
    return {name: sum(found.get(part, 0.0) for part in PARTS[name]) for name in methods}
