"""What an accuracy table is worth: errors of predictions of networks from the others, beside simpler predictors."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jcw.accuracy.samples import Samples
from jcw.accuracy.table import UNITS, AccuracyTable, refit
from jcw.ranks import spearman

Utilities = Float[np.ndarray, ' networks']


class Errors(NamedTuple):
    """Predicted against measured utilities of networks."""

    rmse: float  # units of utility
    rank: float  # correlation of ranks


class Report(NamedTuple):
    """Predictions of each trained network from all others, and those of others' predictors."""

    measured: Utilities
    predicted: Utilities
    noise: float  # standard deviation of a training; no predictor can have a lesser RMSE
    table: Errors
    others: Mapping[str, Errors]
    inside: tuple[
        float, float
    ]  # parts of networks within one and two standard deviations of their prediction
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f'{len(self.measured)} networks, noise of a training {self.noise:.3g}']
        for name, errors in {'table, left out': self.table, **self.others}.items():
            lines.append(f'{name}: rank correlation {errors.rank:.3f}, RMSE {errors.rmse:.3g}')
        lines.append(f'within one and two standard deviations: {self.inside[0]:.0%} and {self.inside[1]:.0%}')
        return '\n'.join([*lines, *(f'warning: {warning}' for warning in self.warnings)])


def errors(predicted: Float[np.ndarray, ' predictions'], measured: Float[np.ndarray, ' networks']) -> Errors:
    """Compare predictions with measurements.

    Raises:
      ValueError: fewer than two networks, shapes that differ, or numbers that are not finite.
    """
    predicted, measured = np.asarray(predicted, np.float64), np.asarray(measured, np.float64)
    if predicted.shape != measured.shape or measured.ndim != 1 or len(measured) < 2:
        raise ValueError(f'need two or more pairs of utilities, got {predicted.shape} and {measured.shape}')
    if not (np.isfinite(predicted).all() and np.isfinite(measured).all()):
        raise ValueError('predictions and measurements must be finite')
    return Errors(float(np.sqrt(((predicted - measured) ** 2).mean())), spearman(predicted, measured))


def compare(table: AccuracyTable, others: Mapping[str, Utilities] | None = None) -> Report:
    """Compare the table's leave-one-out predictions with other predictors of the same networks.

    Args:
      table: fitted.
      others: by name, any scale: FLOPs, the supernet's field, negative losses of the supernet, in the order of
        `table.evidence.choices`. A line through each is fitted to these very networks, in its favour.

    Raises:
      ValueError: fewer than two networks, or predictors of other networks.
    """
    left_out, measured = table.leave_one_out(), table.evidence.utility
    mine = errors(left_out.mean, measured)
    compared = {
        name: errors(_line(values, measured), measured)._replace(rank=spearman(values, measured))
        for name, values in (others or {}).items()
    }
    apart = np.abs(left_out.mean - measured) / left_out.std
    inside = float((apart <= 1).mean()), float((apart <= 2).mean())
    warnings = tuple(_warnings(mine, compared, inside, len(measured)))
    return Report(measured, left_out.mean, table.noise, mine, compared, inside, warnings)


def fit_samples(before: AccuracyTable, samples: Samples, unit: str | None = None) -> AccuracyTable:
    """Fit a table to trained networks on file.

    Args:
      before: whose sites and prior are taken (`table.untrained`).
      samples: trainings.
      unit: by default accuracy or loss, whichever predicts its own ranks better when left out; accuracy where they tie
        or not all losses are known.

    Raises:
      ValueError: trainings of other sites or widths, or see `fit.fit`.
    """
    header = samples.header
    if (before.sites, before.widths) != (header.sites, header.widths):
        raise ValueError(
            'the trainings are of other sites or widths than the table: train these, or take its prior'
        )
    provenance = {
        'dataset': header.dataset,
        'recipe': dict(header.recipe),
        'details': dict(header.details),
        'trainings': len(samples.trained),
        'failed': len(samples.samples) - len(samples.trained),
    }
    if unit is None:
        measured = [u for u in UNITS if u == UNITS[0] or not any(np.isnan(s.loss) for s in samples.trained)]
    else:
        measured = [unit]
    fitted = []
    for each in measured:
        table = refit(before, samples.choices, samples.utility(each), unit=each, provenance=provenance)
        fitted.append((errors(table.leave_one_out().mean, table.evidence.utility).rank, table))
    return max(fitted, key=lambda pair: pair[0])[1]


def _line(values: Float[np.ndarray, ' predictions'], measured: Utilities) -> Utilities:
    values = np.asarray(values, np.float64)
    if values.shape != measured.shape:
        raise ValueError(f'{values.shape} predictions of {measured.shape} networks')
    if np.ptp(values) == 0:
        return np.full(measured.shape, measured.mean())
    slope, offset = np.polyfit(values, measured, 1)
    return slope * values + offset


def _warnings(mine: Errors, others: Mapping[str, Errors], inside: tuple[float, float], count: int):
    if count < 8:
        yield f'only {count} networks: ranks of so few say little'
    for name, theirs in others.items():
        if theirs.rmse < mine.rmse:
            yield f'{name} predicts better than the table: too few trainings, or too short ones'
    if inside[1] < 0.85:
        yield f'only {inside[1]:.0%} of networks are within two standard deviations: error bars are too small'
