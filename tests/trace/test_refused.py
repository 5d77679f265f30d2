"""What cannot be written as a graph is refused: the message names the primitive, its shapes, and the user's line."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from jcw.trace import trace
from tests.trace.networks import IMAGES, linen

LINE = r'test_refused\.py:\d+'


def body(middle):
    """Return a network with something in its middle, on maps of 8 channels."""

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(8, (3, 3))(x))
            x = middle(x)
            return nn.Dense(5)(nn.relu(nn.Conv(8, (3, 3))(x)).mean((1, 2)))

    return linen(Network())


def attention(x):
    tokens = x.reshape(x.shape[0], -1, 8)
    q, k, v = jnp.moveaxis(nn.Dense(24)(tokens).reshape(*tokens.shape[:2], 3, 2, 4), 2, 0)
    weights = nn.softmax(jnp.einsum('nqhd,nkhd->nhqk', q, k))
    return jnp.einsum('nhqk,nkhd->nqhd', weights, v).reshape(x.shape)


class Scanned(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.relu(nn.Conv(8, (3, 3))(x)), None


def scanned(x):
    blocks = nn.scan(Scanned, variable_axes={'params': 0}, split_rngs={'params': True}, length=2)
    return blocks()(x, None)[0]


REFUSED = {
    'a concatenation': (
        lambda x: jnp.concatenate([x, x], -1),
        rf'concatenate \(\[2 8 8 8\], \[2 8 8 8\]\) -> \[2 8 8 16\] at {LINE}: concatenated channels',
    ),
    'fused heads of attention': (
        attention,
        rf'reshape \(\[2 64 24\]\) -> \[2 64 3 2 4\] at {LINE}: an axis of channels or positions is split',
    ),
    'a scan over blocks': (scanned, rf'scan \(.*\[2 8 8 8\].*\) -> .* at {LINE}: a scan over blocks'),
    'layer normalisation': (
        lambda x: nn.LayerNorm()(x),
        rf'reduce_sum \(\[2 8 8 8\]\) -> \[2 8 8\] at {LINE}: it goes over channels',
    ),
    'instance normalisation': (
        lambda x: nn.InstanceNorm()(x),
        rf"{LINE} is a square, as of instance normalisation's moments, which are of each image",
    ),
    'batch statistics of training': (
        lambda x: nn.BatchNorm(use_running_average=False)(x),
        rf'reduce_sum \(\[2 8 8 8\]\) -> \[8\] at {LINE}: it goes over the batch, .* evaluation mode',
    ),
    'a transposed convolution': (
        lambda x: nn.ConvTranspose(8, (2, 2), strides=(2, 2))(x),
        rf'conv_general_dilated .* at {LINE}: transposed convolutions',
    ),
    'a positional embedding': (
        lambda x: x + jnp.arange(64.0).reshape(8, 8, 1),
        rf'add .* at {LINE}: its numbers differ from place to place',
    ),
    'a product of two maps': (
        lambda x: nn.Conv(8, (1, 1))(x) * x,
        rf'mul .* at {LINE}: the only product of two results that can be expressed is a gate',
    ),
    'a part of the channels': (lambda x: x[..., :4], rf'slice .* at {LINE}: a part of the channels'),
    'dropout in training': (
        lambda x: nn.Dropout(0.5, deterministic=False, rng_collection='params')(x),
        rf'{LINE}: ',
    ),
}


@pytest.mark.parametrize('what', REFUSED)
def test_what_no_graph_expresses_is_refused_with_its_line(what):
    middle, message = REFUSED[what]
    apply, variables, images = body(middle)
    if 'training' in what:
        inner = apply

        def apply(variables, images):
            mutable = {'mutable': ['batch_stats'], 'rngs': {'params': jax.random.key(0)}}
            return inner(variables, images, **mutable)[0]

    with pytest.raises(ValueError, match=message):
        trace(apply, variables, images, divisor=2)


ACTIVATIONS = {
    'GELU': lambda x: nn.gelu(x, approximate=False),
    'GELU (its approximation)': nn.gelu,
    'ELU': nn.elu,
    'SELU': nn.selu,
    'softplus': nn.softplus,
    'tanh': nn.tanh,
    'leaky ReLU of slope 0.01': nn.leaky_relu,
    'hard tanh': nn.hard_tanh,
    'Mish': lambda x: x * nn.tanh(nn.softplus(x)),
}


@pytest.mark.parametrize('name', ACTIVATIONS)
def test_activations_that_a_graph_does_not_have_are_refused_by_name(name):
    apply, variables, images = body(lambda x: ACTIVATIONS[name](nn.Conv(8, (1, 1))(x)))
    with pytest.raises(
        ValueError, match=rf'at {LINE} is {re.escape(name)}, and none of the activations ReLU'
    ):
        trace(apply, variables, images, divisor=2)


def test_parameters_that_do_not_fit_are_refused():
    apply, variables, images = small()
    kernel = variables['params']['Dense_0']['kernel']
    variables['params']['Dense_0']['kernel'] = kernel[:-1]
    with pytest.raises(
        ValueError, match=r'does not run on these variables and images \[2, 8, 8, 3\]: .*kernel'
    ):
        trace(apply, variables, images, divisor=2)


def test_images_of_other_channels_are_refused():
    apply, variables, _ = small()
    with pytest.raises(ValueError, match=r'does not run on these variables and images \[2, 8, 8, 4\]'):
        trace(apply, variables, jax.ShapeDtypeStruct((2, 8, 8, 4), jnp.float32), divisor=2)


def test_training_mode_is_said_to_be_it():
    apply, variables, images = body(lambda x: nn.BatchNorm(use_running_average=False)(x))
    with pytest.raises(ValueError, match='it changes variables as it runs, as statistics in training'):
        trace(apply, variables, images, divisor=2)


def small():
    return body(lambda x: x)


def test_logits_come_without_an_activation():
    apply, variables, images = small()
    with pytest.raises(ValueError, match=r'reduce_max .*over channels, as .*softmax'):
        trace(lambda v, x: jax.nn.log_softmax(apply(v, x)), variables, images, divisor=2)
    with pytest.raises(ValueError, match='the network ends in sigmoid; it must return logits'):
        trace(lambda v, x: jax.nn.sigmoid(apply(v, x)), variables, images, divisor=2)


def test_statistics_beside_the_logits_are_refused():
    apply, variables, images = small()
    with pytest.raises(
        ValueError, match=r'must return logits \[2 classes\] and nothing else, got \(2, 5\), \(5,\)'
    ):
        trace(lambda v, x: (apply(v, x), apply(v, x).mean(0)), variables, images)


@pytest.mark.parametrize('shape', [(8, 8, 3), (2, 8, 8, 3, 1), (2, 0, 8, 3)])
def test_an_example_is_a_batch_of_images(shape):
    apply, variables, _ = small()
    with pytest.raises(
        ValueError, match=r'must be images \[batch height width channels\] or NCHW, got shape'
    ):
        trace(apply, variables, jax.ShapeDtypeStruct(shape, jnp.float32))


def test_shapes_are_numbers():
    apply, variables, _ = small()
    symbolic = export.symbolic_shape('batch, 8, 8, 3')
    with pytest.raises(ValueError, match=r'needs numbers for its shape, got .batch'):
        trace(apply, variables, jax.ShapeDtypeStruct(symbolic, jnp.float32))


def test_shapes_that_depend_on_the_images_are_refused():
    apply, variables, images = small()
    with pytest.raises(
        ValueError, match='the function cannot be traced, shapes or branches depend on its numbers'
    ):
        trace(lambda v, x: apply(v, x[x.sum((1, 2, 3)) > 0]), variables, images)


def test_a_network_of_which_no_width_can_vary_says_why():
    apply, variables, images = small()
    with pytest.raises(
        ValueError, match=r'none of the widths of this network can vary: .*of 8 channels no other'
    ):
        trace(apply, variables, images, divisor=8)


def test_less_than_float32_is_refused_with_the_first_operation_that_differs():
    def apply(v, x):
        x = jax.nn.relu(x @ v['exact'])
        return (jax.nn.relu(x.astype(jnp.bfloat16) @ v['narrow'])).astype(jnp.float32).mean((1, 2)) @ v[
            'head'
        ]

    rng = np.random.default_rng(0)
    sizes = {'exact': (3, 8), 'narrow': (8, 8), 'head': (8, 5)}
    variables = {k: jnp.asarray(rng.standard_normal(s), jnp.float32) for k, s in sizes.items()}
    variables['narrow'] = variables['narrow'].astype(jnp.bfloat16)
    with pytest.raises(
        ValueError,
        match=r"operation '002_conv' gives other numbers than .*they differ by .*trace it in float32",
    ):
        trace(apply, variables, IMAGES, divisor=2)


def test_outputs_that_ignore_the_images_are_refused():
    with pytest.raises(ValueError, match='the same outputs for any images'):
        trace(lambda v, x: jnp.ones((2, 5)) * v, jnp.ones(()), IMAGES)


@pytest.mark.parametrize('settings', [{'levels': 0}, {'divisor': 0}, {'min_multiplier': 2.0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match='need 0 < min_multiplier <= max_multiplier'):
        trace(*small(), **settings)
