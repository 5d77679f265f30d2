"""The run's plots, its table, and one HTML page that holds them all."""

import base64
import html
from pathlib import Path
from typing import Any

import numpy as np

from experiments import plots
from experiments.comparison import standard_error
from experiments.config import Config
from experiments.fit_accuracy import draw as draw_accuracy
from experiments.paths import paths
from experiments.repair_widths import describe
from experiments.run_folder import read_json
from experiments.search_widths import describe_drivers
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


HEADINGS = ('method', 'predicted', 'measured', 'rounds', 'parameters', 'MFLOPs', 'test accuracy', 'widths')


def cells_of(row: dict[str, Any]) -> tuple[str, ...]:
    """Return a row's cells as text."""
    return (
        row['method'],
        f'{row["predicted_ms"]:.3f} ms',
        f'{row["measured_ms"]:.3f} ms ± {row["measured_error"]:.1%}',
        str(row['rounds']),
        f'{row["parameters"]:,}',
        f'{row["mflops"]:.2f}',
        f'{row["test_accuracy"]:.1%}'
        + (f' ± {row["standard_error"]:.1%}' if row['standard_error'] == row['standard_error'] else ''),
        ' '.join(str(w) for w in row['widths']),
    )


def _with_error(mean: float, error: float) -> str:
    """Say an accuracy; the standard error only where there are several seeds."""
    return f'{mean:.1%}' if np.isnan(error) else f'{mean:.1%} ± {error:.1%}'


def write(
    config: Config, dataset: Dataset, graph: Graph, table: LatencyTable, rows: list[dict[str, Any]]
) -> Path:
    """Draw the plots, write `report.html`, and return its path."""
    result = read_json(paths(config).found)
    fit = read_json(paths(config).fit)
    folder = paths(config).plots
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {
        'latency.png': draw_latency(fit),
        'frontier.png': draw_frontier(result),
        'widths.png': draw_widths(graph, rows),
    }
    accuracy = paths(config).accuracy / 'report.json'
    if config.accuracy.trainings:
        drawn['accuracy.png'] = draw_accuracy(read_json(accuracy))
    for name, picture in drawn.items():
        (folder / name).write_bytes(picture)
    path = paths(config).report
    path.write_text(_page(config, dataset, table, rows, result, fit, drawn), encoding='utf-8')
    return path


def draw_latency(fit: dict[str, Any]) -> bytes:
    """Draw held-out predictions against measurements, those from FLOPs beside them."""
    figure, axes = plots.axes(5, 4.2)
    measured = np.array(fit['measured_ms'])
    ends = [measured.min(), measured.max()]
    axes.plot(ends, ends, color='black', linewidth=0.8)
    label = f'from FLOPs: NRMSE {fit["flops"]["nrmse"]:.1%}'
    axes.scatter(measured, fit['flops_ms'], s=10, color='#c9c9c9', label=label)
    label = f'table, held out: NRMSE {fit["held_out"]["nrmse"]:.1%}'
    axes.scatter(measured, fit['predicted_ms'], s=10, color=plots.COLOURS['joint'], label=label)
    axes.set(xlabel='measured latency (ms per call)', ylabel='predicted latency (ms per call)')
    axes.legend(frameon=False)
    return plots.png(figure)


def draw_frontier(result: dict[str, Any]) -> bytes:
    """Draw the best utility at every budget, and where the budget lies."""
    figure, axes = plots.axes(5, 4.2)
    axes.step(
        result['frontier']['ms'], result['frontier']['utility'], where='post', color=plots.COLOURS['joint']
    )
    axes.axvline(result['budget_ms'], color='black', linewidth=0.8, linestyle='--', label='budget')
    axes.axvline(result['base_ms'], color=plots.COLOURS['base'], linewidth=0.8, label='base network')
    axes.set(xlabel='predicted latency (ms per call)', ylabel=f'best utility ({result["unit"]})')
    axes.legend(frameon=False)
    return plots.png(figure)


