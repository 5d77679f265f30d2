"""Non-negative least squares with soft order constraints: Newton on active sets, then projected gradient."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int


class Problem(NamedTuple):
    """Minimise f(x) = x'Hx / 2 - g'x + sum_p max(0, c_i x_i - c_j x_j)^2 / 2 over x >= 0, pairs p = (i, j).

    H = scale gram scale + precision is kept in two parts: folds share the second, penalties the first.
    """

    gram: Float[Array, 'entries entries']
    scale: Float[Array, ' entries']
    precision: Float[Array, 'entries entries']
    linear: Float[Array, ' entries']  # g
    order_scale: Float[Array, ' entries']  # c
    pairs: Int[Array, 'pairs 2']


class Solution(NamedTuple):
    """Where the iteration ended."""

    x: Float[Array, ' entries']
    residual: Float[Array, '']  # largest step still to take, relative to the largest entry
    iterations: Int[Array, '']


def objective(problem: Problem, x: Float[Array, ' entries']) -> Float[Array, '']:
    """Return f(x)."""
    excess = _excess(problem, x)
    scaled = problem.scale * x
    return (
        scaled @ problem.gram @ scaled + x @ problem.precision @ x + excess @ excess
    ) / 2 - problem.linear @ x


def gradient(problem: Problem, x: Float[Array, ' entries']) -> Float[Array, ' entries']:
    """Return the gradient of f."""
    smooth = problem.scale * (problem.gram @ (problem.scale * x)) + problem.precision @ x - problem.linear
    narrow, wide = problem.pairs.T
    excess = _excess(problem, x)
    order = jnp.zeros_like(x).at[narrow].add(excess).at[wide].add(-excess)
    return smooth + problem.order_scale * order


def majoriser(problem: Problem) -> Float[Array, ' entries']:
    """Return d with diag(d) - Hessian positive semidefinite everywhere: absolute row sums (Gershgorin)."""
    rows = jnp.abs(problem.scale) * (jnp.abs(problem.gram) @ jnp.abs(problem.scale)) + jnp.abs(
        problem.precision
    ).sum(1)
    narrow, wide = problem.pairs.T
    c = problem.order_scale
    both = c[narrow] + c[wide]
    order = jnp.zeros_like(rows).at[narrow].add(both).at[wide].add(both)
    return rows + c * order + jnp.finfo(rows.dtype).tiny


def solve(
    problem: Problem, *, tolerance: float = 1e-6, newton_steps: int = 8, max_iterations: int = 2000
) -> Solution:
    """Solve one problem; `vmap` over what differs.

    Newton's method on the entries that are free and the pairs that are out of order gets there in a few
    steps, however ill-conditioned H is; accelerated projected gradient goes on from the best of them and
    makes sure.
    """
    ones = jnp.ones_like(problem.linear)

    def step(_: Array, state: tuple) -> tuple:
        x, best, lowest = state
        x = _newton(problem, x)
        value = objective(problem, x)
        better = value < lowest
        return x, jnp.where(better, x, best), jnp.where(better, value, lowest)

    _, start, _ = lax.fori_loop(0, newton_steps, step, (ones, ones, objective(problem, ones)))
    return descend(problem, start, tolerance=tolerance, max_iterations=max_iterations)


def descend(
    problem: Problem, start: Float[Array, ' entries'], *, tolerance: float, max_iterations: int
) -> Solution:
    """Go down from a starting point.

    x <- max(0, y - gradient(y) / d), y extrapolated (Nesterov), momentum dropped whenever it points uphill
    (O'Donoghue and Candes, 2015). Stops once no entry moves by more than `tolerance` of the largest.
    """
    weights = majoriser(problem)

    def going(state: tuple) -> Bool[Array, '']:
        _, _, _, residual, iteration = state
        return (residual > tolerance) & (iteration < max_iterations)

    def step(state: tuple) -> tuple:
        x, y, t, _, iteration = state
        new = jnp.maximum(y - gradient(problem, y) / weights, 0)
        uphill = jnp.vdot(weights * (y - new), new - x) > 0
        t_new = jnp.where(uphill, 1.0, (1 + jnp.sqrt(1 + 4 * t * t)) / 2)
        momentum = jnp.where(uphill, 0.0, (t - 1) / t_new)
        moved = jnp.abs(new - y).max() / jnp.maximum(jnp.abs(new).max(), jnp.finfo(x.dtype).tiny)
        return new, new + momentum * (new - x), t_new, moved, iteration + 1

    infinite = jnp.asarray(jnp.inf, start.dtype)
    state = (start, start, jnp.ones((), start.dtype), infinite, jnp.asarray(0))
    x, _, _, residual, iterations = lax.while_loop(going, step, state)
    return Solution(x, residual, iterations)


def _newton(problem: Problem, x: Float[Array, ' entries']) -> Float[Array, ' entries']:
    """Solve for the free entries as if the set of them, and of pairs out of order, were right."""
    slope = gradient(problem, x)
    free = (x > 0) | (slope < 0)
    c = problem.order_scale
    narrow, wide = problem.pairs.T
    broken = (c[narrow] * x[narrow] > c[wide] * x[wide]).astype(x.dtype)
    hessian = problem.scale[:, None] * problem.gram * problem.scale + problem.precision
    hessian = (
        hessian.at[narrow, narrow].add(broken * c[narrow] ** 2).at[wide, wide].add(broken * c[wide] ** 2)
    )
    across = broken * c[narrow] * c[wide]
    hessian = hessian.at[narrow, wide].add(-across).at[wide, narrow].add(-across)
    unit = lax.rsqrt(jnp.maximum(jnp.diag(hessian), jnp.finfo(x.dtype).tiny))
    masked = jnp.where(free[:, None] & free, unit[:, None] * hessian * unit, 0)
    masked = masked + jnp.diag(jnp.where(free, 1e-5, 1.0))
    factor = jax.scipy.linalg.cho_factor(masked)
    move = unit * jax.scipy.linalg.cho_solve(factor, jnp.where(free, unit * slope, 0))
    new = jnp.where(free, jnp.maximum(x - move, 0), 0)
    return jnp.where(jnp.isfinite(new).all(), new, x)


def _excess(problem: Problem, x: Float[Array, ' entries']) -> Float[Array, ' pairs']:
    scaled = problem.order_scale * x
    narrow, wide = problem.pairs.T
    return jnp.maximum(scaled[narrow] - scaled[wide], 0)


solve_jit = jax.jit(solve, static_argnames=('tolerance', 'newton_steps', 'max_iterations'))
