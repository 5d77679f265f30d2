"""Schedule, decay and averages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jcw.nets import training
from jcw.train import optim
from tests.tiny_graph import GRAPH, RESIDUAL, random_graph

PARAMS = {'kernel': jnp.ones((2, 3)), 'bias': jnp.ones(3)}
ZEROS = {'kernel': jnp.zeros((2, 3)), 'bias': jnp.zeros(3)}


def rates(**kwargs):
    """Return the rates a unit gradient meets without momentum or decay."""
    optimiser = optim.sgd(0.5, 10, momentum=0.0, weight_decay=0.0, **kwargs)
    state, found = optimiser.init(PARAMS), []
    for _ in range(10):
        updates, state = optimiser.update(
            {name: jnp.ones_like(p) for name, p in PARAMS.items()}, state, PARAMS
        )
        found.append(-float(updates['bias'][0]))
    return np.array(found)


def test_the_rate_rises_linearly_then_falls_along_a_cosine():
    found = rates(warmup_steps=4)
    np.testing.assert_allclose(found[:5], 0.5 * np.arange(5) / 4, atol=1e-6)
    np.testing.assert_allclose(found[4:], 0.25 * (1 + np.cos(np.pi * np.arange(6) / 6)), atol=1e-6)


def test_decay_reaches_kernels_only():
    optimiser = optim.sgd(1.0, 10, momentum=0.0, weight_decay=0.1)
    updates, _ = optimiser.update(ZEROS, optimiser.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates['kernel'], -0.1, rtol=1e-6)
    np.testing.assert_array_equal(updates['bias'], 0)


@pytest.mark.parametrize('graph', [GRAPH, RESIDUAL, *map(random_graph, range(6))])
def test_all_kernels_of_the_network_decay_and_no_normalisation_or_bias(graph):
    shapes = jax.eval_shape(training.functions_of(graph).init, jax.random.key(0))['params']
    marked = jax.tree_util.tree_leaves_with_path(optim.is_kernel(shapes))
    decaying = {path[-1].key for path, kernel in marked if kernel}
    gated = any(op.kind == 'gate' for op in graph.operations)
    kernels, biases = {'reduce_kernel', 'expand_kernel'}, {'reduce_bias', 'expand_bias'}
    assert decaying == {'kernel', *(kernels if gated else ())}
    assert {path[-1].key for path, kernel in marked if not kernel} == {
        'scale',
        'bias',
        *(biases if gated else ()),
    }


def test_clipping_bounds_the_gradient():
    optimiser = optim.sgd(1.0, 10, momentum=0.0, weight_decay=0.0, clip_norm=1.0)
    large = {name: 100 * jnp.ones_like(p) for name, p in PARAMS.items()}
    updates, _ = optimiser.update(large, optimiser.init(PARAMS), PARAMS)
    np.testing.assert_allclose(sum(float((u**2).sum()) for u in updates.values()), 1, rtol=1e-5)


def test_the_average_follows_the_parameters_and_leaves_their_path_alone():
    plain = optim.sgd(0.1, 10, weight_decay=0.1)
    averaged = optim.with_average(plain, 0.5)
    state, expected = averaged.init(PARAMS), averaged.init(PARAMS).inner
    updates, state = averaged.update(ZEROS, state, PARAMS)
    alone, _ = plain.update(ZEROS, expected, PARAMS)
    np.testing.assert_array_equal(updates['kernel'], alone['kernel'])
    np.testing.assert_allclose(state.average['kernel'], 1 + 0.5 * updates['kernel'], rtol=1e-6)


def test_impossible_settings_are_named():
    with pytest.raises(ValueError, match='learning_rate > 0'):
        optim.sgd(0.0, 10)
    with pytest.raises(ValueError, match='warmup_steps < num_steps'):
        optim.sgd(0.1, 10, warmup_steps=10)
    with pytest.raises(ValueError, match=r'decay must lie in \[0, 1\), got 1'):
        optim.with_average(optim.sgd(0.1, 10), 1.0)