def draw_widths(graph: Graph, rows: list[dict[str, Any]]) -> bytes:
    """Draw the widths that each method gave each site, as bars against the base widths."""
    figure, axes = plots.axes(9, 3.2)
    named = {'base': graph.base, **{row['method']: row['widths'] for row in rows if row['method'] != 'base'}}
    bar = 0.8 / len(named)
    for i, (name, widths) in enumerate(named.items()):
        places = np.arange(graph.num_sites) + (i - (len(named) - 1) / 2) * bar
        axes.bar(places, widths, width=bar, label=name, color=plots.COLOURS.get(name))
    axes.set(ylabel='channels')
    axes.set_xticks(range(graph.num_sites), graph.site_names, rotation=60, ha='right', fontsize=8)
    axes.legend(frameon=False, ncols=len(named))
    return plots.png(figure)


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


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _page(
    config: Config,
    dataset: Dataset,
    table: LatencyTable,
    rows: list[dict[str, Any]],
    result: dict[str, Any],
    fit: dict[str, Any],
    plots: dict[str, bytes],
) -> str:
    def image(name: str, caption: str) -> str:
        encoded = base64.b64encode(plots[name]).decode()
        return f'<img alt="{caption}" title="{caption}" src="data:image/png;base64,{encoded}">'

    def line(cells: tuple[str, ...], tag: str) -> str:
        return '<tr>' + ''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells) + '</tr>'

    source = table.provenance
    start = "from the supernet's weights" if config.subnet.from_supernet else 'from scratch'
    share = result['budget_ms'] / result['base_ms']
    head = line(HEADINGS, 'th')
    body = '\n'.join(line(cells_of(row), 'td') for row in rows)
    searched = read_json(paths(config).search / 'result.json')
    drivers = '\n'.join(line(cells, 'td') for cells in drivers_of(table.graph, searched))
    accuracy = image('accuracy.png', 'Predicted against obtained accuracy') if 'accuracy.png' in plots else ''
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>jcw: {html.escape(dataset.name)} at {result['budget_ms']:.3f} ms</title><style>{STYLE}</style>
<h1>{html.escape(config.space.network)} on {html.escape(dataset.name)}, sized to this device</h1>
<p>Budget: {result['budget_ms']:.3f} ms per call of {source['batch']} images, {share:.0%} of the base network.
Device: {html.escape(str(source['device']))}; runtime: {html.escape(str(source['runtime']))}, {source['dtype']}.
Each network below was trained {start} by the same recipe
({config.subnet.epochs:g} epochs; {len(config.subnet.seeds)} seeds, mean and standard error).</p>
<table>{head}
{body}</table>
<p>{html.escape(_capital(describe(result)))}. {_baselines(result)}</p>
<p class="note">The test set has {len(dataset.test)} images: a standard error of
{100 * (0.09 / len(dataset.test)) ** 0.5:.1f} points at 90 %, beside that of the seeds.
The joint search's optimum is proven: upper bound minus utility is {result['gap']:.1e}.</p>
{image('widths.png', 'Widths per site')}
<div class="pair">{image('latency.png', 'Predicted against measured latency')}
{accuracy}
{image('frontier.png', 'Best utility at every budget')}</div>
<h2>What drives the joint search</h2>
<p>The optimum for the latency table, before it was measured. {html.escape(describe_drivers(searched))}</p>
<table>{line(DRIVERS, 'th')}
{drivers}</table>
<p class="note">Latency table: {fit['samples']} networks timed; held-out NRMSE {fit['held_out']['nrmse']:.1%},
R2 {fit['held_out']['r2']:.4f}, rank correlation {fit['held_out']['spearman']:.3f}. FLOPs as the predictor:
{fit['flops']['nrmse']:.1%}, {fit['flops']['spearman']:.3f}.
{html.escape(' '.join(map(_sentence, fit.get('warnings', ()))))}</p>
</html>
"""
