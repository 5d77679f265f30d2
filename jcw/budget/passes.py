"""The compiled programs: bounds, then one pass over the steps."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jcw.budget.dual import best_price, complete, price_cloud
from jcw.budget.labels import Problem, Search, rounding, search
from jcw.budget.tables import sums, tabulate
from jcw.recursions import follow

NUM_PRICES = 16


@partial(jax.jit, static_argnames=('capacity', 'wanted'))
def run_pass(utility, costs, limits, known, capacity: int, wanted: int) -> tuple[Search, Array, Array]:
    """Run one pass for neighbouring budgets; return it, the cheapest configuration and the dual bounds."""
    problem, cheapest = _problem(utility, costs, limits)
    return search(problem, known, capacity, wanted), cheapest, _dual(problem)


def solve_in_one_pass(utility, costs, limit, capacity: int) -> tuple[Array, Array, Array, Array, Array]:
    """Run one pass for one budget and choose in the same program; return the fields of a `Solution`.

    Costs keep clear of the limit by their rounding, so what is feasible stays so when summed in float64.
    """
    problem, cheapest = _problem(utility, costs, limit[None])
    found = search(problem, jnp.full(1, -jnp.inf, limit.dtype), capacity)
    slack, tolerance, _ = rounding(problem)
    pool = jnp.concatenate([found.final, found.incumbent, cheapest[None]])
    values, spent = jax.vmap(partial(sums, problem.tables))(pool)
    alive = jnp.concatenate([found.utility > -jnp.inf, found.known > -jnp.inf, jnp.ones(1, bool)])
    values = jnp.where(alive & (spent <= problem.limits - slack).all(1), values, -jnp.inf)
    best = values.argmax()
    feasible = values[best] > -jnp.inf
    best = jnp.where(feasible, best, len(pool) - 1)
    bound = jnp.maximum(jnp.maximum(values[best], found.utility.max()), found.dropped[0]) + tolerance
    bound = jnp.where(
        feasible | (bound > -jnp.inf), jnp.minimum(bound, _dual(problem)[0] + tolerance), -jnp.inf
    )
    return pool[best], jnp.where(feasible, values[best], -jnp.inf), spent[best], bound, feasible


def _problem(utility, costs, limits) -> tuple[Problem, Int[Array, ' sites']]:
    """Prepare the bounds of a pass, and the cheapest configuration."""
    tables = tabulate(utility, costs)
    greatest = tables.greatest
    limits = jnp.minimum(limits, 2 * greatest)
    ends = jax.vmap(partial(best_price, tables))(limits[jnp.array([0, -1])[: len(limits)]])
    prices = price_cloud(jnp.broadcast_to(ends, (2, len(costs))), NUM_PRICES)
    free = dataclasses.replace(tables, gain=jnp.where(jnp.isneginf(tables.gain), -jnp.inf, 0))
    units = jnp.eye(len(costs), dtype=tables.gain.dtype)
    total = units.sum(0, keepdims=True) / jnp.where(greatest > 0, greatest, 1)
    least = complete(free, jnp.concatenate([units, total]))
    problem = Problem(tables, limits, prices, complete(tables, prices), -least.value[..., :-1])
    return problem, follow(tables.way, least.following[..., -1])


def _dual(problem: Problem) -> Float[Array, ' budgets']:
    """Return the least Lagrangian bound at each budget."""
    return (problem.ways.value[0][problem.tables.way.start] + problem.limits @ problem.prices.T).min(1)
