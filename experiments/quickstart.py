"""The whole job: time the device, train the supernet, search, train what was found, report and export.

Finished stages are reused and an interrupted one goes on where it was, so the same command may be called again.
"""

import time

from rich.table import Table

from experiments import (
    export,
    fit_accuracy,
    fit_latency,
    measure_latency,
    repair_widths,
    report,
    search_widths,
    train_subnet,
    train_supernet,
)
from experiments.budget import budget_ms
from experiments.config import Config
from experiments.paths import paths
from experiments.presets import parse
from experiments.progress import console
from experiments.run_folder import read_json, save_json
from experiments.space import graph_of
from experiments.training import load_data


def main(config: Config) -> None:
    began = time.monotonic()
    dataset = load_data(config)
    graph = graph_of(config, dataset)
    console.print(
        f'{dataset.name}: {len(dataset.train)} training, {len(dataset.validation)} validation and '
        f'{len(dataset.test)} test images; {graph.num_configurations:.1e} channel configurations',
        highlight=False,
    )
    _say(1, 'Timing the device and fitting the latency table')
    measure_latency.measure(config)
    table = fit_latency.fit(config)
    console.print(fit_latency.describe(config), highlight=False)
    limit = budget_ms(config, table)

    _say(2, 'Training the supernet and collecting width statistics')
    train_supernet.train(config, dataset, graph)
    console.print(train_supernet.describe(config), highlight=False)

    if config.accuracy.trainings:
        _say(3, 'Training a few networks briefly, and fitting the accuracy field to them')
        fit_accuracy.fit(config, dataset, graph, table)
        console.print(read_json(paths(config).accuracy / 'report.json')['said'], highlight=False)

    _say(4, f'Searching for the best widths within {limit:.3f} ms')
    searched = search_widths.search(config, dataset, graph, table)
    console.print('Proven optimal for the field and table; the frontier is in the report.', highlight=False)
    console.print(search_widths.describe_drivers(searched), highlight=False)
    found = repair_widths.repair(config, dataset, graph, table)
    console.print(repair_widths.describe(found), highlight=False)

    _say(5, 'Training the results')
    results = {}
    for name, result in train_subnet.timed(config, graph, found['methods']).items():
        each = train_subnet.train_seeds(config, dataset, graph, result['widths'], name)
        results[name] = {**result, 'test_accuracies': [found['test_accuracy'] for found in each]}
    rows = report.rows_of(graph, results)
    save_json(paths(config).results, rows)
    console.print(_table(rows))

    _say(6, 'Writing the report and the deployable network')
    page = report.write(config, dataset, graph, table, rows)
    network = export.export(config, dataset, graph)
    console.print(f'Report:  {page}\nNetwork: {network}', highlight=False)
    console.print(f'Done in {time.monotonic() - began:.0f} s.', highlight=False)


def _say(stage: int, what: str) -> None:
    console.print(f'\n[bold]{stage}/6 {what}[/bold]', highlight=False)


def _table(rows: list[dict]) -> Table:
    table = Table(*report.HEADINGS)
    for row in rows:
        table.add_row(*report.cells_of(row))
    return table


if __name__ == '__main__':
    from experiments.run_folder import run_stage

    run_stage(main, parse(__doc__), keep_freed=True)
