"""From trained networks to effects: a mode by Gauss-Newton, prior strengths by leave-one-out likelihood."""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jcw.accuracy import model
from jcw.accuracy.model import Strengths
from jcw.accuracy.prior import Prior

STEPS = 12
SIZES = (1.0, 0.5, 0.2, 0.05, 0.0)  # parts of a Gauss-Newton step, of which the best is taken

NOISES = np.array([0.1, 0.2, 0.35, 0.5, 0.7, 0.9, 1.1])  # in standard deviations of what was seen
SPREADS = np.array([0.2, 0.4, 0.7, 1.1])
DEVIATIONS = np.array([0.02, 0.07, 0.2])

NOISE = (0.6, 0.7)
"""Noise believed at first: median in standard deviations of what was seen, and deviation of its logarithm."""
SPREAD = (0.5, 0.5)
DEVIATION = (0.07, 0.8)
OWN = 0.2


class Evidence(NamedTuple):
    """Distinct trained networks; repeats of one are averaged."""

    choices: Int[np.ndarray, 'networks sites']
    utility: Float[np.ndarray, ' networks']  # mean of its trainings
    counts: Float[np.ndarray, ' networks']  # trainings
    squares: float  # squared deviations of repeats from their means
    freedom: int  # trainings less networks

    @property
    def centre(self) -> float:
        return float(self.utility.mean()) if len(self.utility) else 0.0

    @property
    def scale(self) -> float:
        """Standard deviation of what was seen."""
        return float(self.utility.std()) if len(self.utility) else 1.0


class Linear(NamedTuple):
    """The model linearised at its mode, rows in units of each network's noise."""

    mode: Any  # [parameters]
    rows: Any  # [networks parameters]
    target: Any  # [networks]: residuals at the mode, plus rows @ mode


class LeaveOneOut(NamedTuple):
    """Prediction of each network from the others, linearised at the mode of all."""

    mean: Any  # [networks]
    std: Any  # [networks], of what was measured about it, noise included
    log_density: Any  # [networks]


class Fit(NamedTuple):
    """The mode at the strengths that the evidence chose."""

    mode: Float[np.ndarray, ' parameters']
    strength: Strengths
    scores: Float[
        np.ndarray, ' strengths'
    ]  # log density of each network given the others, plus the strengths' own
    strengths: Strengths


def gather(choices: Int[np.ndarray, 'samples sites'], utility: Float[np.ndarray, ' samples']) -> Evidence:
    """Average repeats of a network, and keep what they say of the noise.

    Raises:
      ValueError: shapes that do not fit, or utilities that are not finite.
    """
    choices, utility = np.asarray(choices), np.asarray(utility, np.float64)
    if choices.ndim != 2 or utility.shape != choices.shape[:1]:
        raise ValueError(
            f'expected choices [samples sites] and one utility each, got {choices.shape}, {utility.shape}'
        )
    if not np.isfinite(utility).all():
        raise ValueError(
            f'utility of sample {int(np.flatnonzero(~np.isfinite(utility))[0])} is not finite: leave it out'
        )
    distinct, inverse, counts = np.unique(choices, axis=0, return_inverse=True, return_counts=True)
    means = np.bincount(inverse.reshape(-1), utility, len(distinct)) / np.maximum(counts, 1)
    squares = float(((utility - means[inverse.reshape(-1)]) ** 2).sum())
    return Evidence(distinct, means, counts.astype(np.float64), squares, len(utility) - len(distinct))


def default_strengths(evidence: Evidence, prior: Prior, around: Strengths | None = None) -> Strengths:
    """Return strengths to choose from: all combinations of a few of each, wide apart or close around some."""
    supernet = (0.0, 0.5, 1.0) if prior.heard.any() else (0.0,)
    own = (0.05, OWN, 0.5) if evidence.freedom else (OWN,)
    if around is None:
        noise, spread, deviation = evidence.scale * NOISES, SPREADS, DEVIATIONS
    else:
        parts = zip((NOISES, SPREADS, DEVIATIONS), around, strict=False)
        noise, spread, deviation = (value * np.geomspace(0.7, 1.4, len(wide)) for wide, value in parts)
    return Strengths(
        *np.array(list(itertools.product(noise, spread, deviation, supernet, own)), np.float64).T
    )


