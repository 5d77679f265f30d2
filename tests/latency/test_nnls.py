from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jcw.latency import nnls
from jcw.latency.nnls import Problem


def problem(
    seed: int, samples: int, entries: int, pairs: int, ridge: float = 0.0
) -> tuple[Problem, np.ndarray, float]:
    """A sparse problem with true zeros and broken orders, its rows, and what its objective lacks of the loss."""
    rng = np.random.default_rng(seed)
    rows = (rng.random((samples, entries)) < 0.3).astype(np.float64)
    true = np.where(rng.random(entries) < 0.3, 0, rng.random(entries))
    y = rows @ true + 0.1 * rng.standard_normal(samples)
    order = rng.integers(0, entries, (pairs, 2)) if pairs else np.zeros((0, 2), int)
    made = Problem(
        gram=jnp.asarray(rows.T @ rows, jnp.float32),
        scale=jnp.asarray(rng.uniform(0.5, 2, entries), jnp.float32),
        precision=jnp.asarray(ridge * np.eye(entries), jnp.float32),
        linear=jnp.zeros(entries),
        origin=jnp.zeros(entries),
        order_scale=jnp.asarray(rng.uniform(0.5, 2, entries), jnp.float32),
        pairs=jnp.asarray(order, jnp.int32),
    )
    return made._replace(linear=made.scale * jnp.asarray(rows.T @ y, jnp.float32)), rows, float(y @ y / 2)


def optimum(p: Problem) -> tuple[float, Callable]:
    """Minimise independently, in double precision, by a quasi-Newton method with bounds; also return f."""
    double = jax.tree.map(np.asarray, p)
    hessian = double.scale[:, None] * double.gram * double.scale + double.precision
    hessian, linear, c = hessian.astype(float), double.linear.astype(float), double.order_scale.astype(float)
    narrow, wide = double.pairs.T

    def value(x):
        excess = np.maximum(c[narrow] * x[narrow] - c[wide] * x[wide], 0)
        slope = hessian @ x - linear
        np.add.at(slope, narrow, c[narrow] * excess)
        np.add.at(slope, wide, -c[wide] * excess)
        return x @ hessian @ x / 2 - linear @ x + excess @ excess / 2, slope

    found = scipy.optimize.minimize(
        value,
        np.ones(len(linear)),
        jac=True,
        method='L-BFGS-B',
        bounds=[(0, None)] * len(linear),
        options={'maxiter': 20000, 'maxfun': 50000, 'ftol': 1e-15, 'gtol': 1e-9},
    )
    return float(found.fun), value


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize(
    ('samples', 'entries', 'pairs'), [(20, 1, 0), (60, 8, 0), (60, 8, 12), (150, 60, 90)]
)
def test_the_optimum_is_that_of_an_independent_solver(seed, samples, entries, pairs):
    made, _, constant = problem(seed, samples, entries, pairs)
    x = np.asarray(nnls.solve_jit(made).x, np.float64)
    lowest, value = optimum(made)
    assert x.min() >= 0
    assert value(x)[0] + constant <= (lowest + constant) * (1 + 1e-4)


def test_without_order_it_is_scipys_nnls():
    made, rows, _ = problem(0, 80, 30, 0)
    rows = rows * np.asarray(made.scale, float)
    y = np.linalg.lstsq(rows.T, np.asarray(made.linear, float), rcond=None)[0]
    expected, _ = scipy.optimize.nnls(rows, y)
    found = nnls.solve_jit(made).x
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_conditions_of_optimality_hold():
    made, _, _ = problem(1, 150, 60, 90, ridge=0.5)
    x = nnls.solve_jit(made).x
    slope = nnls.gradient(made, x) / nnls.majoriser(made)
    assert float(jnp.abs(jnp.where(x > 1e-5, slope, 0)).max()) < 1e-5
    assert float(slope.min()) > -1e-5


def test_the_gradient_is_that_of_the_objective():
    made, _, _ = problem(2, 60, 20, 30)
    x = jax.random.uniform(jax.random.key(0), (20,))
    np.testing.assert_allclose(
        nnls.gradient(made, x), jax.grad(nnls.objective, 1)(made, x), rtol=2e-4, atol=1e-3
    )


def test_the_majoriser_bounds_the_curvature():
    made, _, _ = problem(3, 60, 20, 30)
    hessian = made.scale[:, None] * made.gram * made.scale + made.precision
    steepest = hessian + 0
    for narrow, wide in np.asarray(made.pairs):
        row = jnp.zeros(20).at[narrow].add(made.order_scale[narrow]).at[wide].add(-made.order_scale[wide])
        steepest += jnp.outer(row, row)
    assert float(jnp.linalg.eigvalsh(jnp.diag(nnls.majoriser(made)) - steepest)[0]) > -1e-2


def test_strong_order_makes_entries_monotone():
    made, _, _ = problem(4, 60, 10, 0)
    chain = jnp.stack([jnp.arange(9), jnp.arange(1, 10)], 1).astype(jnp.int32)
    firm = made._replace(pairs=chain, order_scale=jnp.full(10, 300.0))
    x = nnls.solve_jit(firm).x
    assert float(jnp.diff(x).min()) > -2e-2


def test_vmap_is_a_loop():
    made = [problem(seed, 60, 12, 10)[0] for seed in range(3)]
    together = jax.vmap(nnls.solve)(jax.tree.map(lambda *leaves: jnp.stack(leaves), *made))
    for index, single in enumerate(made):
        np.testing.assert_allclose(together.x[index], nnls.solve(single).x, atol=1e-3)


def test_the_number_of_iterations_is_bounded():
    made, _, _ = problem(0, 60, 20, 10)
    assert int(nnls.solve_jit(made, tolerance=0.0, newton_steps=2, max_iterations=5).iterations) == 7


def test_newton_and_projected_gradient_alone_find_the_same():
    made, _, _ = problem(0, 150, 60, 90, ridge=0.5)
    slow = nnls.descend(made, jnp.zeros(60), tolerance=1e-7, max_iterations=20000).x
    np.testing.assert_allclose(nnls.solve_jit(made).x, slow, atol=2e-3)


def test_the_origin_one_counts_from_does_not_matter():
    made, _, _ = problem(0, 150, 60, 90, ridge=0.5)
    origin = jax.random.uniform(jax.random.key(0), (60,))
    plain = made._replace(order_scale=jnp.zeros(60))
    moved = made._replace(origin=origin, linear=-nnls.gradient(plain, origin))
    np.testing.assert_allclose(nnls.solve_jit(moved).x, nnls.solve_jit(made).x, atol=5e-3)
