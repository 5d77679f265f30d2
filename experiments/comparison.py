"""What a comparison of methods shows: its table, its arithmetic, its plots."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import plots
from experiments.run_folder import read_lines
from jcw.graph import Widths
from jcw.latency.samples import Sample
from jcw.latency.table import LatencyTable, flops_table

OTHERS = ('greedy', 'uniform')
"""The methods over which gains are told."""


class Tested(NamedTuple):
    """What the trainings of a network came to on the test images."""

    accuracy: np.ndarray  # [seeds]
    loss: np.ndarray  # [seeds], nats
    right: np.ndarray | None  # bool [seeds images]; none where a record does not tell


class Gain(NamedTuple):
    """The relative gain of one mean accuracy over another, with its standard errors."""

    value: float
    seeds: float  # error, should others be drawn
    images: float  # the same, the networks paired image by image

    @property
    def error(self) -> float:
        """Of both, as far as known: a little too large, since what an image and a seed do together is in either."""
        return float(np.hypot(self.seeds, np.nan_to_num(self.images)))


def table_of(
    table: LatencyTable,
    chosen: dict[float, dict[str, Widths]],
    tested: dict[Widths, Tested],
    times: dict[Widths, Sample],
) -> list[dict[str, Any]]:
    """Return a row per budget and method."""
    flops = flops_table(table.graph)
    rows = []
    for budget, found in chosen.items():
        for name, widths in found.items():
            values, losses = tested[widths].accuracy, tested[widths].loss
            rows.append(
                {
                    'budget': budget,
                    'budget_ms': budget * float(table.predict(table.graph.base)),
                    'method': name,
                    'predicted_ms': float(table.predict(widths)),
                    'measured_ms': times[widths].ms,
                    'measured_error': times[widths].error,
                    'mflops': float(flops.predict(widths)) / 1e6,
                    'test_accuracies': values,
                    'mean': values.mean(),
                    'error': standard_error(values),
                    'loss': losses.mean(),
                    'loss_error': standard_error(losses),
                    **{
                        f'gain_over_{other}': gain(tested[widths], tested[found[other]])
                        for other in OTHERS
                        if other in found and found[other] != widths
                    },
                    'widths': widths,
                }
            )
    return rows


def standard_error(values: np.ndarray) -> float:
    """Return the standard error of the mean; NaN for one value."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float('nan')


def gain(own: Tested, other: Tested) -> Gain:
    """Return the gain of one network over another; errors to first order."""
    mean, against = own.accuracy.mean(), other.accuracy.mean()
    ratio = mean / against
    seeds = ratio * np.hypot(standard_error(own.accuracy) / mean, standard_error(other.accuracy) / against)
    images = float('nan')
    if own.right is not None and other.right is not None:
        images = standard_error(own.right.mean(0) - ratio * other.right.mean(0)) / against
    return Gain(float(ratio - 1), float(seeds), float(images))


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return the table as Markdown; the error of a gain is of seeds and test images together."""
    head = (
        '| budget | method | predicted | measured | MFLOPs | test accuracy | test loss '
        '| over greedy | over uniform | widths |\n|---|---|---|---|---|---|---|---|---|---|\n'
    )
    return head + ''.join(_line(row) for row in rows)


def costs(seconds: dict[str, float]) -> str:
    """Say what each method takes besides timing and final trainings, for all budgets, as Markdown."""
    told = ', '.join(f'{name} {value:.0f} s' for name, value in seconds.items())
    return f'To choose for all budgets, timing aside: {told}.\n'


def _line(row: dict[str, Any]) -> str:
    gains = [Gain(*row[f'gain_over_{other}']) if f'gain_over_{other}' in row else None for other in OTHERS]
    cells = (
        f'{row["budget"]:.0%}',
        row['method'],
        f'{row["predicted_ms"]:.3f} ms',
        f'{row["measured_ms"]:.3f} ms ± {row["measured_error"]:.1%}',
        f'{row["mflops"]:.2f}',
        f'{row["mean"]:.2%}{_error(row["error"], ".2%")}',
        f'{row["loss"]:.3f}{_error(row["loss_error"], ".3f")}',
        *('' if each is None else f'{each.value:+.1%}{_error(each.error, ".1%")}' for each in gains),
        ' '.join(map(str, row['widths'])),
    )
    return f'| {" | ".join(cells)} |\n'


def _error(value: float, form: str) -> str:
    """Return what is written after a value; nothing where a single seed tells no error."""
    return f' ± {value:{form}}' if np.isfinite(value) else ''


def draw(rows: list[dict[str, Any]]) -> Any:
    """Draw accuracy against measured latency, a line per method, and the budgets as dotted lines."""
    figure, axes = plots.axes(6.5, 4.5)
    for limit in {row['budget_ms'] for row in rows}:
        axes.axvline(limit, color='0.7', linestyle=':', linewidth=1)
    for name in dict.fromkeys(row['method'] for row in rows):
        own = sorted((row for row in rows if row['method'] == name), key=lambda row: row['measured_ms'])
        axes.errorbar(
            [row['measured_ms'] for row in own],
            [100 * row['mean'] for row in own],
            yerr=[100 * row['error'] for row in own],
            label=name,
            color=plots.COLOURS.get(name),
            marker='o',
            capsize=2,
        )
    axes.set(xlabel='measured latency (ms per call)', ylabel='test accuracy (%), mean and standard error')
    axes.legend(frameon=False)
    return figure


def draw_narrowing(metrics: dict[float, Path]) -> Any:
    """Draw the entropy of the draws over the training of adaptive supernets, a line per budget's `metrics.jsonl`."""
    figure, axes = plots.axes(5, 3.5)
    for budget, path in metrics.items():
        lines = list(read_lines(path, 'step', 'entropy'))
        axes.plot(
            [line['step'] for line in lines],
            [line['entropy'] for line in lines],
            label=f'budget {budget:.0%}',
        )
    axes.set(xlabel='training step', ylabel='entropy of the draws (nats)', ylim=(0, None))
    axes.legend(frameon=False)
    return figure
