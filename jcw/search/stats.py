"""Width statistics: a regression of rewards on one-hot choices, kept as sums that add across devices and time.

A reward is modelled as `intercept + sum_s effect[s, choice_s]`. Marginal means per (site, choice) are biased as soon
as choices of different sites are drawn together, as an adaptive search does; the regression is not.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


class WidthStats(NamedTuple):
    """Sufficient statistics of the regression; merge two by adding their leaves. `cells = sites * choices`."""

    gram: Float[Array, 'cells cells']  # sum of outer products of one-hot choices; its diagonal counts draws
    moment: Float[Array, ' cells']  # sum of rewards times one-hot choices
    squares: Float[Array, '']  # sum of squared rewards
    rewards: Float[Array, '']  # number of rewards

    @property
    def draws(self) -> Float[Array, ' cells']:
        """Number of draws of each (site, choice)."""
        return jnp.diagonal(self.gram)


class Unary(NamedTuple):
    """Estimated effects; -inf where a choice was never drawn."""

    mean: Float[np.ndarray, 'sites choices']  # nats, each site's largest choice 0
    std: Float[np.ndarray, 'sites choices']  # standard error of the mean; inf where never drawn


def empty(sites: int, choices: int) -> WidthStats:
    """Return the statistics of no rewards at all."""
    cells = sites * choices
    return WidthStats(jnp.zeros((cells, cells)), jnp.zeros(cells), jnp.zeros(()), jnp.zeros(()))


def update(
    stats: WidthStats,
    choices: Int[Array, 'batch sites'],
    rewards: Float[Array, ' batch'],
    keep: Float[Array, ''] | float = 1.0,
) -> WidthStats:
    """Add a batch of rewards, what was there before weighted by `keep` (exponential forgetting)."""
    batch, sites = choices.shape
    num_choices = stats.moment.shape[0] // sites
    one_hot = jax.nn.one_hot(choices, num_choices).reshape(batch, -1)
    return WidthStats(
        keep * stats.gram + one_hot.T @ one_hot,
        keep * stats.moment + rewards @ one_hot,
        keep * stats.squares + (rewards**2).sum(),
        keep * stats.rewards + batch,
    )


def to_unary(stats: WidthStats, num_choices: np.ndarray, ridge: float = 1.0) -> Unary:
    """Solve the regression, shrunk towards zero effect with the weight of `ridge` draws.

    Minimises `sum (reward - intercept - sum_s effect[s, choice_s])^2 + ridge * sum effect^2`, in float64; the largest
    choice of each site is then the origin of its effects, since rewards are against the largest network.

    Raises:
      ValueError: `ridge` is not positive and finite, there are no rewards, or one was not finite.
    """
    if not 0 < ridge < np.inf:
        raise ValueError(f'ridge must be positive and finite (it also settles what sites share), got {ridge}')
    _check_finite(stats)
    count = float(stats.rewards)
    if count <= 0:
        raise ValueError('no rewards yet: train the supernet first')
    gram, moment = np.asarray(stats.gram, np.float64), np.asarray(stats.moment, np.float64)
    draws = np.diag(gram)
    sites = len(num_choices)
    choices = len(draws) // sites
    mean_reward = moment.reshape(sites, choices)[0].sum() / count
    # The intercept is profiled out: centred normal equations.
    centred = gram - np.outer(draws, draws) / count
    right = moment - draws * mean_reward
    inverse = np.linalg.inv(centred + ridge * np.eye(len(draws)))
    effect = inverse @ right
    residual = float(stats.squares) - count * mean_reward**2 - 2 * effect @ right + effect @ centred @ effect
    noise = max(residual, 0.0) / max(count - np.count_nonzero(draws), 1.0)
    covariance = noise * inverse @ centred @ inverse
    origin = np.repeat(np.arange(sites) * choices + np.asarray(num_choices) - 1, choices)
    # The error is that of the difference from the origin, wherever the origin was drawn.
    share = np.where(draws[origin] > 0, 1.0, 0.0)
    variance = np.diag(covariance) + share * (
        np.diag(covariance)[origin] - 2 * covariance[np.arange(len(draws)), origin]
    )
    return _arrange(effect, np.sqrt(variance.clip(0)), draws, num_choices)


def marginal_means(stats: WidthStats, num_choices: np.ndarray) -> Unary:
    """Return the plain mean reward of each (site, choice): unbiased only under independent uniform draws.

    Raises:
      ValueError: a reward was not finite.
    """
    _check_finite(stats)
    draws = np.asarray(stats.draws, np.float64)
    mean = np.asarray(stats.moment, np.float64) / np.maximum(draws, 1)
    spread = max(float(stats.squares) / max(float(stats.rewards), 1.0), 0.0) ** 0.5
    return _arrange(mean, spread / np.sqrt(np.maximum(draws, 1)), draws, num_choices)


def check_means(unary: Unary) -> None:
    """Refuse effects that are NaN or above all bounds; -inf says that a choice was never drawn.

    Raises:
      ValueError: which site and choice.
    """
    wrong = np.argwhere(~(np.asarray(unary.mean) < np.inf))
    if wrong.size:
        site, choice = wrong[0]
        raise ValueError(
            f'the effect of choice {choice} of site {site} is {unary.mean[site, choice]}: a reward it was '
            'estimated from was no finite number'
        )


def _check_finite(stats: WidthStats) -> None:
    wrong = [name for name, leaf in stats._asdict().items() if not np.isfinite(np.asarray(leaf)).all()]
    if wrong:
        raise ValueError(
            f'the width statistics hold numbers that are not finite, in {", ".join(wrong)}: a reward was NaN or '
            'infinite; go back to a checkpoint from before, with a lower learning rate'
        )


def _arrange(effect: np.ndarray, std: np.ndarray, draws: np.ndarray, num_choices: np.ndarray) -> Unary:
    sites = len(num_choices)
    shape = (sites, len(effect) // sites)
    seen = draws.reshape(shape) > 0
    values = np.where(seen, effect.reshape(shape), -np.inf)
    origin = values[np.arange(sites), np.asarray(num_choices) - 1]
    values = values - np.where(np.isfinite(origin), origin, 0.0)[:, None]
    return Unary(values, np.where(seen, std.reshape(shape), np.inf))
