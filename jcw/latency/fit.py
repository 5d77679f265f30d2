"""From timed networks to a table: penalised non-negative least squares, strengths by cross-validation."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jcw.latency import nnls, uncertainty
from jcw.latency.metrics import Errors, errors
from jcw.latency.prior import Prior

LEAST_SCALE = 1e-3  # of the mean entry: where the roofline says zero, an entry may still become something


class Normal(NamedTuple):
    """Sums over networks that a weighted least-squares fit needs; those of two sets add."""

    gram: Float[Array, '*folds signatures signatures']  # A'WA
    moment: Float[Array, '*folds signatures']  # A'Wy
    row: Float[Array, '*folds signatures']  # A'W1
    weight: Float[Array, '*folds']  # 1'W1
    sum: Float[Array, '*folds']  # 1'Wy


class Roofline(NamedTuple):
    """The prior's fitted mean."""

    scale: Float[Array, '*folds signatures']  # of every entry, ms
    base: Float[Array, '*folds']  # time of a network beside its layers, ms


class Fit(NamedTuple):
    """A fitted table and how it came about."""

    entries: Float[np.ndarray, ' signatures']  # ms
    base: float  # ms
    scale: Float[np.ndarray, ' signatures']  # what the prior alone says, ms
    strength: Float[np.ndarray, ' penalties']  # the chosen row of `strengths`
    held_out: Errors  # of cross-validated predictions at that strength
    predicted: Float[np.ndarray, ' samples']  # cross-validated predictions, ms
    deviations: Float[np.ndarray, ' samples']  # standard deviations of samples about these, ms
    curve: Float[np.ndarray, ' strengths']  # cross-validated NRMSE of every strength
    noise: float  # standard deviation of a sample about the table, relative
    residual: float  # of the solver, largest over folds and strengths


def default_strengths() -> Float[np.ndarray, 'strengths 5']:
    """Return the strengths to choose from: monotone penalty, then variances of the terms of `prior.TERMS`.

    Variances are of relative deviations, in units of the noise variance of one sample.
    """
    grid = itertools.product((0.0, 0.3), (1.0, 4.0, 16.0, 64.0, 256.0))
    return np.array([(order, 1000, width, width, width / 3) for order, width in grid], np.float32)


def fit_table(
    incidence: Float[np.ndarray, 'samples signatures'],
    latency_ms: Float[np.ndarray, ' times'],
    monotone_pairs: Int[np.ndarray, 'pairs 2'],
    strengths: Float[np.ndarray, 'strengths penalties'],
    *,
    prior: Prior,
    folds: int = 5,
    seed: int = 0,
) -> Fit:
    """Fit a table's entries x = scale z, z >= 0, to the times y of whole networks.

    For every strength (q, v_1, v_2, ...) and fold, minimise over z >= 0

        sum_n ((A x)_n + base - y_n)^2 / y_n^2 + (z - 1)' K^-1 (z - 1)
            + q / mean(y)^2 sum_(i,j) max(0, x_i - x_j)^2

    with K = sum_t v_t covariance_t, pairs (i, j) = (narrower, wider), and scale and base the roofline of the
    prior, itself fitted to the fold by non-negative least squares. Errors are relative because noise is.

    Args:
      incidence: how often each network uses each entry.
      latency_ms: measured times.
      monotone_pairs: entries (narrower, wider) of which the first should not be slower.
      strengths: penalties to choose from: monotone, then a variance per term of the prior.
      prior: roofline features and covariance terms.
      folds: of the cross-validation.
      seed: of the assignment to folds.

    Raises:
      ValueError: fewer samples than folds or than features, times not positive, all times equal, or strengths
        that do not fit the prior.
    """
    _check(incidence, latency_ms, strengths, prior, folds)
    order = np.random.default_rng(seed).permutation(len(latency_ms))
    parts = np.array_split(order, folds)
    precisions = np.stack([_precision(prior, strength[1:]) for strength in strengths])
    scaled_orders = np.sqrt(strengths[:, 0]) / latency_ms.mean()

    normals = [normal_equations(incidence[part], latency_ms[part]) for part in parts]
    total = jax.tree.map(lambda *sums: sum(sums[1:], start=sums[0]), *normals)
    training = jax.tree.map(lambda whole, *sums: jnp.stack([whole - part for part in sums]), total, *normals)
    rooflines, z, residual = _solve_folds(
        training,
        prior.features,
        precisions.astype(np.float32),
        scaled_orders.astype(np.float32),
        monotone_pairs,
    )
    predicted = np.empty((len(strengths), len(latency_ms)))
    for fold, part in enumerate(parts):
        entries = np.asarray(rooflines.scale[fold] * z[fold], np.float64)
        predicted[:, part] = (incidence[part] @ entries.T).T + float(rooflines.base[fold])
    curve = np.array([errors(row, latency_ms).nrmse for row in predicted])
    chosen = int(curve.argmin())

    whole = jax.tree.map(lambda value: value[None], total)
    roofline, z, final_residual = _solve_folds(
        whole,
        prior.features,
        precisions[chosen : chosen + 1].astype(np.float32),
        scaled_orders[chosen : chosen + 1].astype(np.float32),
        monotone_pairs,
    )
    entries = np.asarray(roofline.scale[0] * z[0, 0], np.float64)
    relative = (incidence @ entries + float(roofline.base[0])) / latency_ms - 1
    deviation = np.asarray(z[0, 0], np.float64) - 1
    noise = float(
        np.sqrt((relative @ relative + deviation @ precisions[chosen] @ deviation) / len(latency_ms))
    )
    before = uncertainty.covariance(prior, strengths[chosen][1:])
    return Fit(
        entries=entries,
        base=float(roofline.base[0]),
        scale=np.asarray(roofline.scale[0], np.float64),
        strength=np.asarray(strengths[chosen]),
        held_out=errors(predicted[chosen], latency_ms),
        predicted=predicted[chosen],
        deviations=noise * _deviations(before, rooflines.scale, parts, incidence, latency_ms),
        curve=curve,
        noise=noise,
        residual=max(float(residual.max()), float(final_residual.max())),
    )