def fit(evidence: Evidence, prior: Prior, strengths: Strengths | None = None) -> Fit:
    """Fit the model (`jcw.accuracy.model`) at the strengths under which networks predict each other best.

    For every row of strengths, Gauss-Newton finds the mode; there the model is linearised, so that each network's
    density given all others is in closed form. The sum of their logarithms, plus the log density of repeats and a weak
    one of the strengths themselves, is a row's score; the strengths are averaged with weights exp(score).

    Raises:
      ValueError: fewer than two distinct networks, utilities all equal, or choices that the prior does not have.
    """
    _check(evidence, prior)
    size = 4
    while size < len(evidence.utility):
        size *= 2  # a compilation for each power of two, not for each number of networks
    data = _Data(
        *(
            _padded(part, size)
            for part in (_centred(evidence, prior), evidence.utility - evidence.centre, evidence.counts)
        )
    )
    solve = functools.partial(_solve_all, data, _single(prior), scale=jnp.float32(evidence.scale))

    def score(rows: Strengths) -> Float[np.ndarray, ' strengths']:
        scores = np.asarray(solve(_single(rows))[1].log_density, np.float64).sum(1) + _belief(rows, evidence)
        return np.where(np.isfinite(scores), scores, -np.inf)

    rows = default_strengths(evidence, prior) if strengths is None else strengths
    scores = score(rows)
    if strengths is None:  # once more, close around what was found
        rows = default_strengths(evidence, prior, _average(rows, scores))
        scores = score(rows)
    strength = _average(rows, scores)
    alike = Strengths(*(np.full(np.shape(rows.noise), value) for value in strength))  # as many: one program
    linear = solve(_single(alike))[0]
    return Fit(np.asarray(linear.mode[0], np.float64), strength, scores, rows)


def _average(strengths: Strengths, scores: Float[np.ndarray, ' strengths']) -> Strengths:
    """Average strengths with weights of their likelihood: logarithms of deviations, the rest as they are.

    The best alone would jump from row to row of a coarse grid, and be too sure of itself where networks are few.
    """
    weights = np.exp(scores - scores.max())
    weights /= weights.sum()
    noise, spread, deviation = (float(np.exp(weights @ np.log(column))) for column in strengths[:3])
    return Strengths(
        noise, spread, deviation, float(weights @ strengths.supernet), float(weights @ strengths.own)
    )


class _Data(NamedTuple):
    one_hot: Array  # less its mean over networks
    utility: Array  # less its mean
    counts: Array  # 0 for padding


def find_mode(data: _Data, prior: Prior, strength: Strengths, scale: Array) -> Linear:
    """Minimise sum of squared residuals in units of noise, plus theta^2, and linearise there.

    A step leads to theta = R' K^-1 (residual + R theta), K = 1 + R R', R the weighted Jacobian.
    """
    flat = data.one_hot.reshape(len(data.one_hot), -1)
    present = data.counts > 0
    deviation = jnp.sqrt(model.variances(jnp.where(present, data.counts, 1), strength))
    weight = jnp.where(present, 1 / deviation, 0)

    def residuals(theta: Array) -> Array:
        base, effects = model.unpack(theta, prior, strength, scale)
        return weight * (data.utility - base - flat @ effects.reshape(-1))

    def linearised(theta: Array) -> tuple[Array, Array]:
        jacobian = model.linearise(theta, prior, strength, scale).jacobian
        rows = flat @ jacobian.reshape(-1, len(theta))
        return weight[:, None] * rows.at[:, 0].add(model.BASE_DEVIATION * scale), residuals(theta)

    def step(theta: Array, _: None) -> tuple[Array, None]:
        rows, residual = linearised(theta)
        wanted = rows.T @ _whiten(rows, residual + rows @ theta)[0]
        trials = theta + jnp.array(SIZES)[:, None] * (wanted - theta)
        costs = jax.vmap(lambda trial: (residuals(trial) ** 2).sum() + (trial**2).sum())(trials)
        return trials[jnp.argmin(jnp.where(jnp.isfinite(costs), costs, jnp.inf))], None

    theta = jax.lax.scan(step, jnp.zeros(model.num_parameters(prior)), length=STEPS)[0]
    rows, residual = linearised(theta)
    return Linear(theta, rows, residual + rows @ theta)


