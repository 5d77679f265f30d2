"""The whole job: time the device, train the supernet, search, train what was found, report and export.

Finished stages are reused and an interrupted one goes on where it was, so the same command may be called again.
"""

import time

from experiments import (
    budget,
    check_data,
    export,
    fit_accuracy,
    fit_latency,
    measure_latency,
    repair_widths,
    report,
    results,
    search_widths,
    spent,
    train_supernet,
)
from experiments.config import Config
from experiments.paths import paths
from experiments.progress import console
from experiments.run_folder import read_json
from experiments.space import graph_of
from experiments.training import load_data


def main(config: Config) -> None:
    began = time.monotonic()
    export.check(config)
    dataset = load_data(config)
    graph = graph_of(config, dataset)
    check_data.once(config, dataset)
    console.print(f'{graph.num_configurations:.1e} channel configurations', highlight=False)
    _say(1, 'Timing the device and fitting the latency table')
    measure_latency.measure(config)
    table = fit_latency.fit(config)
    console.print(fit_latency.describe(config), highlight=False)
    console.print(budget.describe(config, table), highlight=False)

    _say(2, 'Training the supernet and collecting width statistics')
    train_supernet.train(config, dataset, graph)
    console.print(train_supernet.describe(config), highlight=False)

    if config.accuracy.trainings:
        _say(3, 'Training a few networks briefly, and fitting the accuracy field to them')
        fit_accuracy.fit(config, dataset, graph, table)
        console.print(read_json(paths(config).accuracy / 'report.json', 'said')['said'], highlight=False)

    _say(4, 'Searching for the best widths within the budget')
    searched = search_widths.search(config, dataset, graph, table)
    console.print('Proven optimal for the field and table; the frontier is in the report.', highlight=False)
    for line in search_widths.describe_devices(searched):
        console.print(line, highlight=False)
    console.print(search_widths.describe_drivers(searched), highlight=False)
    found = repair_widths.repair(config, dataset, graph, table)
    console.print(repair_widths.describe(found), highlight=False)

    _say(5, 'Training the results')
    rows = report.rows_of(graph, results.results_of(config, dataset, graph, table))
    console.print(report.table_of(rows, table))

    _say(6, 'Writing the report and the deployable network')
    page = report.write(config, dataset, graph, table, rows)
    network = export.export(config, dataset, graph)
    console.print(f'Report:  {page}\nNetwork: {network}', highlight=False)
    console.print(f'Done in {time.monotonic() - began:.0f} s.', highlight=False)
    console.print(f'By part, of all starts of this run: {spent.describe(config.run)}', highlight=False)


def _say(stage: int, what: str) -> None:
    console.print(f'\n{stage}/6 {what}', style='bold', highlight=False)


if __name__ == '__main__':
    from experiments.command_line import parse
    from experiments.stage import run_stage

    run_stage(main, parse(__doc__, 'data', 'space', 'latency', 'search', 'report'), keep_freed=True)
