"""Time the best candidates on the device, correct the table and search again, until the measured latency holds.

What joint search returns was measured, some standard errors included, to lie within the budget, and no candidate
is left that the corrected table puts within it and that would be better. The baselines are brought to hold the same
measured budget: each is asked for the network of a budget corrected by how much slower its last one was than
predicted, until that network has been timed.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments import fit_accuracy, progress
from experiments.baseline_widths import At, baselines_of
from experiments.budget import load_table
from experiments.config import Config
from experiments.limits import describe as describe_limits
from experiments.limits import limits_of
from experiments.measure_latency import time_networks
from experiments.paths import named, paths
from experiments.run_folder import Usage, claim, read_found, save_json
from experiments.search_widths import search, utility_of
from experiments.space import graph_of
from experiments.train_supernet import train
from experiments.training import load_data
from jcw import data
from jcw.accuracy import design
from jcw.field import Field
from jcw.graph import Graph, Widths
from jcw.latency.table import LatencyTable
from jcw.search.repair import Corrected, Repair
from jcw.search.rounds import Method, Repaired, together


class Held(NamedTuple):
    """A method's network under a measured budget, as it is written down."""

    widths: list[int]
    ms: float  # predicted
    measured_ms: float
    measured_error: float  # standard error, relative
    holds: bool
    complete: bool  # whether nothing better was left to try
    rounds: int
    timed: int  # networks


def repair(config: Config, dataset: data.Dataset, graph: Graph, table: LatencyTable) -> dict[str, Any]:
    """Return what `search` does, every method's widths as they hold the measured budget, and the rounds it took."""
    found = search(config, dataset, graph, table)
    settings, where = config.repair, paths(config)
    if not settings.rounds:
        return found
    claim(where.search / 'repair', repair=settings)
    if not where.found.exists():
        limit = found['budget_ms']
        baselines = baselines_of(config, dataset, graph, table, train(config, dataset, graph))
        held = hold(
            config,
            graph,
            table,
            limit,
            {'joint': utility_of(config, dataset, graph, table)},
            {name: choose for name, choose in baselines.items() if name in found['methods']},
        )
        methods = {name: held_of(each)._asdict() for name, each in held.items()}
        if config.accuracy.trainings:
            methods['joint'] |= best_known(config, dataset, graph, table, limit)
        limits = limits_of(config, graph)
        for method in methods.values():
            method['beside'] = limits.beside(graph.to_choices(method['widths']))
        rounds = [timed._asdict() for timed in held['joint'].rounds]
        save_json(
            where.found, {**found, 'methods': methods, 'rounds': rounds, 'confidence': settings.confidence}
        )
    return read_found(where.found)


def hold(
    config: Config,
    graph: Graph,
    table: LatencyTable,
    budget_ms: float,
    utilities: Mapping[str, Field],
    at: Mapping[str, At],
) -> dict[str, Repaired]:
    """Find every method's network within the measured budget; what they ask for in a round is timed in one call.

    Args:
      utilities: by method, what joint search maximises.
      at: by baseline, what it chooses for a budget in predicted milliseconds; it must have something for this one.
    """
    settings, cost, limits = config.repair, table.to_cost(), limits_of(config, graph)
    methods: dict[str, Method] = {
        name: Repair(
            graph,
            utility,
            cost,
            budget_ms,
            k=settings.candidates,
            confidence=settings.confidence,
            max_rounds=settings.rounds,
            limits=limits,
        )
        for name, utility in utilities.items()
    }
    methods |= {
        name: Corrected(graph, each, cost, budget_ms, settings.confidence) for name, each in at.items()
    }
    return together(methods, lambda networks: timed(config, graph, networks), settings.rounds)


def best_known(
    config: Config, dataset: data.Dataset, graph: Graph, table: LatencyTable, budget_ms: float
) -> dict[str, Any]:
    """Return the best network by the accuracy table of all that were timed and hold the budget; nothing if none does.

    What was trained counts by what came of it, too; the baselines' networks are among those timed. Where the trainings
    were final ones, only what was trained is taken: its result is known, and the optimum of a fit flatters itself.
    """
    read = time_networks(config, graph, [], paths(config).candidates, 'Timing candidates')
    limit = budget_ms / (1 + config.repair.confidence * np.array([sample.error for sample in read.timed]))
    holding = [sample for sample, most in zip(read.timed, limit, strict=True) if sample.ms <= most]
    limits, anywhere = limits_of(config, graph), table.to_cost()
    holding = [s for s in holding if limits.shares(anywhere, np.inf, graph.to_choices([s.widths]))[0] <= 1]
    accuracy = fit_accuracy.fit(config, dataset, graph, table)
    if fit_accuracy.whole(config):
        trained = {*graph.networks(accuracy.evidence.choices)}
        holding = [sample for sample in holding if sample.widths in trained] or holding
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


def timed(config: Config, graph: Graph, networks: Sequence[Widths]) -> tuple[np.ndarray, np.ndarray]:
    """Return measured latency, ms, of candidates, and its relative standard error.

    Raises:
      Usage: one could not be timed.
    """
    path = paths(config).candidates
    read = time_networks(config, graph, networks, path, 'Timing candidates')
    times = {sample.widths: sample for sample in read.timed}
    for widths in networks:
        if widths not in times:
            reasons = [sample.failure for sample in read.samples if sample.widths == widths]
            raise Usage(
                f'network {named(widths)} could not be timed: {"; ".join(reasons)}; '
                f'remove its lines from {path} to try again'
            )
    rows = [times[widths] for widths in networks]
    return np.array([row.ms for row in rows]), np.array([row.error for row in rows])


def held_of(found: Repaired) -> Held:
    """Return a method's result as it is written down."""
    return Held(
        widths=found.widths.tolist(),
        ms=found.predicted,
        measured_ms=found.measured,
        measured_error=found.error,
        holds=found.feasible,
        complete=found.complete,
        rounds=len(found.rounds),
        timed=sum(len(timed.widths) for timed in found.rounds),
    )


def describe(result: dict[str, Any]) -> str:
    """Say in a line or two how prediction, measurement and budget of the joint network compare, and further limits."""
    joint = result['methods']['joint']
    further = describe_limits(result.get('limits', {}), joint.get('beside', {}))
    further = f'; {further}' if further else ''
    if 'measured_ms' not in joint:
        return f'joint: predicted {joint["ms"]:.3f} ms, budget {result["budget_ms"]:.3f} ms, not repaired{further}'
    times = 'round' if joint['rounds'] == 1 else 'rounds'
    holds = 'holds' if joint['holds'] else 'does not hold'
    way_out = '' if joint['holds'] else '. Try more --repair.rounds, or a larger --search.budget'
    left = 'no better candidate is left' if joint['complete'] else 'better candidates were left untimed'
    return (
        f'joint: predicted {joint["ms"]:.3f} ms, measured {joint["measured_ms"]:.3f} ms '
        f'± {joint["measured_error"]:.1%}, budget {result["budget_ms"]:.3f} ms; it {holds} the budget with '
        f'{result["confidence"]:g} standard errors to spare, after {joint["rounds"]} {times} '
        f'({joint["timed"]} networks timed); {left}{further}{way_out}'
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
