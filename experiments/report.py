"""The run's plots, its table, and one HTML page that holds them all."""

import base64
import html
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from experiments import launch, pictures, spent
from experiments.budget import unit
from experiments.comparison import standard_error
from experiments.config import Config
from experiments.export import shipped
from experiments.paths import paths
from experiments.repair_widths import describe
from experiments.run_folder import read_found, read_json, save_json
from experiments.search_widths import describe_devices, describe_drivers
from experiments.train_subnet import found
from jcw.data import Dataset
from jcw.graph import Graph
from jcw.latency.table import LatencyTable, flops_table, params_table


def rows_of(graph: Graph, results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row per method: widths, latency, parameters, FLOPs and accuracy."""
    flops, params = flops_table(graph), params_table(graph)
    return [
        {
            'method': name,
            'predicted_ms': result['ms'],
            'measured_ms': result['measured_ms'],
            'measured_error': result['measured_error'],
            'rounds': result.get('rounds', 0),
            'holds': result.get('holds'),
            'parameters': int(params.predict(result['widths'])),
            'mflops': float(flops.predict(result['widths'])) / 1e6,
            'test_accuracies': result['test_accuracies'],
            'test_accuracy': float(np.mean(result['test_accuracies'])),
            'standard_error': standard_error(np.array(result['test_accuracies'])),
            'widths': result['widths'],
        }
        for name, result in results.items()
    ]


HEADINGS = ('method', 'predicted', 'measured', 'parameters', 'MFLOPs', 'test accuracy', 'widths')


def cells_of(row: dict[str, Any]) -> tuple[str, ...]:
    """Return a row's cells as text."""
    return (
        row['method'],
        f'{row["predicted_ms"]:.3f} ms',
        f'{row["measured_ms"]:.3f} ms ± {row["measured_error"]:.1%}',
        f'{row["parameters"]:,}',
        f'{row["mflops"]:.2f}',
        f'{row["test_accuracy"]:.1%}'
        + (f' ± {row["standard_error"]:.1%}' if row['standard_error'] == row['standard_error'] else ''),
        ' '.join(str(w) for w in row['widths']),
    )


def table_of(rows: list[dict[str, Any]], table: LatencyTable) -> Table:
    """Return the rows as a table to print."""
    printed = Table(*HEADINGS, title=f'{unit(table)}; standard errors over seeds')
    for row in rows:
        printed.add_row(*cells_of(row))
    return printed


def write(
    config: Config, dataset: Dataset, graph: Graph, table: LatencyTable, rows: list[dict[str, Any]]
) -> Path:
    """Keep the rows, draw the plots, write `report.html`, and return its path."""
    save_json(paths(config).results, rows)
    drawn = {
        'latency.png': pictures.latency(read_json(paths(config).fit, 'held_out')),
        'frontier.png': pictures.frontier(found(config)),
        'widths.png': pictures.widths_of(graph, rows),
    }
    if config.accuracy.trainings:
        drawn['accuracy.png'] = pictures.accuracy(
            read_json(paths(config).accuracy / 'report.json', 'measured')
        )
    for name, picture in drawn.items():
        pictures.save(config, name, picture)
    if launch.is_first():
        paths(config).report.write_text(_page(config, dataset, table, rows, drawn), encoding='utf-8')
    return paths(config).report


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; font-size: 14px } td, th { padding: .3rem .7rem; text-align: right }
td:first-child, th:first-child, td:last-child, th:last-child { text-align: left }
tr { border-bottom: 1px solid #ddd } img { max-width: 100% } .pair { display: flex; flex-wrap: wrap }
.pair img { flex: 1 1 20rem; min-width: 0 } .note { color: #666; font-size: 14px }
"""


def drivers_of(graph: Graph, result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return a row per site of the joint optimum: width, its part of utility and latency, what changing it trades."""
    found = result['explanation']
    parts = zip(
        graph.site_names,
        result['methods']['joint']['widths'],
        *(found[name] for name in ('utility', 'ms', 'gain_per_ms', 'loss_per_ms')),
        strict=True,
    )
    return [
        (
            site,
            str(width),
            f'{utility:+.4f}',
            f'{ms:.4f} ms',
            f'{gain:.3f}',
            'narrowest' if loss is None else f'{loss:.3f}',
        )
        for site, width, utility, ms, gain, loss in parts
    ]


DRIVERS = ('site', 'width', 'utility', 'latency', 'gain per ms if wider', 'loss per ms if narrower')


def _sentence(warning: str) -> str:
    return f'Warning: {warning}.'


def _baselines(result: dict[str, Any]) -> str:
    """Say how the baselines were brought to the measured budget."""
    others = {name: method for name, method in result['methods'].items() if name != 'joint'}
    if not all('holds' in method for method in others.values()):
        return ''
    over = [name for name, method in others.items() if not method['holds']]
    return (
        'The baselines were brought to the same measured budget: each was asked again, its budget corrected by how '
        'much slower than predicted its last network had been. '
        + (f'No network of {" and ".join(over)} was found to hold it.' if over else 'All hold it.')
    )


def _devices(result: dict[str, Any]) -> str:
    """Say what each device's own network takes on every device, in a table; nothing for one device."""
    lines = describe_devices(result)
    if not lines:
        return ''
    rows = ''.join(f'<tr><td>{html.escape(line)}</td></tr>' for line in lines)
    return (
        '<h2>Several devices</h2><p>The joint network above holds the budgets of all. Alone, by the tables, each '
        f'device would get:</p><table>{rows}</table>'
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _base(config: Config, table: LatencyTable, rows: list[dict[str, Any]]) -> str:
    """Say how accurate and how fast the network was that the search began from."""
    row = next((row for row in rows if row['method'] == 'base'), None)
    if row is None:
        return (
            f'The base network takes {float(table.predict(table.graph.base)):.3f} ms (predicted). It was not trained; '
            '--report.base trains it, too.'
        )
    joint = next(row for row in rows if row['method'] == 'joint')
    gain = 100 * (joint['test_accuracy'] - row['test_accuracy'])
    return (
        f'The base network takes {row["measured_ms"]:.3f} ms and classifies {row["test_accuracy"]:.1%} of the test '
        f'images; joint search takes {joint["measured_ms"] / row["measured_ms"]:.0%} of that time and is '
        f'{abs(gain):.1f} points {"more" if gain >= 0 else "less"} accurate.'
    )


def _test_error(dataset: Dataset, rows: list[dict[str, Any]]) -> str:
    """Say how far the number of test images lets accuracies be told apart."""
    share, count = rows[0]['test_accuracy'], len(dataset.test)
    error = (share * (1 - share) / count) ** 0.5
    return (
        f'The test set has {count} images. An accuracy of {share:.1%} has a standard error of {error:.1%} from the '
        f'choice of these images alone; it comes on top of that of the seeds in the table.'
    )


def _next(config: Config) -> str:
    run = f'--run {config.run}'
    return (
        f'The network to deploy is in {paths(config).network} once `python -m experiments.export {run}` has run; '
        f'`jcw.deploy.load` reads it (docs/deploy.md). Another budget needs no new timing and no new supernet: '
        f'`python -m experiments.fit_accuracy {run} --search.budget FRACTION`, then the stages after it.'
    )


def _page(
    config: Config,
    dataset: Dataset,
    table: LatencyTable,
    rows: list[dict[str, Any]],
    plots: dict[str, bytes],
) -> str:
    result, fit = found(config), read_json(paths(config).fit, 'held_out')

    def image(name: str, caption: str) -> str:
        encoded = base64.b64encode(plots[name]).decode()
        return f'<img alt="{caption}" title="{caption}" src="data:image/png;base64,{encoded}">'

    def line(cells: tuple[str, ...], tag: str) -> str:
        return '<tr>' + ''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells) + '</tr>'

    source = table.provenance
    subnet = config.subnet
    weights = (
        "the supernet's" if subnet.from_supernet else "the starting network's" if subnet.from_start else ''
    )
    start = f'from {weights} weights' if weights else 'from scratch'
    share = result['budget_ms'] / result['base_ms']
    head = line(HEADINGS, 'th')
    body = '\n'.join(line(cells_of(row), 'td') for row in rows)
    searched = read_found(paths(config).search / 'result.json')
    drivers = '\n'.join(line(cells, 'td') for cells in drivers_of(table.graph, searched))
    seconds = spent.of_run(config.run)
    took = '\n'.join(
        line((name, f'{s:.0f}'), 'td') for name, s in {**seconds, 'in all': sum(seconds.values())}.items()
    )
    files = '\n'.join(line(cells, 'td') for cells in shipped(config))
    accuracy = image('accuracy.png', 'Predicted against obtained accuracy') if 'accuracy.png' in plots else ''
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>jcw: {html.escape(dataset.name)} at {result['budget_ms']:.3f} ms</title><style>{STYLE}</style>
<h1>{html.escape(config.space.network)} on {html.escape(dataset.name)}, sized to this device</h1>
<p>Budget: {result['budget_ms']:.3f} {unit(table)}, {share:.0%} of the base network.
Device: {html.escape(str(source['device']))}; runtime: {html.escape(str(source['runtime']))}, {source['dtype']}.
Each network below was trained {start} by the same recipe
({config.subnet.epochs:g} epochs; {len(config.subnet.seeds)} seeds, mean and standard error).</p>
<table>{head}
{body}</table>
<p>{html.escape(_capital(describe(result)))}. {_baselines(result)}</p>
<p>{html.escape(_base(config, table, rows))}</p>
<p class="note">{_test_error(dataset, rows)}
The joint search's optimum is proven: upper bound minus utility is {result['gap']:.1e}.</p>
{image('widths.png', 'Widths per site')}
<div class="pair">{image('latency.png', 'Predicted against measured latency')}
{accuracy}
{image('frontier.png', 'Best utility at every budget')}</div>
{_devices(searched)}
<h2>What to ship</h2>
<table>{files}</table>
<h2>What drives the joint search</h2>
<p>The optimum for the latency table, before it was measured. {html.escape(describe_drivers(searched))}</p>
<table>{line(DRIVERS, 'th')}
{drivers}</table>
<p class="note">Latency table: {fit['samples']} networks timed; held-out NRMSE {fit['held_out']['nrmse']:.1%},
R2 {fit['held_out']['r2']:.4f}, rank correlation {fit['held_out']['spearman']:.3f}. FLOPs as the predictor:
{fit['flops']['nrmse']:.1%}, {fit['flops']['spearman']:.3f}.
{html.escape(' '.join(map(_sentence, fit.get('warnings', ()))))}</p>
<h2>What it took</h2>
<table>{line(('part of the work', 'seconds'), 'th')}
{took}</table>
<h2>What next</h2>
<p>{html.escape(_next(config))}</p>
</html>
"""