def _deviations(
    before: uncertainty.Square,
    scales: Float[Array, 'folds signatures'],
    parts: list[Int[np.ndarray, ' _']],
    incidence: Float[np.ndarray, 'samples signatures'],
    latency_ms: Float[np.ndarray, ' samples'],
) -> Float[np.ndarray, ' samples']:
    """Return standard deviations of samples about predictions by the other folds, ms, for a noise of 1."""
    variances = np.square(latency_ms, dtype=np.float64)
    for scale, part in zip(np.asarray(scales, np.float64), parts, strict=True):
        rest = np.setdiff1d(np.arange(len(latency_ms)), part)
        after = uncertainty.posterior(before, scale, incidence[rest], latency_ms[rest], 1.0)
        variances[part] += uncertainty.variance(after, incidence[part])
    return np.sqrt(variances)


@jax.jit
def normal_equations(
    incidence: Float[np.ndarray, 'samples signatures'] | Float[Array, 'samples signatures'],
    latency_ms: Float[np.ndarray, ' samples'] | Float[Array, ' samples'],
) -> Normal:
    """Sum what a fit needs, each network weighted by one over its squared time."""
    latency = jnp.asarray(latency_ms, jnp.float32)
    weights = 1 / jnp.square(latency)
    weighted = (jnp.asarray(incidence) * weights[:, None]).T
    return Normal(weighted @ incidence, weighted @ latency, weighted.sum(1), weights.sum(), weights @ latency)


def fit_roofline(normal: Normal, features: Float[Array, 'signatures features']) -> Roofline:
    """Fit non-negative coefficients of the features, and a base, by least squares."""
    row = features.T @ normal.row
    gram = jnp.block([[features.T @ normal.gram @ features, row[:, None]], [row, normal.weight]])
    moment = jnp.append(features.T @ normal.moment, normal.sum)
    unit = 1 / jnp.sqrt(jnp.diag(gram))
    size = len(moment)
    problem = nnls.Problem(
        gram=gram,
        scale=unit,
        precision=1e-5 * jnp.eye(size),
        linear=unit * moment,
        origin=jnp.zeros(size),
        order_scale=jnp.zeros(size),
        pairs=jnp.zeros((0, 2), jnp.int32),
    )
    solution = nnls.solve(problem)
    coefficients = unit * solution.x
    scale = features @ coefficients[:-1]
    return Roofline(jnp.maximum(scale, LEAST_SCALE * scale.mean()), coefficients[-1])


@jax.jit
def _solve_folds(normals, features, precisions, orders, pairs):
    """Solve for all folds and strengths: rooflines [folds], z [folds strengths signatures], residuals."""

    def fold(normal: Normal):
        roofline = fit_roofline(normal, jnp.asarray(features))
        solution = jax.vmap(lambda p, o: _solve(normal, roofline, p, o, pairs))(precisions, orders)
        return roofline, solution.x, solution.residual

    return jax.vmap(fold)(normals)


def _solve(normal: Normal, roofline: Roofline, precision, order, pairs) -> nnls.Solution:
    """Solve for z, counted from 1, where the roofline's residuals are what is left to explain."""
    scale = roofline.scale
    problem = nnls.Problem(
        gram=normal.gram,
        scale=scale,
        precision=precision,
        linear=scale * (normal.moment - roofline.base * normal.row - normal.gram @ scale),
        origin=jnp.ones_like(scale),
        order_scale=order * scale,
        pairs=pairs,
    )
    return nnls.solve(problem)


def _precision(
    prior: Prior, variances: Float[np.ndarray, ' terms']
) -> Float[np.ndarray, 'signatures signatures']:
    """Invert the covariance of deviations, block by block where entries come in independent groups."""
    covariance = uncertainty.covariance(prior, variances)
    related = prior.covariances.any(0)
    group = related.argmax(1)
    if not np.array_equal(related, group[:, None] == group):
        return np.linalg.inv(covariance)
    precision = np.zeros_like(covariance)
    for first in np.unique(group):
        block = np.ix_(group == first, group == first)
        precision[block] = np.linalg.inv(covariance[block])
    return precision


def _check(incidence, latency_ms, strengths, prior: Prior, folds: int) -> None:
    samples, features = len(latency_ms), prior.features.shape[1] + 1
    if folds < 2 or samples < max(folds, 2 * features):
        raise ValueError(
            f'{samples} samples are too few for {features} coefficients of the prior and {folds} folds: '
            f'time at least {max(folds, 2 * features)} networks'
        )
    if len(incidence) != samples:
        raise ValueError(f'{len(incidence)} rows of incidence but {samples} times')
    if not (np.isfinite(latency_ms).all() and (latency_ms > 0).all()):
        raise ValueError('times must be finite and positive')
    if np.ptp(latency_ms) == 0:
        raise ValueError(
            f'all {samples} times are {latency_ms[0]} ms: constant timings say nothing about layers'
        )
    if strengths.ndim != 2 or strengths.shape[1] != 1 + len(prior.covariances):
        raise ValueError(f'strengths need 1 + {len(prior.covariances)} columns, got shape {strengths.shape}')
    if (strengths[:, 0] < 0).any() or (strengths[:, 1:] < 0).any() or (strengths[:, -1] <= 0).any():
        raise ValueError('strengths must not be negative, and the last variance must be positive')
