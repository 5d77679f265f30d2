"""What a latency table is worth: its errors on networks it has not seen, beside those of FLOPs."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jcw.latency.metrics import Errors, errors

Times = Float[np.ndarray, ' samples']


class Report(NamedTuple):
    """Predictions of networks that the table was not fitted to."""

    measured: Times  # ms
    predicted: Times  # ms, by the table
    by_flops: Times  # ms, by a line through FLOPs
    table: Errors
    flops: Errors
    inside: float  # fraction of networks within two standard deviations of their prediction
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        lines = [
            f'{len(self.measured)} networks not fitted to, {self.measured.min():.3f} to {self.measured.max():.3f} ms',
            f'table: {self.table}; {100 * self.inside:.0f} % within two standard deviations',
            f'FLOPs, slope and offset fitted: {self.flops}',
        ]
        return '\n'.join([*lines, *(f'warning: {warning}' for warning in self.warnings)])


def compare(
    measured: Times,
    predicted: Times,
    deviations: Times,
    flops: Times,
    *,
    flops_line: tuple[float, float] | None = None,
    resolution: float = 0.05,
) -> Report:
    """Compare a table's predictions and those of FLOPs with measurements of the same networks.

    Args:
      measured: times, ms.
      predicted: by the table, of networks it was not fitted to, ms.
      deviations: standard deviations of measurements about these predictions, ms (`Fit.deviations`; a table's own
        are too small for networks that it was fitted to).
      flops: of the networks.
      flops_line: slope and offset fitted elsewhere; by default fitted to these measurements, in favour of FLOPs.
      resolution: relative difference of budgets that should be told apart; larger errors raise a warning.

    Raises:
      ValueError: fewer than two networks, or constant times.
    """
    slope, offset = np.polyfit(flops, measured, 1) if flops_line is None else flops_line
    by_flops = slope * flops + offset
    table, counted = errors(predicted, measured), errors(by_flops, measured)
    inside = float((np.abs(predicted - measured) <= 2 * deviations).mean())
    return Report(
        measured,
        predicted,
        by_flops,
        table,
        counted,
        inside,
        tuple(_warnings(table, counted, inside, resolution)),
    )


def plot(report: Report, path: str | Path, title: str = '') -> None:
    """Draw predicted against measured times, by the table and by FLOPs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 4.2), layout='constrained')
    axes: Any = figure.subplots()
    limits = [report.measured.min(), report.measured.max()]
    axes.plot(limits, limits, color='0.6', linewidth=1, zorder=0)
    axes.scatter(report.measured, report.by_flops, s=8, color='0.6', label=f'FLOPs, {report.flops.nrmse:.1%}')
    axes.scatter(report.measured, report.predicted, s=8, label=f'table, {report.table.nrmse:.1%}')
    axes.set(xlabel='measured, ms per call', ylabel='predicted, ms per call', title=title)
    axes.legend(title='NRMSE, held out', frameon=False)
    figure.savefig(path, dpi=150)


def _warnings(table: Errors, flops: Errors, inside: float, resolution: float):
    if 2 * table.nrmse > resolution:
        yield (
            f'predictions err by {table.nrmse:.1%}: budgets closer than {2 * table.nrmse:.1%} cannot be told apart; '
            'time more networks, or repeat those with large errors'
        )
    if table.nrmse > flops.nrmse:
        yield 'FLOPs predict better than the table: too few networks, or timings that are mostly noise'
    if inside < 0.85:
        yield f'only {inside:.0%} of networks are within two standard deviations: error bars are too small'
