"""The same function written in other arithmetic: what is a normalisation stays one, and what is none becomes none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jcw.nets.training import functions_of
from jcw.trace import trace
from tests.closeness import assert_close

IMAGES = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
SHAPES = {
    'first': (3, 3, 3, 8),
    'kernel': (3, 3, 8, 8),
    'gamma': (8,),
    'beta': (8,),
    'mean': (8,),
    'variance': (8,),
    'head': (8, 5),
}


def drawn(**changed):
    draws = np.random.default_rng(0)
    variables = {
        name: jnp.asarray(draws.uniform(0.2, 1, shape), jnp.float32) for name, shape in SHAPES.items()
    }
    return {**variables, **changed}


def conv(x, kernel, stride=1, padding='SAME'):
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )


def network(middle, stride=2):
    def apply(v, x):
        x = middle(v, jax.nn.relu(conv(x, v['first'], stride)))
        return x.mean((1, 2)) @ v['head']

    return apply


def traced(middle, variables=None, stride=2):
    return trace(network(middle, stride), variables or drawn(), IMAGES, divisor=2)


def root(v):
    return jax.lax.rsqrt(v['variance'] + 1e-5)


def keras(v, x):
    scale = v['gamma'] * root(v)
    return conv(x, v['kernel']) * scale + (v['beta'] - v['mean'] * scale)


def keras_3(v, x):
    scale = v['gamma'] * root(v)
    return conv(x, v['kernel']) * scale + (-v['mean'] * scale + v['beta'])


def one_by_one(v, x):
    scale = v['gamma'] * root(v)
    return conv(x, v['kernel']) * scale - v['mean'] * scale + v['beta']


def standardised(v, x):
    deviation = jnp.sqrt(v['variance'] + 1e-5)
    return (conv(x, v['kernel']) / deviation - v['mean'] / deviation) * v['gamma'] + v['beta']


def centred(v, x):
    return (conv(x, v['kernel']) - v['mean']) * (root(v) * v['gamma']) + v['beta']


def scaled_first(v, x):
    return v['gamma'] * (conv(x, v['kernel']) - v['mean']) * root(v) + v['beta']


def scaled_first_and_shifted(v, x):
    deviation = jnp.sqrt(v['variance'] + 1e-5)
    return v['gamma'] * conv(x, v['kernel']) / deviation + (v['beta'] - v['gamma'] * v['mean'] / deviation)


def negative_added(v, x):
    return (conv(x, v['kernel']) + (-v['mean'])) * root(v) * v['gamma'] + v['beta']


def reciprocal(v, x):
    return (conv(x, v['kernel']) - v['mean']) * jnp.sqrt(v['variance'] + 1e-5) ** -1 * v['gamma'] + v['beta']


def branch(v, x):
    return x + centred(v, x) / jnp.sqrt(2.0)


def epsilon_outside(v, x):
    deviation = jnp.sqrt(v['variance']) + 1e-5
    return (conv(x, v['kernel']) - v['mean']) / deviation * v['gamma'] + v['beta']


def by_logarithm(v, x):
    return (conv(x, v['kernel']) - v['mean']) * jnp.exp(-0.5 * jnp.log(v['variance'] + 1e-5)) * v['gamma']


def from_the_mean(v, x):
    scale = v['gamma'] / jnp.sqrt(v['variance'] + 1e-5)
    return v['beta'] - (v['mean'] * scale - conv(x, v['kernel']) * scale)


def stacked(v, x):
    scale = v['gamma'] * root(v)
    by = jnp.stack([scale, v['beta'] - v['mean'] * scale])
    return conv(x, v['kernel']) * by[0] + by[1]


def of_rows(v, x):
    rows = jnp.stack([v['mean'], v['variance'], v['gamma'], v['beta']])
    mean, variance, gamma, beta = rows
    return (conv(x, v['kernel']) - mean) / jnp.sqrt(variance + 1e-5) * gamma + beta


def unbiased(v, x):
    seen = 1 - jnp.power(0.9, 8.0)
    mean, variance = v['mean'] * seen / seen, v['variance'] * seen / seen
    return (conv(x, v['kernel']) - mean) * jax.lax.rsqrt(variance + 1e-5) * v['gamma'] + v['beta']


def by_einsum(v, x):
    x = jnp.einsum('nhwc,c->nhwc', conv(x, v['kernel']) - v['mean'], v['gamma'] * root(v))
    return x + v['beta']


NORMALISED = [
    by_einsum,
    epsilon_outside,
    by_logarithm,
    from_the_mean,
    stacked,
    of_rows,
    unbiased,
    keras,
    keras_3,
    one_by_one,
    standardised,
    centred,
    branch,
    scaled_first,
    scaled_first_and_shifted,
    negative_added,
    reciprocal,
]


@pytest.mark.parametrize('middle', NORMALISED)
@pytest.mark.parametrize('fresh', [False, True])
def test_a_normalisation_keeps_its_moments_however_it_is_written(middle, fresh):
    variables = drawn(mean=jnp.zeros(8), variance=jnp.ones(8)) if fresh else drawn()
    graph, own = traced(middle, variables)
    (name,) = own['batch_stats']
    assert next(op for op in graph.operations if op.name == name).kind == 'conv'
    assert_close(own['batch_stats'][name]['mean'], variables['mean'])
    assert_close(own['batch_stats'][name]['variance'], variables['variance'], 1e-4)


def normalised(v, x, training):
    mean, variance = (x.mean((0, 1, 2)), x.var((0, 1, 2))) if training else (v['mean'], v['variance'])
    return (x - mean) * jax.lax.rsqrt(variance + 1e-5) * v['gamma'] + v['beta']


def of_images(v, x, training):
    x = normalised({name: a[:3] for name, a in v.items()}, (x - 0.45) / 0.22, training)
    return jax.nn.relu(conv(x, v['first'], 2))


def after_a_pool(v, x, training):
    pooled = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 1, 1, 1), 'SAME') / 4
    return normalised(v, pooled, training)


def read_twice(v, x, training):
    y = normalised(v, conv(x, v['kernel']), training)
    return y + conv(jax.nn.relu(y), v['kernel'])


def read_raw_too(v, x, training):
    y = conv(x, v['kernel'])
    return conv(jax.nn.relu(y), v['kernel']) + normalised(v, y, training)


def two_of_one(v, x, training):
    y, other = conv(x, v['kernel']), {**v, 'gamma': v['beta'] * 0.01, 'beta': v['gamma']}
    return normalised(other, y, training) + conv(jax.nn.relu(normalised(v, y, training)), v['kernel'])


def with_itself(v, x, training):
    return x + v['beta'] * normalised(v, x, training)


MASK = jnp.arange(8.0).clip(0, 1)
AFTER = {
    'ReLU': lambda v, x, t: normalised(v, jax.nn.relu(conv(x, v['kernel'])), t),
    'swish': lambda v, x, t: normalised(v, jax.nn.swish(conv(x, v['kernel'])), t),
    'hard-swish': lambda v, x, t: normalised(v, jax.nn.hard_swish(conv(x, v['kernel'])), t),
    'ReLU6, and before a ReLU': lambda v, x, t: jax.nn.relu(
        normalised(v, jax.nn.relu6(conv(x, v['kernel'])), t)
    ),
    'a scale': lambda v, x, t: normalised(v, 0.1 * conv(x, v['kernel']), t),
    'a bias and a scale': lambda v, x, t: normalised(v, (conv(x, v['kernel']) + 0.3) * v['beta'], t),
    'a scaled sum': lambda v, x, t: normalised(v, (x + conv(x, v['kernel'])) / jnp.sqrt(2.0), t),
    'another normalisation': lambda v, x, t: normalised(v, normalised(v, conv(x, v['kernel']), t), t),
    'a mask': lambda v, x, t: normalised(
        {**v, 'mean': v['mean'] * MASK, 'variance': v['variance'] * MASK}, conv(x, v['kernel']) * MASK, t
    ),
    'a pool of maxima': lambda v, x, t: jax.nn.relu(
        normalised(v, jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), 'SAME'), t)
    ),
    'a pool': after_a_pool,
    'nothing, and is read twice': read_twice,
    'what is read as it is, too': read_raw_too,
    'what is normalised otherwise, too': two_of_one,
    'what it is added to': with_itself,
    'what it is added to, before a ReLU': lambda v, x, t: jax.nn.relu(
        with_itself(v, conv(x, v['kernel']), t)
    ),
}


@pytest.mark.parametrize('fresh', [False, True])
@pytest.mark.parametrize('middle', AFTER.values(), ids=AFTER)
def test_a_traced_network_trains_as_its_function_does_wherever_it_normalises(middle, fresh):
    variables = drawn(mean=jnp.zeros(8), variance=jnp.ones(8), gamma=jnp.ones(8)) if fresh else drawn()

    def apply(v, x, training=False):
        return network(lambda v, x: middle(v, x, training))(v, x)

    graph, own = trace(apply, variables, IMAGES, divisor=2)
    images = jax.random.normal(jax.random.key(0), IMAGES.shape)
    found = functions_of(graph).apply(own, images, train=True)[0]
    assert_close(found, apply(variables, images, training=True), 2e-4)


def test_constants_that_prepare_images_are_no_moments():
    def apply(v, x, training=False):
        return of_images(v, x, training).mean((1, 2)) @ v['head']

    graph, own = trace(apply, drawn(), IMAGES, divisor=2)
    images = jax.random.normal(jax.random.key(0), IMAGES.shape)
    assert_close(functions_of(graph).apply(own, images, train=True)[0], apply(drawn(), images, True), 2e-4)


def test_one_normalisation_read_twice_is_done_once():
    _, own = traced(lambda v, x: read_twice(v, x, False))
    assert len(own['batch_stats']) == 1
    again = network(
        lambda v, x: (lambda y: jax.nn.relu(y) + conv(jax.nn.relu(y), v['kernel']))(centred(v, x))
    )
    once, _ = trace(again, drawn(), IMAGES, divisor=2)
    assert len([op for op in once.operations if op.norm and op.kind in ('conv', 'depthwise')]) == 1


@pytest.mark.parametrize('middle', [keras, keras_3, one_by_one, standardised, centred])
def test_a_bias_before_a_normalisation_is_part_of_its_mean(middle, monkeypatch):
    plain = conv

    def with_bias(x, kernel, *settings, **more):
        made = plain(x, kernel, *settings, **more)
        return made + 0.3 if kernel.shape == SHAPES['kernel'] else made

    monkeypatch.setitem(globals(), 'conv', with_bias)
    _, own = traced(middle)
    (stats,) = own['batch_stats'].values()
    assert_close(stats['mean'], drawn()['mean'] - 0.3)


@pytest.mark.parametrize('middle', [keras, keras_3, one_by_one, centred, scaled_first])
def test_a_scale_of_0_hides_the_moments_of_its_own_channel_alone(middle):
    variables = drawn()
    variables['gamma'] = variables['gamma'].at[3].set(0)
    _, own = traced(middle, variables)
    (stats,) = own['batch_stats'].values()
    assert_close(np.delete(stats['mean'], 3), np.delete(variables['mean'], 3))


def weight_normalised(v, x):
    length = jnp.sqrt(jnp.square(v['kernel']).sum((0, 1, 2)))
    return conv(x, v['kernel']) * (v['gamma'] / length) + v['beta']


@pytest.mark.parametrize(
    'middle',
    [
        lambda v, x: (x + conv(x, v['kernel'])) / jnp.sqrt(2.0),
        lambda v, x: conv(x, v['kernel']) * jnp.sqrt(2 / 72),
        weight_normalised,
        lambda v, x: conv(x, v['kernel']) * root(v),
        lambda v, x: (conv(x, v['kernel']) - v['beta']) * jnp.sqrt(v['gamma']),
        lambda v, x: weight_normalised(v, x) - v['mean'],
        lambda v, x: (weight_normalised(v, x) - v['mean']) * v['gamma'],
        lambda v, x: (conv(x, v['kernel']) - v['mean']) / v['variance'],
        lambda v, x: (conv(x, v['kernel']) + v['mean']) * root(v) * v['gamma'] + v['beta'],
    ],
    ids=[
        'a sum by the root of two',
        'a rate made equal',
        'weights by their length',
        'a root alone',
        'the root of a scale',
        'weights by their length, less a bias',
        'weights by their length, less a bias, scaled',
        'no root at all',
        'a bias, and a root mean square',
    ],
)
def test_a_root_or_a_mean_alone_is_no_normalisation(middle):
    graph, own = traced(middle)
    assert not own['batch_stats']
    assert not [op.name for op in graph.operations if op.kind in ('conv', 'depthwise') and op.norm]


def squeezed(v, x):
    inner = (x.mean((1, 2)) @ v['kernel'][0, 0] - v['mean']) * root(v) * v['gamma'] + v['beta']
    return x * jax.nn.sigmoid(jax.nn.relu(inner) @ v['kernel'][1, 1])[:, None, None]


def of_vectors(v, x):
    x = (x.mean((1, 2)) @ v['kernel'][0, 0] - v['mean']) * root(v)
    return jax.nn.relu(x)[:, None, None]


def of_the_mean(v, x):
    return ((x.mean((1, 2)) - v['mean']) * root(v))[:, None, None]


@pytest.mark.parametrize('middle', [squeezed, of_vectors, of_the_mean])
def test_a_normalisation_of_vectors_is_said_to_be_lost_in_training(middle):
    graph, _ = traced(middle)
    assert [op for op in graph.operations if 'training does not normalise there any more' in op.note]


def skipped(function):
    """Hide what an activation is: nothing of it reaches the outputs."""
    return lambda v, x: x + 0 * v['gamma'] * conv(function(conv(x, v['kernel'])), v['kernel'])


@pytest.mark.parametrize(
    ('middle', 'message'),
    [
        (lambda v, x: jnp.clip(conv(x, v['kernel']), 0, 500.0), 'none of the activations'),
        (skipped(lambda y: jnp.where(y > 0.1, y, 0)), 'none of the activations'),
        (skipped(lambda y: y.astype(jnp.int32).astype(jnp.float32)), 'numbers that become int32 are rounded'),
        (lambda v, x: jax.nn.relu(x.mean(1)).mean(1)[:, None, None], 'a sum over rows or columns alone'),
        (
            lambda v, x: (x.mean((1, 2)) + x.max((1, 2)).reshape(2, 8) @ v['kernel'][0, 0])[:, None, None],
            'only maps of one size|vectors cannot be added',
        ),
    ],
    ids=['a clip far off', 'a threshold behind 0', 'rounding behind 0', 'rows, then columns', 'vectors'],
)
def test_what_is_nearly_known_is_refused(middle, message):
    with pytest.raises(ValueError, match=message):
        traced(middle)


def gated(v, x):
    mean = x.mean((1, 2), keepdims=True)
    return x * jax.nn.sigmoid(jax.nn.relu(mean @ v['head']) @ v['head'].T)


def test_a_gate_of_a_single_position_is_a_gate():
    graph, _ = traced(gated, stride=8)
    assert 'gate' in [op.kind for op in graph.operations]


def test_a_padded_product_of_every_second_position_keeps_its_padding():
    def padded(v, x):
        return conv(x[:, ::2, ::2], v['kernel'][:1, :1], padding=((1, 1), (1, 1)))

    graph, own = traced(padded)
    images = jnp.asarray(np.random.default_rng(3).standard_normal(IMAGES.shape), jnp.float32)
    assert_close(functions_of(graph).apply(own, images)[0], network(padded)(drawn(), images))


def test_what_nothing_comes_of_need_not_be_understood():
    def watched(v, x):
        x.std()
        jax.debug.print('{}', x.shape[0])
        jax.debug.callback(lambda *_: None, x)
        return x

    graph, _ = traced(watched)
    apply = network(watched)
    several = trace(lambda v, x: (apply(v, x), jax.nn.softmax(apply(v, x)))[0], drawn(), IMAGES, divisor=2)
    assert several[0] == graph
    named = trace(lambda v, x: {'logits': apply(v, x)}, drawn(), IMAGES, divisor=2)
    assert named[0] == graph


def test_images_with_more_channels_than_rows_are_read_the_way_that_fits():
    variables = {'mean': jnp.arange(64.0), 'kernel': jnp.ones((3, 3, 64, 8)), 'head': jnp.ones((8, 5))}

    def apply(v, x):
        return jax.nn.relu(conv((x - v['mean']) / 2, v['kernel'])).mean((1, 2)) @ v['head']

    graph, _ = trace(apply, variables, jax.ShapeDtypeStruct((2, 16, 16, 64), jnp.float32), divisor=2)
    assert graph.input_shape == (16, 16, 64)


READ = {
    'rows of zeros before a normalisation': lambda v, x: centred(v, x + 0 * v['gamma'][:4, None, None]),
    'rows that begin as zeros': lambda v, x: (
        (conv(x, v['kernel']) + jnp.zeros(4)[:, None, None] - v['mean']) * root(v)
    ),
    'twice a swish': lambda v, x: 2 * jax.nn.swish(conv(x, v['kernel'])),
    'a sum with its own activation': lambda v, x: (lambda y: y + jax.nn.swish(y))(conv(x, v['kernel'])),
    'the mean with its own activation': lambda v, x: (lambda y: 0.5 * (y + jax.nn.relu(y)) - v['mean'])(
        conv(x, v['kernel'])
    ),
    'a mask by choice': lambda v, x: jnp.where(jnp.arange(8) > 2, conv(x, v['kernel']), 0),
    'a choice among variables': lambda v, x: conv(x, v['kernel']) * jnp.where(v['gamma'] > 0.5, v['beta'], 0),
    'numbers that might be none': lambda v, x: conv(x, v['kernel']) * jnp.nan_to_num(v['gamma']),
    'a barrier': lambda v, x: jax.lax.optimization_barrier((conv(x, v['kernel']), v['gamma']))[0],
    'a scale by einsum': lambda v, x: jnp.einsum('nhwc,->nhwc', conv(x, v['kernel']), v['gamma'][0]),
    'many numbers in turn': lambda v, x: conv(x, v['kernel']) + sum([v['beta'] * 0.001] * 500),
}


@pytest.mark.parametrize('middle', READ.values(), ids=READ)
def test_ordinary_arithmetic_is_read(middle):
    graph, _ = traced(middle)
    assert 'conv' in [op.kind for op in graph.operations]


def test_a_gate_by_einsum_is_a_gate():
    def gated(v, x):
        inner = jax.nn.relu(x.mean((1, 2)) @ v['head'])
        return jnp.einsum('nhwc,nc->nhwc', x, 2 * jax.nn.sigmoid(inner @ v['head'].T))

    graph, _ = traced(gated)
    assert 'gate' in [op.kind for op in graph.operations]


def test_normalisations_that_are_alike_before_training_are_two():
    def two(v, x):
        y = conv(x, v['kernel'])
        parts = [(y - v[f'mean {i}']) * jax.lax.rsqrt(v[f'variance {i}'] + 1e-5) for i in range(2)]
        return parts[0] + conv(parts[1], v['kernel'])

    fresh = {
        f'{name} {i}': jnp.full(8, float(name == 'variance'))
        for name in ('mean', 'variance')
        for i in range(2)
    }
    _, own = traced(two, drawn(**fresh))
    assert len(own['batch_stats']) == 2


def test_a_single_name_is_frozen_as_such():
    graph, _ = traced(centred)
    name = graph.site_names[0]
    frozen, _ = trace(network(centred), drawn(), IMAGES, divisor=2, freeze=name)
    assert name not in frozen.site_names


@pytest.mark.parametrize(
    ('changed', 'message'),
    [
        ({'beta': jnp.full(8, np.nan)}, r"variables\['beta'\] holds NaN"),
        (
            {'beta': jax.ShapeDtypeStruct((8,), jnp.float32)},
            r"variables\['beta'\] is a shape without numbers",
        ),
        ({'beta': jax.nn.relu}, r"variables\['beta'\] is no array"),
        ({'name': 'net'}, r"variables\['name'\] is no array but str"),
    ],
)
def test_variables_are_numbers(changed, message):
    with pytest.raises(ValueError, match=message):
        traced(centred, drawn(**changed))
