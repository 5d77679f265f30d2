"""Time chosen networks on the device, and bring what methods choose to hold the measured budget."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.baseline_widths import At
from experiments.config import Config
from experiments.limits import limits_of
from experiments.measure_latency import time_networks
from experiments.paths import named, paths
from experiments.run_folder import Usage
from jcw.field import Field
from jcw.graph import Graph, Widths
from jcw.latency.sample import Sample
from jcw.latency.samples import Samples
from jcw.latency.table import LatencyTable
from jcw.search.repair import Corrected, Repair
from jcw.search.rounds import Method, Repaired, together


def samples_of(config: Config, graph: Graph, networks: Sequence[Widths] = ()) -> Samples:
    """Time the networks that were not timed; return all candidates of the run that were.

    Raises:
      Usage: they were visited once, so that nothing is known of their error.
    """
    path = paths(config).candidates
    read = time_networks(config, graph, networks, path, 'Timing candidates')
    if not all(np.isfinite(sample.error) for sample in read.timed):
        raise Usage(
            f'{path} holds networks visited once, whose error is unknown: set --latency.visits to 2 or more'
        )
    return read


def most_ms(config: Config, sample: Sample) -> float:
    """Return the measured latency, ms, with as many standard errors as the budget must hold."""
    return sample.ms * (1 + config.repair.confidence * sample.error)


def timed(config: Config, graph: Graph, networks: Sequence[Widths]) -> tuple[np.ndarray, np.ndarray]:
    """Return measured latency, ms, of candidates, and its relative standard error.

    Raises:
      Usage: one could not be timed.
    """
    times = _each(samples_of(config, graph, networks), networks, paths(config).candidates)
    rows = [times[widths] for widths in networks]
    return np.array([row.ms for row in rows]), np.array([row.error for row in rows])


def finals(config: Config, graph: Graph, networks: Sequence[Widths]) -> dict[Widths, Sample]:
    """Time trained networks once more, for the table; those already timed are read back.

    Raises:
      Usage: one could not be timed.
    """
    path = paths(config).finals
    return _each(time_networks(config, graph, networks, path, 'Timing the results'), networks, path)


def _each(read: Samples, networks: Sequence[Widths], path: Path) -> dict[Widths, Sample]:
    times = {sample.widths: sample for sample in read.timed}
    for widths in networks:
        if widths not in times:
            reasons = [sample.failure for sample in read.samples if sample.widths == widths]
            raise Usage(
                f'network {named(widths)} could not be timed: {"; ".join(reasons)}; '
                f'remove its lines from {path} to try again'
            )
    return times


def with_times(config: Config, graph: Graph, methods: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return what is known of every method's network with its measured latency; repair has measured it already."""
    missing = {name: method for name, method in methods.items() if 'measured_ms' not in method}
    if not missing:
        return methods
    times = finals(config, graph, [method['widths'] for method in missing.values()])
    return methods | {
        name: {**method, 'measured_ms': sample.ms, 'measured_error': sample.error}
        for name, method in missing.items()
        for sample in [times[method['widths']]]
    }


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
