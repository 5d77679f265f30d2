"""Adaptive width search: narrow the supernet's draws to configurations that can still win at the budget.

After a warm-up on even draws, widths are drawn from the Gibbs distribution of the field

    p(x) ~ exp((utility(x) - price * cost(x)) / temperature),

its temperature falling over the run, its price such that the mean cost of a draw meets the budget. This is the
distribution of greatest `E[utility] + temperature * entropy` among those within the budget on average, and as the
temperature goes to zero its price becomes the budget's Lagrange multiplier (Berman et al., 2020, narrow likewise by
the field's marginals). Everything is a pure function of the field and the fraction of the run that is done.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jcw import recursions
from jcw.field import Field, add, present_pairs
from jcw.graph import Graph
from jcw.search import ows
from jcw.search.stats import Unary, check_means


class Schedule(NamedTuple):
    """How draws narrow, in fractions of the run."""

    warmup: float = 0.4  # fraction of the run with even draws
    hottest: float = 2.0  # temperature after the warm-up, in units of the field, `unit_of`
    coldest: float = 0.2  # temperature at the end
    floor: float = 0.1  # share of draws that stay even, so that every live choice can be drawn


class Draws(NamedTuple):
    """What a training step draws widths from, and what a log says of it."""

    probabilities: Float[Array, 'sites choices']  # marginals of the field, with the floor
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


def unit_of(utility: Field) -> float:
    """Return the root mean square of a field's unaries about their sites' means; 1 for a flat field."""
    unary = np.asarray(utility.unary, np.float64)
    live = np.isfinite(unary)
    values = np.where(live, unary, 0.0)
    centred = np.where(live, values - values.sum(1, keepdims=True) / live.sum(1, keepdims=True), 0.0)
    return float(np.sqrt((centred**2).sum() / live.sum())) or 1.0


def warm(unary: Unary, graph: Graph) -> Field:
    """Return the field of unaries under training; a choice not yet drawn counts as its site's best one drawn.

    Adaptive draws must visit what is unknown; a search's result must not (`ows.to_field`).

    Raises:
      ValueError: an effect that is NaN or infinite.
    """
    check_means(unary)
    drawn = np.isfinite(unary.mean)
    best = np.where(drawn, unary.mean, -np.inf).max(1, keepdims=True)
    mean = np.where(drawn, unary.mean, np.where(np.isfinite(best), best, 0.0))
    return ows.to_field(Unary(np.where(graph.present, mean, -np.inf), unary.std), graph)


def even_draws(graph: Graph) -> Draws:
    """Return even draws over each site's choices."""
    even = jnp.asarray(graph.present / graph.present.sum(1, keepdims=True), jnp.float32)
    entropy = np.log(graph.num_choices).sum()
    return Draws(even, *(jnp.asarray(value, jnp.float32) for value in (np.inf, 0.0, entropy)))


def narrowed(utility: Field, cost: Field, budget: float, heat: float, floor: float = 0.1) -> Draws:
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
    utility: Field, graph: Graph, cost: Field, budget: float, progress: float, schedule: Schedule
) -> Draws:
    """Return the draws at a fraction of the run, by what is known of utility: fitted, or `warm`."""
    heat = temperature(progress, schedule)
    if not np.isfinite(heat):
        return even_draws(graph)
    return narrowed(utility, cost, budget, heat * unit_of(utility), schedule.floor)


def priced(utility: Field, cost: Field, price: float, heat: float) -> Field:
    """Return `(utility - price * cost) / heat`; costs of absent choices are ignored."""
    live = np.isfinite(np.asarray(utility.unary))
    pairs = present_pairs(live, cost.scopes)
    paid = cost.replace(unary=np.where(live, cost.unary, 0.0), tables=np.where(pairs, cost.tables, 0.0))
    gained = utility.replace(unary=np.asarray(utility.unary), tables=np.asarray(utility.tables))
    return jax.tree.map(lambda leaf: leaf / heat, add(gained, jax.tree.map(lambda leaf: -price * leaf, paid)))


def budget_price(utility: Field, cost: Field, budget: float, heat: float) -> float:
    """Return the least price at which the mean cost of a draw is within the budget, by bisection; 0 if it is anyway.

    The mean cost falls as the price rises, since its derivative is `-variance / heat`. Where even the cheapest
    configuration exceeds the budget, a price is returned at which little else is drawn.
    """

    def exceeds(price: float) -> bool:
        return bool(mean_cost(priced(utility, cost, price, heat), cost) > budget)

    if not exceeds(0.0):
        return 0.0
    unit = unit_of(utility) / max(unit_of(cost), 1e-12)
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


def mean_cost(field: Field, cost: Field) -> float:
    """Return the expected cost of a draw from `p(x) ~ exp(field(x))`."""
    ones, pairs = _marginals(field)
    live = np.isfinite(np.asarray(field.unary))
    joint = dict(zip(field.scopes, pairs, strict=True))
    joint |= {scope[::-1]: table.T for scope, table in joint.items()}
    paid = sum((joint[scope] * table).sum() for scope, table in zip(cost.scopes, cost.tables, strict=True))
    return float((ones * np.where(live, cost.unary, 0.0)).sum() + paid)


def entropy(field: Field) -> float:
    """Return the entropy of `p(x) ~ exp(field(x))` in nats: `log_partition - E[field]`."""
    ones, pairs = _marginals(field)
    finite = np.where(np.isfinite(np.asarray(field.unary)), field.unary, 0.0)
    tables = np.where(np.isfinite(np.asarray(field.tables)), field.tables, 0.0)
    expected = (ones * finite).sum() + (pairs * tables).sum()
    return float(_log_partition(field) - expected)


def _check(utility: Field, cost: Field) -> None:
    live = np.isfinite(np.asarray(utility.unary))
    finite = {
        'utility': (np.asarray(utility.unary) < np.inf).all()
        and (np.asarray(utility.tables) < np.inf)[present_pairs(live, utility.scopes)].all(),
        'cost': np.isfinite(cost.unary)[live].all()
        and np.isfinite(cost.tables)[present_pairs(live, cost.scopes)].all(),
    }
    for name, fine in finite.items():
        if not fine:
            raise ValueError(f'the field of {name} holds NaN or infinity where a width is live')


def _draws(field: Field, heat: float, price: float, floor: float) -> Draws:
    live = np.isfinite(np.asarray(field.unary))
    even = live / live.sum(1, keepdims=True)
    probabilities = floor * even + (1 - floor) * _marginals(field)[0]
    return Draws(*(jnp.asarray(v, jnp.float32) for v in (probabilities, heat, price, entropy(field))))


def _marginals(field: Field) -> tuple[np.ndarray, np.ndarray]:
    ones, pairs = _both_marginals(_single(field))
    return np.asarray(ones, np.float64), np.asarray(pairs, np.float64)


def _single(field: Field) -> Field:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), field)


@jax.jit
def _both_marginals(field: Field) -> tuple[jax.Array, jax.Array]:
    return recursions.marginals(field), recursions.pair_marginals(field)


def _log_partition(field: Field) -> float:
    return float(jax.jit(recursions.log_partition)(_single(field)))
