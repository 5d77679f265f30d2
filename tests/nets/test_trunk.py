"""The shared trunk against the largest and the mutated network computed apart."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jcw.nets import mobilenet, trunk
from jcw.space import LayerSpec, SearchSpace
from tests.tiny_space import SPACE, random_choices, random_images, random_variables

LAYERS = SPACE.num_layers


def mutated_from(layer: int, seed: int = 0, batch: int = 6) -> np.ndarray:
    """Draw widths per example for a layer and all after it; those before keep their largest."""
    widths = SPACE.to_widths(random_choices(seed, batch))
    widths[:, :layer] = SPACE.largest[:layer]
    return widths


def apart(net, variables, images, widths):
    logits, moments = net.apply(variables, images, None, True)
    return logits, moments, net.apply(variables, images, widths, True)[0]


def loss(both, params, stats, images, widths):
    logits, moments, mutated = both({'params': params, 'batch_stats': stats}, images, widths)
    return (logits**2).sum() + (jnp.sin(mutated) * logits).sum(), (logits, moments, mutated)


@functools.cache
def compiled(which: str):
    both = (
        trunk.network(SPACE).pair if which == 'pair' else functools.partial(apart, mobilenet.network(SPACE))
    )
    return jax.jit(jax.value_and_grad(functools.partial(loss, both), has_aux=True))


@pytest.mark.parametrize('layer', range(LAYERS + 1))
def test_a_shared_trunk_changes_no_result_and_no_gradient(layer):
    variables, images, widths = random_variables(0), random_images(1, 6), mutated_from(layer)
    arguments = (variables['params'], variables['batch_stats'], images, widths)
    found, expected = (compiled(which)(*arguments) for which in ('pair', 'apart'))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)


def test_any_layer_may_be_the_first_mutated_in_one_compilation():
    variables, images = random_variables(0), random_images(1, 6)
    for layer in range(LAYERS + 1):
        compiled('pair')(variables['params'], variables['batch_stats'], images, mutated_from(layer, layer))
    assert compiled('pair')._cache_size() == 1


def in_jit(f):
    return jax.jit(f)


def in_checkpoint(f):
    return jax.checkpoint(f)


def in_scan(f):
    return lambda params, images, widths: jax.lax.scan(
        lambda total, _: (total + f(params, images, widths), None), 0.0, None, length=2
    )[0]


def in_vmap(f):
    return lambda params, images, widths: jax.vmap(f, (None, None, 0))(
        params, images, jnp.stack([widths, jnp.asarray(mutated_from(2, 5)), widths])
    ).sum()


@pytest.mark.parametrize('wrapped', [in_jit, in_checkpoint, in_scan, in_vmap])
def test_the_gradient_is_right_under_jaxs_transformations(wrapped):
    variables, images, widths = random_variables(0), random_images(1, 6), jnp.asarray(mutated_from(1))
    shared, plain = trunk.network(SPACE).pair, functools.partial(apart, mobilenet.network(SPACE))

    def gradient(both):
        def value(params, images, widths):
            return loss(both, params, variables['batch_stats'], images, widths)[0]

        return jax.jit(jax.grad(wrapped(value), argnums=(0, 1)))(variables['params'], images, widths)

    for a, b in zip(jax.tree.leaves(gradient(shared)), jax.tree.leaves(gradient(plain)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def test_a_gate_computes_what_it_returns_and_nothing_else():
    def visible(x):
        jax.debug.callback(lambda: calls.append(1))
        return jnp.sin(x)

    calls: list[int] = []
    for run, expected in ((True, np.sin(2.0)), (False, 7.0)):
        calls.clear()
        value = jax.jit(lambda run: trunk.once(run, lambda _, x: visible(x), jnp.array(7.0), jnp.array(2.0)))(
            run
        )
        jax.effects_barrier()
        assert (float(value), len(calls)) == (pytest.approx(expected), int(run))


CHAINS = {
    'one convolution': (LayerSpec('conv', 6),),
    'one separable layer': (LayerSpec('separable', 6, stride=2),),
    'separable first, a convolution between': (
        LayerSpec('separable', 6),
        LayerSpec('conv', 8, stride=2),
        LayerSpec('separable', 9),
    ),
    'maps smaller than kernels': (
        LayerSpec('conv', 6, stride=2),
        LayerSpec('separable', 8, kernel=5, stride=2),
        LayerSpec('separable', 8, kernel=7),
    ),
}


@pytest.mark.parametrize('chain', CHAINS)
def test_any_chain_of_layers_shares_its_trunk(chain):
    layers = CHAINS[chain]
    space = SearchSpace(layers, (4, 3, 2), 5, tuple((2, layer.base_width) for layer in layers))
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        net = mobilenet.network(space, dtype=jnp.float64)
        shapes = jax.eval_shape(net.init, jax.random.key(0))
        variables = jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0.2, 1, leaf.shape)), shapes)
        images = jnp.asarray(rng.standard_normal((4, *space.input_shape)))
        both = trunk.network(space, dtype=jnp.float64).pair, functools.partial(apart, net)
        ours, plain = (
            jax.jit(jax.value_and_grad(functools.partial(loss, each), has_aux=True)) for each in both
        )
        for first in range(len(layers) + 1):
            widths = np.tile(space.largest, (4, 1))
            widths[1:, first:] = space.smallest[first:]
            arguments = (variables['params'], variables['batch_stats'], images, jnp.asarray(widths))
            found, expected = (f(*arguments) for f in (ours, plain))
            for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8)


def test_a_gate_keeps_one_map_besides_its_input(monkeypatch):
    variables, images = random_variables(0), random_images(1, 6)
    maps, gated = [], trunk._gated_vjp

    def seen(*arguments):
        y, gate = gated(*arguments)
        maps.append(sum(leaf.ndim == 4 for leaf in gate.residuals))
        return y, gate

    monkeypatch.setattr(trunk, '_gated_vjp', seen)
    pair = trunk.network(SPACE, implementation='cpu').pair
    widths = jnp.tile(jnp.asarray(SPACE.largest), (6, 1))
    jax.eval_shape(
        jax.grad(lambda params: pair({**variables, 'params': params}, images, widths)[2].sum()),
        variables['params'],
    )
    assert maps == [1] * (LAYERS - 1)
