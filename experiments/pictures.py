"""The pictures of a run: each stage draws its own into `plots`, and the report holds them all."""

from pathlib import Path
from typing import Any

import numpy as np

from experiments import launch, plots
from experiments.config import Config
from experiments.paths import paths
from jcw.graph import Graph


def save(config: Config, name: str, picture: bytes) -> Path:
    """Write a picture into the run's `plots`; of several processes the first does."""
    path = paths(config).plots / name
    if launch.is_first():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture)
    return path


def latency(fit: dict[str, Any]) -> bytes:
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


def frontier(result: dict[str, Any]) -> bytes:
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


def widths_of(graph: Graph, rows: list[dict[str, Any]]) -> bytes:
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


def accuracy(fitted: dict[str, Any]) -> bytes:
    """Draw predictions of every trained network from the others, with error bars, against what was obtained."""
    figure, axes = plots.axes(5, 4.2)
    measured = np.array(fitted['measured'])
    ends = [measured.min(), measured.max()]
    axes.plot(ends, ends, color='black', linewidth=0.8)
    axes.errorbar(
        measured,
        fitted['predicted'],
        yerr=fitted['error'],
        fmt='o',
        markersize=4,
        linewidth=0.8,
        color=plots.COLOURS['joint'],
        label=f'left out: rank correlation {fitted["rank"]:.2f}',
    )
    axes.set(xlabel=f'obtained by a short training ({fitted["unit"]})', ylabel='predicted from the others')
    axes.legend(frameon=False)
    return plots.png(figure)
