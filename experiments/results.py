"""What a run comes to: the networks found are trained with every seed, told in a table and in the report."""

from typing import Any

from experiments import progress, report, spent
from experiments.budget import describe, load_table
from experiments.config import Config
from experiments.paths import paths
from experiments.space import graph_of
from experiments.train_subnet import found, timed
from experiments.trainers import Trainers
from experiments.training import load_data
from jcw import data
from jcw.graph import Graph, Widths
from jcw.latency.table import LatencyTable
from jcw.train.loop import Diverged


def results_of(
    config: Config, dataset: data.Dataset, graph: Graph, table: LatencyTable
) -> dict[str, dict[str, Any]]:
    """Train every network found, and the base network where that is asked for; return what is known of each."""
    methods = found(config)['methods']
    if config.report.base:
        methods = {
            **methods,
            'base': {'widths': (*graph.base.tolist(),), 'ms': float(table.predict(graph.base))},
        }
    methods = timed(config, graph, methods)
    seeds = [config.seed + seed for seed in config.subnet.seeds]
    networks = {
        widths: {seed: paths(config).trained(widths, seed) for seed in seeds}
        for widths in (method['widths'] for method in methods.values())
    }
    accuracies: dict[Widths, dict[int, float]] = {widths: {} for widths in networks}
    with spent.on(config.run, 'training the results'), Trainers(config, dataset, graph) as trainers:
        for trained in trainers.results(networks, 'Network'):
            if trained.failure:
                raise Diverged(trained.failure)
            accuracies[trained.widths][trained.seed] = trained.found['test_accuracy']
    return {
        name: {**method, 'test_accuracies': [accuracies[method['widths']][seed] for seed in seeds]}
        for name, method in methods.items()
    }


def main(config: Config) -> None:
    table = load_table(config)
    progress.console.print(describe(config, table), highlight=False)
    dataset = load_data(config)
    graph = graph_of(config, dataset)
    rows = report.rows_of(graph, results_of(config, dataset, graph, table))
    progress.console.print(report.table_of(rows, table))
    progress.console.print(f'Report: {report.write(config, dataset, graph, table, rows)}', highlight=False)
