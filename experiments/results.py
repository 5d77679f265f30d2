"""What a run comes to: the networks found are trained with every seed, told in a table and in the report."""

from typing import Any

from experiments import candidates, progress, report, spent
from experiments.budget import describe, load_table
from experiments.config import Config
from experiments.space import graph_of
from experiments.train_subnet import found
from experiments.trainers import train_finals
from experiments.training import load_data
from jcw import data
from jcw.graph import Graph
from jcw.latency.table import LatencyTable


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
    methods = candidates.with_times(config, graph, methods)
    seeds = [config.seed + seed for seed in config.subnet.seeds]
    networks = {method['widths']: None for method in methods.values()}
    with spent.on(config.run, 'training the results'):
        known = train_finals(config, dataset, graph, networks, seeds)
    return {
        name: {**method, 'test_accuracies': [each['test_accuracy'] for each in known[method['widths']]]}
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
