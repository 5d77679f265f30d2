"""Fit the latency table to the timed networks, and say how wrong it is on networks it has not seen."""

import dataclasses

from experiments import pictures, progress, spent
from experiments.budget import rounded_up, unit
from experiments.config import Config
from experiments.locks import exclusive
from experiments.paths import paths
from experiments.run_folder import Usage, read_json, save_json
from jcw import budget
from jcw.latency import drift, samples
from jcw.latency.report import compare
from jcw.latency.table import LatencyTable, fit_samples, flops_table
from jcw.search import ows

DIGEST = 'samples_digest'  # of the file that a table was fitted to


def fit(config: Config) -> LatencyTable:
    """Fit and save the table with its held-out predictions; reuse it while the samples are the same, to the byte."""
    path = paths(config).samples
    if not path.exists():
        raise Usage(f'{path} is missing: run experiments.measure_latency first')
    with exclusive(path.parent, 'fitting'):
        return _fit(config, samples.read(path), samples.digest(path))


def _fit(config: Config, timed: samples.Samples, digest: str) -> LatencyTable:
    table_file, report_file = paths(config).table, paths(config).fit
    if table_file.exists() and report_file.exists():
        table = LatencyTable.load(table_file)
        if digest == table.provenance.get(DIGEST) == read_json(report_file).get(DIGEST):
            return table
    with spent.on(config.run, 'fitting the latency table'):
        table, result = fit_samples(timed)
    table = dataclasses.replace(table, provenance={**table.provenance, DIGEST: digest})
    measured = drift.corrected(timed).latency_ms  # as the table was fitted to them
    flops = flops_table(table.graph).predict(timed.widths)
    found = compare(measured, result.predicted, result.deviations, flops)
    table.save(table_file)
    save_json(
        report_file,
        {
            DIGEST: digest,
            'samples': len(timed.timed),
            'held_out': result.held_out._asdict(),
            'flops': found.flops._asdict(),
            'warnings': found.warnings,
            'measured_ms': measured,
            'predicted_ms': result.predicted,
            'flops_ms': found.by_flops,
        },
    )
    pictures.save(config, 'latency.png', pictures.latency(read_json(report_file, 'held_out')))
    return table


def describe(config: Config) -> str:
    """Say in two lines how good the table is, and warn where it is not good enough."""
    report = read_json(paths(config).fit, 'samples', 'held_out', 'flops')
    held, flops = report['held_out'], report['flops']
    return (
        f'Latency table from {report["samples"]} networks; on networks held out: '
        f'NRMSE {held["nrmse"]:.1%}, R2 {held["r2"]:.4f}, rank correlation {held["spearman"]:.3f}\n'
        f'FLOPs as the predictor, on the same networks: NRMSE {flops["nrmse"]:.1%}, '
        f'rank correlation {flops["spearman"]:.3f}'
        + ''.join(f'\nWarning: {w}' for w in report.get('warnings', ()))
    )


def main(config: Config) -> None:
    table = fit(config)
    progress.console.print(describe(config), highlight=False)
    progress.console.print(
        f'{reach(table)} Picture: {paths(config).plots / "latency.png"}',
        highlight=False,
    )


def reach(table: LatencyTable) -> str:
    """Say how fast networks can be, which need not be the narrowest, and hence what budgets can be asked for."""
    base, high = (float(table.predict(widths)) for widths in (table.graph.base, table.graph.largest))
    least = float(budget.cheapest(ows.flat(table.graph), table.to_cost()).cost)
    return (
        f'Fastest network {least:.3f}, base network {base:.3f}, largest {high:.3f} {unit(table)}. '
        f'Budgets can be from {rounded_up(least / base):.2f} of the base network.'
    )


if __name__ == '__main__':
    from experiments.command_line import parse
    from experiments.stage import run_stage

    run_stage(main, parse(__doc__, 'latency'))
