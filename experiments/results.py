"""What a run comes to: the networks found are trained with every seed, told in a table and in the report."""

from typing import Any

from experiments import progress, report, spent
from experiments.budget import describe, load_table
from experiments.config import Config
from experiments.space import graph_of
from experiments.train_subnet import found, timed, train_seeds
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
    results = {}
    for name, method in timed(config, graph, methods).items():
        with spent.on(config.run, 'training the results'):
            each = train_seeds(config, dataset, graph, method['widths'], name)
        results[name] = {**method, 'test_accuracies': [result['test_accuracy'] for result in each]}
    return results


def main(config: Config) -> None:
    table = load_table(config)
    progress.console.print(describe(config, table), highlight=False)
    dataset = load_data(config)
    graph = graph_of(config, dataset)
    rows = report.rows_of(graph, results_of(config, dataset, graph, table))
    progress.console.print(report.table_of(rows, table))
    progress.console.print(f'Report: {report.write(config, dataset, graph, table, rows)}', highlight=False)
