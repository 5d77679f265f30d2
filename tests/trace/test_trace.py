"""A function that becomes a graph stays the function it was, and its channels are tied as they are used."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jcw.describe import describe
from jcw.nets.axes import shapes, slice_variables
from jcw.nets.training import functions_of
from jcw.trace import by_importance, trace
from jcw.trace.importance import importance
from jcw.trace.windows import squared, stated
from jcw.windows import pads_of, size_after
from tests.closeness import assert_close
from tests.tiny_graph import RESIDUAL, random_graph, random_variables
from tests.trace.networks import IMAGES, NETWORKS, MobileNetV2, drawn, linen, plain_nchw


@functools.cache
def traced(name):
    apply, variables, example = NETWORKS[name]()
    return apply, variables, example, *trace(apply, variables, example, divisor=2)


def images_of(example, seed=5):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(example.shape), jnp.float32)


def ours(graph, images):
    return images if images.shape[1:] == graph.input_shape else images.transpose(0, 2, 3, 1)


@pytest.mark.parametrize('name', NETWORKS)
def test_a_traced_network_gives_the_outputs_of_its_function(name):
    apply, variables, example, graph, own = traced(name)
    images = images_of(example)
    found, _ = jax.jit(functions_of(graph).apply)(own, ours(graph, images))
    assert_close(found, jax.jit(apply)(variables, images).reshape(found.shape))


@pytest.mark.parametrize('name', NETWORKS)
def test_channels_that_importance_sorts_leave_the_outputs_as_they_were(name):
    *_, example, graph, own = traced(name)
    images = ours(graph, images_of(example))
    ordered = by_importance(own, graph)
    apply = jax.jit(functions_of(graph).apply)
    assert_close(apply(ordered, images)[0], apply(own, images)[0])
    for site, scores in importance(ordered, graph).items():
        assert (np.diff(scores) <= 1e-6 * scores.max()).all(), site


def test_narrow_networks_are_slices():
    *_, example, graph, own = traced('a MobileNet with gates')
    images = images_of(example)
    widths = graph.smallest
    masked, _ = jax.jit(functions_of(graph).apply)(own, images, jnp.asarray(widths))
    alone = functions_of(graph.fixed(widths)).apply
    assert_close(masked, jax.jit(alone)(slice_variables(own, graph, widths), images)[0])


def ties(graph):
    """Return, for each site, the kinds of the operations that have its width."""
    return {site.name: [op.kind for op in graph.operations if site.name == op.out] for site in graph.sites}


def test_a_residual_stream_is_one_site():
    graph = traced('a ResNet of basic blocks')[3]
    assert ties(graph) == {
        'conv_init': ['conv', 'max_pool', 'conv', 'add', 'conv', 'add'],
        'ResNetBlock_0/Conv_0': ['conv'],
        'ResNetBlock_1/Conv_0': ['conv'],
        'ResNetBlock_2/Conv_1': ['conv', 'conv', 'add', 'conv', 'add', 'mean'],
        'ResNetBlock_2/Conv_0': ['conv'],
        'ResNetBlock_3/Conv_0': ['conv'],
    }


def test_a_depthwise_convolution_and_a_gate_keep_the_width_of_their_expansion():
    graph = traced('a MobileNet with gates')[3]
    assert ties(graph)['InvertedResidual_0/Conv_0'] == ['conv', 'depthwise', 'gate']
    (gate, *_) = (op for op in graph.operations if op.kind == 'gate')
    assert (gate.inner, gate.activation, gate.opening) == ('InvertedResidual_0/inner', 'swish', 'sigmoid')


def test_normalisation_keeps_the_moments_that_the_network_has():
    _, variables, _, graph, own = traced('a MobileNet v2')
    place = next(op.name for op in graph.operations if op.kind == 'depthwise')
    block = variables['batch_stats']['InvertedResidual_0']['BatchNorm_1']
    assert_close(own['batch_stats'][place]['mean'], block['mean'])
    assert_close(own['batch_stats'][place]['variance'], block['var'])
    scale = variables['params']['InvertedResidual_0']['BatchNorm_1']['scale']
    assert_close(own['params'][place]['scale'], scale)


def test_a_strided_slice_before_a_product_is_its_stride():
    graph = traced('an NNX network')[3]
    assert [(op.kernel, op.stride) for op in graph.operations if op.kind == 'conv'] == [
        (3, 1),
        (3, 2),
        (1, 2),
        (2, 1),  # the product over 2x2 positions: one window
    ]


def test_a_convolution_that_no_normalisation_follows_has_none():
    graph = traced('a ResNet of basic blocks')[3]
    assert all(op.norm for op in graph.operations)
    graph = traced('shortcuts of every kind')[3]
    norms = [op.norm for op in graph.operations if op.kind == 'conv']
    assert norms == [True, True, False, True, False]


@pytest.mark.parametrize('name', ['a ConvNet with dense layers', 'a LeNet without padding'])
def test_a_network_without_normalisation_trains_from_where_it_was(name):
    apply, variables, example, graph, own = traced(name)
    images = images_of(example)
    logits, moments = jax.jit(lambda v, x: functions_of(graph).apply(v, x, train=True))(own, images)
    assert_close(logits, apply(variables, images).reshape(logits.shape))
    assert moments == {}


def test_padding_and_kernels_are_those_of_the_function():
    graph = traced('shortcuts of every kind')[3]
    stem, pool = graph.operations[1:3]
    assert (stem.kernel, stem.stride, graph.pads(stem)) == (3, 2, ((1, 0), (1, 0)))
    assert (pool.kernel, pool.stride, graph.pads(pool)) == (3, 2, ((1, 0), (1, 0)))
    graph = traced('a LeNet without padding')[3]
    assert [(op.kernel, op.stride, op.pads) for op in graph.operations if op.kind == 'conv'] == [
        (5, 1, ((0, 0), (0, 0))),
        (4, 2, ((1, 1), (0, 1))),
        (3, 1, ((0, 0), (0, 0))),
        (2, 1, ((0, 0), (0, 0))),
    ]


def test_widths_go_no_further_than_the_network_unless_asked():
    apply, variables, example = plain_nchw()
    graph, _ = trace(apply, variables, example, divisor=2)
    assert all(site.choices[-1] == site.base for site in graph.sites)
    wider, own = trace(apply, variables, example, divisor=2, max_multiplier=1.5)
    assert wider.sites[0].choices[-1] == 12
    assert jax.tree.map(jnp.shape, own) == jax.tree.map(lambda leaf: leaf.shape, shapes(wider, wider.base))


def test_what_the_user_freezes_is_a_number_and_the_table_says_why():
    graph, _ = trace(*linen(MobileNetV2()), divisor=2, freeze=['Conv_0'])
    assert 'Conv_0' not in graph.site_names
    assert "frozen: site 'Conv_0' is frozen, as asked" in describe(graph)
    with pytest.raises(ValueError, match="freeze: 'ghost' is no site; there are Conv_0"):
        trace(*linen(MobileNetV2()), divisor=2, freeze=['ghost'])


def test_the_table_names_every_operation_site_and_reason():
    graph = traced('a plain function of NCHW')[3]
    text = describe(graph)
    for op in graph.operations:
        assert op.name in text
        assert op.note in text
    assert 'frozen: the classes' in text
    assert 'conv_1' in text.splitlines()[-2]


def convolved(x, kernel, stride=1, groups=1, padding='SAME'):
    spec = ('NHWC', 'HWIO', 'NHWC')
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=spec, feature_group_count=groups
    )


def test_grouped_channels_are_frozen_and_the_rest_is_searched():
    def apply(v, x):
        x = jax.nn.relu(convolved(x, v['a']))
        x = jax.nn.relu(convolved(jax.nn.relu(convolved(x, v['b'])), v['grouped'], groups=4))
        return convolved(x, v['c']).mean((1, 2)) @ v['head']

    sizes = {
        'a': (3, 3, 3, 8),
        'b': (1, 1, 8, 8),
        'grouped': (3, 3, 2, 12),
        'c': (1, 1, 12, 8),
        'head': (8, 5),
    }
    variables = drawn({name: jax.ShapeDtypeStruct(size, jnp.float32) for name, size in sizes.items()})
    graph, _ = trace(apply, variables, IMAGES, divisor=2)
    assert [op.out for op in graph.operations if op.kind == 'conv'] == ['conv_1', 8, 12, 'conv_4']
    assert '4 groups of channels' in describe(graph)


def test_constants_that_the_function_closes_over_are_its_variables():
    apply, variables, example = plain_nchw()
    graph, own = trace(lambda _, x: apply(variables, x), {}, example, divisor=2)
    again, same = trace(apply, variables, example, divisor=2)
    assert graph == again
    jax.tree.map(np.testing.assert_array_equal, own, same)


def test_a_branch_that_known_numbers_choose_is_read():
    apply, variables, example = plain_nchw()

    def branching(v, x):
        return jax.lax.cond(v['train'], lambda x: jnp.zeros((x.shape[0], 5)), lambda x: apply(v, x), x)

    graph, _ = trace(branching, {**variables, 'train': jnp.array(False)}, example, divisor=2)
    assert graph == trace(apply, variables, example, divisor=2)[0]


def test_equinox_modules_are_traced_through_partition():
    eqx = pytest.importorskip('equinox')
    keys = jax.random.split(jax.random.key(0), 3)
    model = eqx.nn.Sequential(
        [
            eqx.nn.Conv2d(3, 8, 3, padding=1, key=keys[0]),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.Conv2d(8, 16, 3, stride=2, padding=1, key=keys[1]),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.AdaptiveAvgPool2d(1),
            eqx.nn.Lambda(jnp.ravel),
            eqx.nn.Linear(16, 5, key=keys[2]),
        ]
    )
    arrays, static = eqx.partition(model, eqx.is_array)
    graph, _ = trace(
        lambda arrays, x: jax.vmap(eqx.combine(arrays, static))(x),
        arrays,
        jax.ShapeDtypeStruct((2, 3, 8, 8), jnp.float32),
        divisor=2,
    )
    assert len(graph.sites) == 2


def test_pools_of_equinox_have_an_axis_of_their_own():
    eqx = pytest.importorskip('equinox')
    keys = jax.random.split(jax.random.key(0), 2)
    layers = [
        *(eqx.nn.Conv2d(3, 8, 4, key=keys[0]), eqx.nn.MaxPool2d(2, 2), eqx.nn.Lambda(jax.nn.relu)),
        *(eqx.nn.Lambda(jnp.ravel), eqx.nn.Linear(32, 5, key=keys[1])),
    ]
    arrays, static = eqx.partition(eqx.nn.Sequential(layers), eqx.is_array)
    example = jax.ShapeDtypeStruct((2, 3, 8, 8), jnp.float32)
    graph, _ = trace(lambda arrays, x: jax.vmap(eqx.combine(arrays, static))(x), arrays, example, divisor=2)
    assert [(op.kind, op.kernel, op.stride) for op in graph.operations[1:]] == [
        *(('conv', 4, 1), ('max_pool', 2, 2), ('conv', 2, 1), ('mean', 1, 1), ('dense', 1, 1)),
    ]


def test_kernels_of_any_shape_are_square_ones_with_stated_padding():
    rng, agreeing = np.random.default_rng(0), 0
    for _ in range(150):
        stride, sides, size = (
            int(rng.integers(1, 4)),
            rng.integers(1, 5, 2),
            tuple(rng.integers(1, 7, 2).tolist()),
        )
        pads = tuple(map(tuple, rng.integers(0, 3, (2, 2)).tolist()))
        kernel = rng.standard_normal((*sides, 2, 3)).astype(np.float32)
        if min(size_after(size, kernel.shape[:2], (stride, stride), pads)) < 1:
            continue
        square, around = squared(kernel, pads)
        side = len(square)
        explicit = stated(size, side, stride, around)
        images = rng.standard_normal((1, *size, 2)).astype(np.float32)
        padding = pads_of(size, side, stride, explicit)
        assert (padding == pads_of(size, side, stride)) == (explicit is None)
        assert_close(
            convolved(images, square, stride, padding=padding),
            convolved(images, kernel, stride, padding=pads),
        )
        agreeing += 1
    assert agreeing > 100


ROUND_TRIPS = {'residual': RESIDUAL, **{f'random {seed}': random_graph(seed) for seed in range(3)}}


@pytest.mark.parametrize('name', ROUND_TRIPS)
def test_a_graph_that_is_run_and_traced_is_the_same_graph(name):
    graph = ROUND_TRIPS[name]
    variables = random_variables(0, graph=graph)
    forward = functions_of(graph, implementation='native').apply
    found, own = trace(
        lambda v, x: forward(v, x)[0],
        variables,
        jax.ShapeDtypeStruct((2, *graph.input_shape), jnp.float32),
        divisor=1,
    )
    assert [(op.kind, op.reads, op.kernel, op.stride, op.activation) for op in found.operations] == [
        (op.kind, op.reads, op.kernel, op.stride, op.activation) for op in graph.operations
    ]
    assert found.sizes == graph.sizes
    same = {(op.out, other.out) for op, other in zip(graph.operations, found.operations, strict=True)}
    same = {pair for pair in same if isinstance(pair[0], str)}
    assert len(same) == len({one for one, _ in same}) == len({other for _, other in same})
    assert [found.width(op.out, found.base) for op in found.operations] == [
        graph.width(op.out, graph.largest) for op in graph.operations
    ]
    jax.tree.map(assert_close, own, variables)
