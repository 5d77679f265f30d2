"""Time the best candidates on the device, correct the table and search again, until the measured latency holds.

What joint search returns was measured, some standard errors included, to lie within the budget, and no candidate
is left that the corrected table puts within it and that would be better. The baselines are brought to hold the same
measured budget: each is asked for the network of a budget corrected by how much slower its last one was than
predicted, until that network has been timed.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments import candidates, fit_accuracy, progress
from experiments.baseline_widths import At, baselines_of
from experiments.budget import load_table
from experiments.config import Config
from experiments.limits import describe as describe_limits
from experiments.limits import limits_of
from experiments.paths import paths
from experiments.run_folder import Usage, claim, read_found, save_json
from experiments.search_widths import search, utility_of
from experiments.space import graph_of
from experiments.train_supernet import train
from experiments.training import load_data
from jcw import data
from jcw.accuracy import design
from jcw.accuracy.table import AccuracyTable
from jcw.field import Field
from jcw.graph import Graph
from jcw.latency.table import LatencyTable
from jcw.search.rounds import Repaired


class Held(NamedTuple):
    """A method's network under a measured budget, as it is written down."""

    widths: list[int]
    ms: float  # predicted
    measured_ms: float
    measured_error: float  # standard error, relative
    holds: bool
    timed: int  # networks
    complete: bool  # whether nothing better was left to try
    rounds: int  # of timing; 0 where the best of the networks trained was taken


def repair(config: Config, dataset: data.Dataset, graph: Graph, table: LatencyTable) -> dict[str, Any]:
    """Return what `search` does, every method's widths as they hold the measured budget, and the rounds it took."""
    found = search(config, dataset, graph, table)
    settings, where = config.repair, paths(config)
    if not settings.rounds:
        return found
    claim(where.search / 'repair', repair=settings)
    if not where.found.exists():
        baselines = baselines_of(config, dataset, graph, table, train(config, dataset, graph))
        methods, rounds = held_by(
            config,
            graph,
            table,
            fit_accuracy.fitted(config, dataset, graph, table),
            found['budget_ms'],
            {'joint': utility_of(config, dataset, graph, table)},
            {name: choose for name, choose in baselines.items() if name in found['methods']},
        )
        limits = limits_of(config, graph)
        for method in methods.values():
            method['beside'] = limits.beside(graph.to_choices(method['widths']))
        save_json(
            where.found, {**found, 'methods': methods, 'rounds': rounds, 'confidence': settings.confidence}
        )
    return read_found(where.found)


def held_by(
    config: Config,
    graph: Graph,
    table: LatencyTable,
    accuracy: AccuracyTable | None,
    budget_ms: float,
    utilities: Mapping[str, Field],
    at: Mapping[str, At],
) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """Return every method's network under a measured budget, as it is written down, and joint search's rounds.

    Where short trainings are final ones, joint search takes the best network trained that holds: its result is known,
    while the optimum of a fit flatters itself. Nothing more is timed for it, unless none holds.

    Args:
      accuracy: the table that joint search goes by; None without one, or without joint search.
      utilities, at: as of `candidates.hold`.
    """
    known = {}
    if accuracy and fit_accuracy.whole(config):
        known = best_known(config, graph, table, accuracy, budget_ms, trained=True)
    asked = {name: each for name, each in utilities.items() if name != 'joint' or not known}
    held = candidates.hold(config, graph, table, budget_ms, asked, at)
    methods = {name: _held(each)._asdict() for name, each in held.items()}
    if accuracy and known:
        trained = len(accuracy.evidence.choices)
        return {'joint': Held(**known, timed=trained, complete=True, rounds=0)._asdict(), **methods}, []
    if accuracy:
        methods['joint'] |= best_known(config, graph, table, accuracy, budget_ms)
    return methods, [each._asdict() for each in held['joint'].rounds] if 'joint' in held else []


def best_known(
    config: Config,
    graph: Graph,
    table: LatencyTable,
    accuracy: AccuracyTable,
    budget_ms: float,
    *,
    trained: bool = False,
) -> dict[str, Any]:
    """Return the best network by the accuracy table of all that were timed and hold the budget; nothing if none does.

    What was trained counts by what came of it, too; the baselines' networks are among those timed.

    Args:
      trained: whether only what was trained is taken.
    """
    every = candidates.samples_of(config, graph).timed
    limits, anywhere = limits_of(config, graph), table.to_cost()
    known = {*graph.networks(accuracy.evidence.choices)}
    holding = [
        sample
        for sample in every
        if candidates.most_ms(config, sample) <= budget_ms
        and limits.shares(anywhere, np.inf, graph.to_choices([sample.widths]))[0] <= 1
        and (sample.widths in known or not trained)
    ]
    if not holding:
        return {}
    choices = graph.to_choices([sample.widths for sample in holding])
    best = holding[design.winner(accuracy, choices.astype(np.int64), np.ones(len(holding), bool))]
    return {
        'widths': best.widths,
        'ms': float(table.predict(best.widths)),
        'measured_ms': best.ms,
        'measured_error': best.error,
        'holds': True,
    }


def _held(found: Repaired) -> Held:
    return Held(
        widths=found.widths.tolist(),
        ms=found.predicted,
        measured_ms=found.measured,
        measured_error=found.error,
        holds=found.feasible,
        timed=sum(len(timed.widths) for timed in found.rounds),
        complete=found.complete,
        rounds=len(found.rounds),
    )


def describe(result: dict[str, Any]) -> str:
    """Say in a line or two how prediction, measurement and budget of the joint network compare, and further limits."""
    joint = result['methods']['joint']
    further = describe_limits(result.get('limits', {}), joint.get('beside', {}))
    further = f'; {further}' if further else ''
    if 'measured_ms' not in joint:
        return f'joint: predicted {joint["ms"]:.3f} ms, budget {result["budget_ms"]:.3f} ms, not repaired{further}'
    holds = 'holds' if joint['holds'] else 'does not hold'
    way_out = '' if joint['holds'] else '. Try more --repair.rounds, or a larger --search.budget'
    times = 'round' if joint['rounds'] == 1 else 'rounds'
    left = 'no better candidate is left' if joint['complete'] else 'better candidates were left untimed'
    how = (
        f'after {joint["rounds"]} {times} ({joint["timed"]} networks timed); {left}'
        if joint['rounds']
        else f'the best of the {joint["timed"]} networks trained that does'
    )
    return (
        f'joint: predicted {joint["ms"]:.3f} ms, measured {joint["measured_ms"]:.3f} ms '
        f'± {joint["measured_error"]:.1%}, budget {result["budget_ms"]:.3f} ms; it {holds} the budget with '
        f'{result["confidence"]:g} standard errors to spare, {how}{further}{way_out}'
    )


def main(config: Config) -> None:
    dataset = load_data(config)
    graph = graph_of(config, dataset)
    table = load_table(config)
    if not (paths(config).search / 'result.json').exists():
        raise Usage(f'{paths(config).search} holds no widths: run experiments.search_widths first')
    result = repair(config, dataset, graph, table)
    progress.console.print(describe(result), highlight=False)
    for name, found in result['methods'].items():
        progress.console.print(f'{name:8} {found["ms"]:.3f} ms predicted  {found["widths"]}', highlight=False)


if __name__ == '__main__':
    from experiments.command_line import parse
    from experiments.stage import run_stage

    run_stage(main, parse(__doc__, 'search', 'repair', 'latency'), keep_freed=True)
