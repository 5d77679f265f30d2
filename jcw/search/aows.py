"""Adaptive width search: narrow the supernet's draws to configurations that can still win at the budget.

After a warm-up on even draws, widths are drawn from the Gibbs distribution of the field

    p(x) ~ exp((utility(x) - price * cost(x)) / temperature),

its temperature falling over the run, its price such that the mean cost of a draw meets the budget. This is the
distribution of greatest `E[utility] + temperature * entropy` among those within the budget on average, and as the
temperature goes to zero its price becomes the budget's Lagrange multiplier (Berman et al., 2020, narrow likewise by
the field's marginals). Everything is a pure function of the statistics and the fraction of the run that is done.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jcw import mrf
from jcw.mrf import ChainMRF
from jcw.search.stats import Unary, check_means


class Schedule(NamedTuple):
    """How draws narrow, in fractions of the run."""

    warmup: float = 0.4  # fraction of the run with even draws
    hottest: float = 2.0  # temperature after the warm-up, in units of the field's `spread`
    coldest: float = 0.2  # temperature at the end
    floor: float = 0.1  # share of draws that stay even, so that every live choice can be drawn


class Draws(NamedTuple):
    """What a training step draws widths from, and what a log says of it."""

    field: ChainMRF  # in units of the temperature
    probabilities: Float[Array, 'layers choices']  # marginals of the field, with the floor
    even: Float[Array, 'layers choices']
    floor: Float[Array, '']
    temperature: Float[Array, '']  # nats; inf in the warm-up
    price: Float[Array, '']  # nats per unit of cost
    entropy: Float[Array, '']  # of the field's distribution, in nats


def temperature(progress: float, schedule: Schedule) -> float:
    """Return the temperature at a fraction of the run: inf in the warm-up, then falling geometrically.

    Raises:
      ValueError: `progress` outside [0, 1], or a schedule that does not fall or leaves its range.
    """
    if not 0 <= progress <= 1:
        raise ValueError(f'progress is a fraction of the run, between 0 and 1, got {progress}')
    if not (
        0 <= schedule.warmup < 1 and 0 < schedule.coldest <= schedule.hottest and 0 <= schedule.floor <= 1
    ):
        raise ValueError(f'need 0 <= warmup < 1, 0 < coldest <= hottest and 0 <= floor <= 1, got {schedule}')
    if progress < schedule.warmup:
        return np.inf
    done = (progress - schedule.warmup) / (1 - schedule.warmup)
    return schedule.hottest ** (1 - done) * schedule.coldest**done


def spread(utility: ChainMRF) -> float:
    """Return the root mean square of a field's unaries about their layers' means; 1 for a flat field."""
    unary = np.asarray(utility.unary, np.float64)
    live = np.isfinite(unary)
    values = np.where(live, unary, 0.0)
    centred = np.where(live, values - values.sum(1, keepdims=True) / live.sum(1, keepdims=True), 0.0)
    return float(np.sqrt((centred**2).sum() / live.sum())) or 1.0


def warm(unary: Unary, live: np.ndarray) -> ChainMRF:
    """Return the field of unaries under training; a choice not yet drawn counts as its layer's best one drawn.

    Adaptive draws must visit what is unknown; a search's result must not (`ows.to_field`).

    Raises:
      ValueError: an effect that is NaN or infinite.
    """
    check_means(unary)
    layers, choices = unary.mean.shape
    drawn = np.isfinite(unary.mean)
    best = np.where(drawn, unary.mean, -np.inf).max(1, keepdims=True)
    mean = np.where(drawn, unary.mean, np.where(np.isfinite(best), best, 0.0))
    return ChainMRF(np.where(live, mean, -np.inf), np.zeros((layers - 1, choices, choices)))


def uniform(live: np.ndarray) -> Draws:
    """Return even draws over the live choices, `live [layers choices]`."""
    layers, choices = live.shape
    field = ChainMRF(np.where(live, 0.0, -np.inf), np.zeros((layers - 1, choices, choices)))
    return _draws(field, np.inf, 0.0, 1.0)


def narrowed(utility: ChainMRF, cost: ChainMRF, budget: float, heat: float, floor: float = 0.1) -> Draws:
    """Return draws from the field at temperature `heat` (nats) and the price that meets the budget on average.

    Raises:
      ValueError: a temperature that is not positive and finite, a budget that is no number, a floor that is no share,
        or a field with NaN, +inf or, at live choices, a cost that is not finite.
    """
    if not 0 < heat < np.inf:
        raise ValueError(f'the temperature must be positive and finite, got {heat}')
    if budget != budget or not 0 <= floor <= 1:
        raise ValueError(f'need a budget and a floor between 0 and 1, got {budget} and {floor}')
    _check(utility, cost)
    price = budget_price(utility, cost, budget, heat)
    return _draws(priced(utility, cost, price, heat), heat, price, floor)


def refreshed(
    unary: Unary, live: np.ndarray, cost: ChainMRF, budget: float, progress: float, schedule: Schedule
) -> Draws:
    """Return the draws at a fraction of the run, from the statistics so far."""
    heat = temperature(progress, schedule)
    if not np.isfinite(heat):
        return uniform(live)
    utility = warm(unary, live)
    return narrowed(utility, cost, budget, heat * spread(utility), schedule.floor)


def priced(utility: ChainMRF, cost: ChainMRF, price: float, heat: float) -> ChainMRF:
    """Return `(utility - price * cost) / heat`; costs of absent choices are ignored."""
    live = np.isfinite(np.asarray(utility.unary))
    unary = np.where(live, utility.unary, 0.0) - price * np.where(live, cost.unary, 0.0)
    pairs = live[:-1, :, None] & live[1:, None, :]
    pairwise = np.where(pairs, utility.pairwise - price * np.asarray(cost.pairwise), 0.0)
    return ChainMRF(np.where(live, unary / heat, -np.inf), pairwise / heat)


def budget_price(utility: ChainMRF, cost: ChainMRF, budget: float, heat: float) -> float:
    """Return the least price at which the mean cost of a draw is within the budget, by bisection; 0 if it is anyway.

    The mean cost falls as the price rises, since its derivative is `-variance / heat`. Where even the cheapest
    configuration exceeds the budget, a price is returned at which little else is drawn.
    """

    def exceeds(price: float) -> bool:
        return bool(mean_cost(priced(utility, cost, price, heat), cost) > budget)

    if not exceeds(0.0):
        return 0.0
    unit = spread(utility) / max(spread(cost), 1e-12)
    high = unit
    for _ in range(20):
        if not exceeds(high):
            break
        high *= 2
    low = 0.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if exceeds(middle) else (low, middle)
    return high


def mean_cost(field: ChainMRF, cost: ChainMRF) -> float:
    """Return the expected cost of a draw from `p(x) ~ exp(field(x))`."""
    ones, pairs = _marginals(field)
    live = np.isfinite(np.asarray(field.unary))
    return float((ones * np.where(live, cost.unary, 0.0)).sum() + (pairs * cost.pairwise).sum())


def entropy(field: ChainMRF) -> float:
    """Return the entropy of `p(x) ~ exp(field(x))` in nats: `log_partition - E[field]`."""
    ones, pairs = _marginals(field)
    finite = np.where(np.isfinite(np.asarray(field.unary)), field.unary, 0.0)
    expected = (ones * finite).sum() + (pairs * field.pairwise).sum()
    return float(_log_partition(field) - expected)


def jointly(keys: Key[Array, 'batch'], draws: Draws) -> Int[Array, 'batch layers']:
    """Draw configurations from the field as a whole; a share `floor` of them evenly."""

    def one(key: jax.Array) -> jax.Array:
        field_key, even_key, coin = jax.random.split(key, 3)
        anything = jax.random.categorical(even_key, jnp.log(draws.even)).astype(jnp.int32)
        found = mrf.sample(field_key, draws.field)
        return jnp.where(jax.random.uniform(coin) < draws.floor, anything, found)

    return jax.vmap(one)(keys)


def _check(utility: ChainMRF, cost: ChainMRF) -> None:
    live = np.isfinite(np.asarray(utility.unary))
    pairs = live[:-1, :, None] & live[1:, None, :]
    finite = {
        'utility': (np.asarray(utility.unary) < np.inf).all() and np.isfinite(utility.pairwise)[pairs].all(),
        'cost': np.isfinite(cost.unary)[live].all() and np.isfinite(cost.pairwise)[pairs].all(),
    }
    for name, fine in finite.items():
        if not fine:
            raise ValueError(f'the field of {name} holds NaN or infinity where a width is live')


def _draws(field: ChainMRF, heat: float, price: float, floor: float) -> Draws:
    live = np.isfinite(np.asarray(field.unary))
    even = live / live.sum(1, keepdims=True)
    probabilities = floor * even + (1 - floor) * _marginals(field)[0]
    single = [
        np.asarray(value, np.float32) for value in (probabilities, even, floor, heat, price, entropy(field))
    ]
    return Draws(
        ChainMRF(*(np.asarray(leaf, np.float32) for leaf in field)), *(jnp.asarray(v) for v in single)
    )


def _marginals(field: ChainMRF) -> tuple[np.ndarray, np.ndarray]:
    ones, pairs = _both_marginals(_single(field))
    return np.asarray(ones, np.float64), np.asarray(pairs, np.float64)


def _single(field: ChainMRF) -> ChainMRF:
    return ChainMRF(*(jnp.asarray(leaf, jnp.float32) for leaf in field))


@jax.jit
def _both_marginals(field: ChainMRF) -> tuple[jax.Array, jax.Array]:
    return mrf.marginals(field), mrf.pair_marginals(field)


def _log_partition(field: ChainMRF) -> float:
    return float(jax.jit(mrf.log_partition)(_single(field)))
