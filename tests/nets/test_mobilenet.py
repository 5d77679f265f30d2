"""The first invariant: a masked network is the sliced one, in values and in gradients."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jcw.nets import mobilenet, switching
from jcw.nets.slicing import slice_variables
from jcw.space import LayerSpec, mobilenet_v1, with_multipliers
from tests.tiny_space import SPACE, random_choices, random_images, random_variables

TOLERANCE = 1e-5  # in float32; in float64, below, it is 1e-10


def make(dtype=jnp.float32, batch=6):
    return mobilenet.network(SPACE, dtype=dtype), random_variables(1, dtype), random_images(2, batch, dtype)


def logits_and_gradients(network, variables, images, widths, train):
    """Differentiate a loss that is not linear in the logits; moments come along."""

    def loss(params):
        logits, moments = network.apply({**variables, 'params': params}, images, widths, train)
        return jnp.sin(logits).sum(), (logits, moments)

    gradients, (logits, moments) = jax.grad(loss, has_aux=True)(variables['params'])
    return logits, gradients, moments


def assert_close(a, b, tolerance):
    """Compare trees pair by pair, each relative to the greatest entry of its second."""
    for x, y in zip(a, b, strict=True):
        x, y = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (x, y))
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * np.abs(y).max())


def nonzeros(tree):
    return sum(int((np.asarray(leaf) != 0).sum()) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize('train', [False, True])
def test_masked_is_sliced_in_logits_gradients_and_moments(train):
    supernet, variables, images = make()
    masked = jax.jit(lambda v, x, w: logits_and_gradients(supernet, v, x, w, train))
    for seed in range(3):
        widths = SPACE.to_widths(random_choices(seed))
        standalone = mobilenet.network(SPACE, widths)
        logits, gradients, moments = masked(variables, images, jnp.asarray(widths))
        sliced = slice_variables(variables, SPACE, widths)
        expected = jax.jit(lambda v, x, n=standalone: logits_and_gradients(n, v, x, None, train))(
            sliced, images
        )
        live = slice_variables({'params': gradients, 'batch_stats': moments}, SPACE, widths)
        assert_close((logits, live['params'], live['batch_stats']), expected, TOLERANCE)


def test_masked_is_sliced_to_rounding_in_float64():
    with jax.enable_x64(True):
        supernet, variables, images = make(jnp.float64)
        widths = SPACE.to_widths(random_choices(7))
        standalone = mobilenet.network(SPACE, widths, dtype=jnp.float64)
        masked, sliced = (
            jax.jit(lambda v, x, w, n=net: logits_and_gradients(n, v, x, w, True))(v, images, w)
            for net, v, w in (
                (supernet, variables, jnp.asarray(widths)),
                (standalone, slice_variables(variables, SPACE, widths), None),
            )
        )
        live = slice_variables({'params': masked[1]}, SPACE, widths)['params']
        assert_close((masked[0], live), sliced[:2], 1e-10)


def test_gradients_of_dead_channels_are_exactly_zero():
    supernet, variables, images = make()
    gradient = jax.jit(lambda w: logits_and_gradients(supernet, variables, images, w, True)[1])
    for seed in range(3):
        widths = SPACE.to_widths(random_choices(seed))
        gradients = gradient(jnp.asarray(widths))
        live = slice_variables({'params': gradients}, SPACE, widths)['params']
        assert nonzeros(gradients) == nonzeros(live) > 0


def test_widths_per_example_equal_one_example_at_a_time_in_evaluation():
    supernet, variables, images = make()
    widths = jnp.asarray(SPACE.to_widths(random_choices(3, len(images))))
    apply = jax.jit(lambda x, w: supernet.apply(variables, x, w)[0])
    together = apply(images, widths)
    apart = np.concatenate([apply(images[i : i + 1], widths[i]) for i in range(len(images))])
    np.testing.assert_allclose(together, apart, atol=1e-5)


def test_equal_widths_per_example_are_shared_widths_in_training():
    supernet, variables, images = make()
    widths = jnp.asarray(SPACE.to_widths(random_choices(4)))
    run = jax.jit(lambda w: logits_and_gradients(supernet, variables, images, w, True)[:2])
    assert_close(run(jnp.tile(widths, (len(images), 1))), run(widths), TOLERANCE)


def test_new_widths_compile_nothing():
    supernet, variables, images = make()
    apply = jax.jit(chex.assert_max_traces(lambda w: supernet.apply(variables, images, w, True)[0], n=1))
    results = [apply(jnp.asarray(SPACE.to_widths(random_choices(seed)))) for seed in range(8)]
    assert len({float(r.sum()) for r in results}) > 4


@pytest.mark.parametrize('form', ['masked', 'switched', 'standalone'])
def test_bfloat16_keeps_parameters_gradients_and_moments_in_float32(form):
    """Logits agree loosely: each of some ten roundings on the way is off by up to 2^-9, together about 2 %."""
    widths = None if form == 'standalone' else jnp.asarray(SPACE.to_widths(random_choices(5)))
    make_form = switching.network if form == 'switched' else mobilenet.network

    def run(dtype):
        net = make_form(SPACE, dtype=dtype)
        return jax.jit(
            lambda: logits_and_gradients(net, random_variables(1), random_images(2, 6), widths, True)
        )()

    half, full = run(jnp.bfloat16), run(jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {jnp.dtype('float32')}
    assert_close([half[0]], [full[0]], 0.05)
    assert not (half[0] == full[0]).all()  # it did compute in bfloat16


def test_initial_kernels_have_the_variance_of_he():
    space = with_multipliers([LayerSpec('conv', 32), LayerSpec('separable', 128)], (8, 8, 3), 10)
    params = jax.jit(mobilenet.network(space).init)(jax.random.key(0))['params']
    kernel = params['layer_01']['pointwise']
    np.testing.assert_allclose(kernel.std(), (2 / kernel.shape[0]) ** 0.5, rtol=0.05)
    assert (params['layer_00']['norm']['scale'] == 1).all()
    assert (params['head']['bias'] == 0).all()


def test_mobilenet_v1_has_its_published_number_of_parameters():
    """4,231,976 with normalisation's scales and biases (Howard et al., 2017: 4.2 million)."""
    space = mobilenet_v1((224, 224, 3), 1000)
    shapes = jax.eval_shape(mobilenet.network(space, space.base).init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes['params'])) == 4_231_976


def test_wrong_numbers_of_widths_are_named():
    with pytest.raises(ValueError, match='expected 4 widths, got 2'):
        mobilenet.network(SPACE, (2, 2))