def leave_one_out(linear: Linear, utility: Any, deviations: Any) -> LeaveOneOut:
    """Predict each network from the others: error_i = [K^-1 target]_i / [K^-1]_ii, K = 1 + rows rows'.

    Args:
      linear: the model at its mode.
      utility: measured.
      deviations: noise of each, in which rows are measured.
    """
    xp = linear.rows.__array_namespace__()
    whitened, diagonal = _whiten(linear.rows, linear.target)
    variance = 1 / diagonal
    error = variance * whitened
    density = -0.5 * (error**2 / variance + xp.log(2 * xp.pi * variance)) - xp.log(deviations)
    return LeaveOneOut(utility - error * deviations, xp.sqrt(variance) * deviations, density)


def _whiten(rows: Any, target: Any) -> tuple[Any, Any]:
    """Return K^-1 target and the diagonal of K^-1, K = 1 + rows rows', inverting the smaller of two matrices."""
    xp = rows.__array_namespace__()
    networks, parameters = rows.shape
    if networks <= parameters:
        inverse = xp.linalg.inv(xp.eye(networks) + rows @ rows.T)
        return inverse @ target, xp.linalg.diagonal(inverse)
    inverse = xp.linalg.inv(xp.eye(parameters) + rows.T @ rows)
    return target - rows @ (inverse @ (rows.T @ target)), 1 - ((rows @ inverse) * rows).sum(1)


@jax.jit
def _solve_all(
    data: _Data, prior: Prior, strengths: Strengths, *, scale: Array
) -> tuple[Linear, LeaveOneOut]:
    def one(strength: Strengths) -> tuple[Linear, LeaveOneOut]:
        linear = find_mode(data, prior, strength, scale)
        present = data.counts > 0
        deviations = jnp.sqrt(model.variances(jnp.where(present, data.counts, 1), strength))
        left_out = leave_one_out(linear, data.utility, deviations)
        return linear, left_out._replace(log_density=jnp.where(present, left_out.log_density, 0))

    return jax.vmap(one)(strengths)


def _belief(strengths: Strengths, evidence: Evidence) -> Float[np.ndarray, ' strengths']:
    """Return log densities of strengths: weak log-normal ones, and that of the repeats' squares."""
    within = strengths.noise * np.sqrt(1 - strengths.own)
    repeats = -evidence.freedom * np.log(within) - 0.5 * evidence.squares / within**2
    believed = (
        (strengths.noise / evidence.scale, NOISE),
        (strengths.spread, SPREAD),
        (strengths.deviation, DEVIATION),
    )
    return repeats - 0.5 * sum(
        (np.log(value / median) / deviation) ** 2 for value, (median, deviation) in believed
    )


def one_hot(
    choices: Int[np.ndarray, '*networks sites'], count: int
) -> Float[np.ndarray, '*networks sites choices']:
    """Mark each site's choice."""
    return (np.asarray(choices)[..., None] == np.arange(count)).astype(np.float64)


def _centred(evidence: Evidence, prior: Prior) -> Float[np.ndarray, 'networks sites choices']:
    marks = one_hot(evidence.choices, prior.curves.shape[1])
    return marks - marks.mean(0)


def _padded(values: np.ndarray, size: int) -> Array:
    missing = [(0, size - len(values)), *[(0, 0)] * (values.ndim - 1)]
    return jnp.asarray(np.pad(values, missing), jnp.float32)


def _single(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


def _check(evidence: Evidence, prior: Prior) -> None:
    sites, choices = prior.curves.shape
    known = evidence.choices
    if known.shape[1:] != (sites,) or (known < 0).any() or (known >= choices).any():
        raise ValueError(
            f'choices of shape {known.shape} do not fit {sites} sites of up to {choices} choices'
        )
    if not prior.present[np.arange(sites), known].all():
        raise ValueError('a trained network has a choice that its site does not have')
    if len(known) < 2:
        raise ValueError(
            f'{len(known)} distinct networks say nothing about widths: train two or more, or use the prior'
        )
    if evidence.scale == 0:
        raise ValueError(
            f'all {len(known)} networks reach {evidence.utility[0]}: constant results say nothing about widths'
        )
