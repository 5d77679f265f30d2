"""Non-negative least squares with soft order constraints: Newton on active sets, then projected gradient."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int


class Problem(NamedTuple):
    """Minimise f(d) = d'Hd / 2 - g'd + sum_p max(0, c_i x_i - c_j x_j)^2 / 2, x = origin + d >= 0, pairs p = (i, j).

    H = scale gram scale + precision is kept in two parts: penalties share the first, folds the second.
    Counting from an origin near the solution keeps the objective as small as the misfit, which single
    precision needs.
    """

    gram: Float[Array, 'entries entries']
    scale: Float[Array, ' entries']
    precision: Float[Array, 'entries entries']
    linear: Float[Array, ' entries']  # g
    origin: Float[Array, ' entries']
    order_scale: Float[Array, ' entries']  # c
    pairs: Int[Array, 'pairs 2']


class Solution(NamedTuple):
    """Where the iteration ended."""

    x: Float[Array, ' entries']  # origin + d
    residual: Float[Array, '']  # largest step still to take, relative to the largest entry
    iterations: Int[Array, '']


def objective(problem: Problem, d: Float[Array, ' entries']) -> Float[Array, '']:
    """Return f(d)."""
    excess = _excess(problem, d)
    scaled = problem.scale * d
    return (
        scaled @ problem.gram @ scaled + d @ problem.precision @ d + excess @ excess
    ) / 2 - problem.linear @ d


def gradient(problem: Problem, d: Float[Array, ' entries']) -> Float[Array, ' entries']:
    """Return the gradient of f."""
    smooth = problem.scale * (problem.gram @ (problem.scale * d)) + problem.precision @ d - problem.linear
    narrow, wide = problem.pairs.T
    excess = _excess(problem, d)
    order = jnp.zeros_like(d).at[narrow].add(excess).at[wide].add(-excess)
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
    problem: Problem, *, tolerance: float = 1e-5, newton_steps: int = 12, max_iterations: int = 300
) -> Solution:
    """Solve one problem; `vmap` over what differs.

    Newton's method on the entries that are free and the pairs that are out of order gets there in a few
    steps, however ill-conditioned H is; accelerated projected gradient goes on from the best of them and
    makes sure.
    """
    zeros = jnp.zeros_like(problem.linear)

    def going(state: tuple) -> Bool[Array, '']:
        _, _, lowest, gain, steps = state
        return (gain > tolerance * jnp.abs(lowest)) & (steps < newton_steps)

    def step(state: tuple) -> tuple:
        d, best, lowest, _, steps = state
        new = _newton(problem, d)
        value = objective(problem, new)
        best = jnp.where(value < lowest, new, best)
        return new, best, jnp.minimum(value, lowest), jnp.abs(lowest - value), steps + 1

    state = (zeros, zeros, objective(problem, zeros), jnp.asarray(jnp.inf, zeros.dtype), jnp.asarray(0))
    _, start, _, _, steps = lax.while_loop(going, step, state)
    solution = descend(problem, start, tolerance=tolerance, max_iterations=max_iterations)
    return solution._replace(iterations=solution.iterations + steps)


def descend(
    problem: Problem, start: Float[Array, ' entries'], *, tolerance: float, max_iterations: int
) -> Solution:
    """Go down from a starting point.

    d <- max(-origin, e - gradient(e) / w), w the majoriser and e extrapolated (Nesterov), momentum dropped
    whenever it points uphill (O'Donoghue and Candes, 2015). Stops once no entry moves by more than
    `tolerance` of the largest.
    """
    weights = majoriser(problem)

    def going(state: tuple) -> Bool[Array, '']:
        _, _, _, residual, iteration = state
        return (residual > tolerance) & (iteration < max_iterations)

    def step(state: tuple) -> tuple:
        d, e, t, _, iteration = state
        new = jnp.maximum(e - gradient(problem, e) / weights, -problem.origin)
        uphill = jnp.vdot(weights * (e - new), new - d) > 0
        t_new = jnp.where(uphill, 1.0, (1 + jnp.sqrt(1 + 4 * t * t)) / 2)
        momentum = jnp.where(uphill, 0.0, (t - 1) / t_new)
        largest = jnp.maximum(jnp.abs(problem.origin + new).max(), jnp.finfo(d.dtype).tiny)
        return new, new + momentum * (new - d), t_new, jnp.abs(new - e).max() / largest, iteration + 1

    infinite = jnp.asarray(jnp.inf, start.dtype)
    state = (start, start, jnp.ones((), start.dtype), infinite, jnp.asarray(0))
    d, _, _, residual, iterations = lax.while_loop(going, step, state)
    return Solution(problem.origin + d, residual, iterations)


def _newton(problem: Problem, d: Float[Array, ' entries']) -> Float[Array, ' entries']:
    """Solve for the free entries as if the set of them, and of pairs out of order, were right."""
    slope = gradient(problem, d)
    free = (problem.origin + d > 0) | (slope < 0)
    c = problem.order_scale
    narrow, wide = problem.pairs.T
    broken = (_excess(problem, d) > 0).astype(d.dtype)
    rows, columns = (
        jnp.concatenate([narrow, wide, narrow, wide]),
        jnp.concatenate([narrow, wide, wide, narrow]),
    )
    signs = jnp.repeat(jnp.array([1, 1, -1, -1], d.dtype), len(narrow))
    hessian = problem.scale[:, None] * problem.gram * problem.scale + problem.precision
    hessian = hessian.at[rows, columns].add(signs * jnp.tile(broken, 4) * c[rows] * c[columns])
    unit = lax.rsqrt(jnp.maximum(jnp.diag(hessian), jnp.finfo(d.dtype).tiny))
    kept = jnp.where(free[:, None] & free, unit[:, None] * hessian * unit, 0)
    kept = kept + jnp.diag(jnp.where(free, 3e-6, 1.0))  # single precision needs a little help
    factor = jax.scipy.linalg.cho_factor(kept)
    move = unit * jax.scipy.linalg.cho_solve(factor, jnp.where(free, unit * slope, 0))
    new = jnp.where(free, jnp.maximum(d - move, -problem.origin), -problem.origin)
    return jnp.where(jnp.isfinite(new).all(), new, d)


def _excess(problem: Problem, d: Float[Array, ' entries']) -> Float[Array, ' pairs']:
    scaled = problem.order_scale * (problem.origin + d)
    narrow, wide = problem.pairs.T
    return jnp.maximum(scaled[narrow] - scaled[wide], 0)


solve_jit = jax.jit(solve, static_argnames=('tolerance', 'newton_steps', 'max_iterations'))
