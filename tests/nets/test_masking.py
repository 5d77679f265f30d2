"""Normalisation + activation + mask against its textbook form and plain automatic differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jcw.nets import activations, masking

ACTIVATIONS = {
    None: lambda x: x,
    'relu': jax.nn.relu,
    'relu6': jax.nn.relu6,
    'hard_swish': jax.nn.hard_swish,
    'swish': jax.nn.swish,
}
WIDTHS = {'shared': jnp.array(3), 'per example': jnp.array([1, 4, 0, 3, 2])}


def textbook(x, scale, bias, mask, activation='relu'):
    """Normalise by moments over live entries; all by definition, differentiated by JAX."""
    spread = jnp.broadcast_to(mask if mask.ndim == 2 else mask[None], (len(x), x.shape[-1]))[:, None, None, :]
    count = jnp.maximum((spread * jnp.ones_like(x)).sum((0, 1, 2)), 1)
    mean = (spread * x).sum((0, 1, 2)) / count
    variance = (spread * (x - mean) ** 2).sum((0, 1, 2)) / count
    normal = (x - mean) / jnp.sqrt(variance + masking.EPSILON)
    return ACTIVATIONS[activation](normal * scale + bias) * spread, mean, variance


def inputs():
    keys = jax.random.split(jax.random.key(0), 4)
    x = 1 + 2 * jax.random.normal(keys[0], (5, 3, 4, 4), jnp.float64)
    scale, bias = (jax.random.normal(k, (4,), jnp.float64) for k in keys[1:3])
    return x, scale, bias, jax.random.normal(keys[3], x.shape, jnp.float64)


def test_every_activation_is_tried():
    assert set(ACTIVATIONS) == set(activations.BY_NAME)


@pytest.mark.parametrize('activation', ACTIVATIONS)
@pytest.mark.parametrize('which', WIDTHS)
def test_training_form_and_its_gradient_are_the_textbook_ones(which, activation):
    with jax.enable_x64(True):
        x, scale, bias, g = inputs()
        mask = masking.channel_mask(WIDTHS[which], 4, jnp.float64)
        y, moments = masking.normalise_train(x, scale, bias, mask, None, activation)
        expected, mean, variance = textbook(x, scale, bias, mask, activation)
        np.testing.assert_allclose(y, expected, rtol=1e-10, atol=1e-12)
        live = moments.live > 0
        np.testing.assert_allclose(moments.mean[live], mean[live], rtol=1e-10)
        np.testing.assert_allclose(moments.variance[live], variance[live], rtol=1e-10)
        ours, plain = (
            jax.grad(lambda *a, f=f: (g * f(*a)[0]).sum(), argnums=(0, 1, 2))(x, scale, bias)
            for f in (
                lambda *a: masking.normalise_train(*a, mask, None, activation),
                lambda *a: textbook(*a, mask, activation),
            )
        )
        for a, b in zip(ours, plain, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize('which', WIDTHS)
def test_a_function_of_the_normalised_has_its_value_and_gradients(which):
    with jax.enable_x64(True):
        x, scale, bias, g = inputs()
        mask = masking.channel_mask(WIDTHS[which], 4, jnp.float64)
        kernel = jnp.asarray(np.random.default_rng(1).standard_normal((4, 4)))

        def product(y, kernel):
            return y @ kernel

        def into(kernel, *a):
            return masking.normalise_into(product, kernel, *a, mask)[0]

        def apart(kernel, *a):
            return product(masking.normalise_train(*a, mask)[0], kernel)

        ours, plain = (
            jax.value_and_grad(lambda *a, f=f: (g * f(*a)).sum(), argnums=(0, 1, 2, 3))(
                kernel, x, scale, bias
            )
            for f in (into, apart)
        )
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_training_form_stays_accurate_far_from_zero():
    """E[x^2] - E[x]^2 in float32 loses a variance of 1 at a mean of 100 only in its last digits."""
    x = 100 + jax.random.normal(jax.random.key(1), (64, 8, 8, 4))
    _, moments = masking.normalise_train(x, jnp.ones(4), jnp.zeros(4), jnp.ones(4))
    np.testing.assert_allclose(moments.variance, np.asarray(x, np.float64).var((0, 1, 2)), rtol=2e-2)


@pytest.mark.parametrize('activation', ACTIVATIONS)
def test_dead_channels_are_zero_whatever_their_bias(activation):
    x, ones = jnp.ones((2, 3, 3, 4)), jnp.ones(4)
    mask = masking.channel_mask(jnp.array(2), 4)
    trained, _ = masking.normalise_train(x, ones, ones, mask, None, activation)
    evaluated = masking.normalise_eval(x, ones, ones, 0 * ones, ones, mask, activation)
    for y in (trained, evaluated):
        assert (y[..., 2:] == 0).all()
        assert (y[..., :2] > 0).all()


def test_evaluation_form_is_the_training_form_at_the_batch_moments():
    x = jax.random.normal(jax.random.key(2), (6, 5, 5, 3))
    scale, bias, mask = jnp.array([1.0, -2, 0.5]), jnp.array([0.1, 0.2, -0.3]), jnp.ones(3)
    y, moments = masking.normalise_train(x, scale, bias, mask)
    again = masking.normalise_eval(x, scale, bias, moments.mean, moments.variance, mask)
    np.testing.assert_allclose(y, again, atol=1e-6)


def test_a_mask_has_one_up_to_the_width():
    mask = masking.channel_mask(jnp.array([0, 2, 4]), 4)
    np.testing.assert_array_equal(mask, [[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]])


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float32])
def test_moments_are_float32_whatever_the_activations(dtype):
    x = jnp.ones((2, 2, 2, 3), dtype)
    y, moments = masking.normalise_train(x, jnp.ones(3), jnp.zeros(3), jnp.ones(3))
    assert y.dtype == dtype
    assert moments.mean.dtype == moments.variance.dtype == jnp.float32
