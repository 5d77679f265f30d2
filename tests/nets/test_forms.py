"""The first invariant: every form of a network, at any widths, is the network of those widths alone."""

import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
from jax import export as jax_export

from jcw import deploy, zoo
from jcw.builder import build
from jcw.deploy.export import stablehlo
from jcw.nets import switched, training
from jcw.nets.axes import slice_variables
from tests.tiny_graph import (
    GRAPH,
    RESIDUAL,
    random_choices,
    random_graph,
    random_images,
    random_variables,
)


def _gated(g):
    """Open gates by a sigmoid, pool windows of an even side."""
    x = g.conv(g.images, g.site('stem', 6, (2, 4, 6)), kernel=3)
    x = g.max_pool(x, kernel=2, stride=2)
    x = g.gate(x, g.site('inner', 4, (2, 4)), opening='sigmoid')
    return g.classify(x)


GATED = build(_gated, (8, 7, 3), 5)
TINY = {
    'chain': GRAPH,
    'residual': RESIDUAL,
    'gated': GATED,
    **{f'random {seed}': random_graph(seed) for seed in range(4)},
}
ZOO = (
    'mobilenet_v1',
    'mobilenet_v2',
    'mobilenet_v3',
    'efficientnet_lite0',
    'resnet18',
    'resnet20',
    'resnet50',
)
TOLERANCE = 1e-4  # of the greatest logit


def zoo_graph(name):
    settings = {'base_multiplier': 0.25, 'levels': 3, 'drop_blocks': True}
    return build(zoo.NETWORKS[name], (32, 32, 3), 10, **settings)


def assert_close(a, b, tolerance):
    """Compare trees, relative to the greatest entry of the second."""
    x, y = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (a, b))
    np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * np.abs(y).max())


def assert_forms_agree(graph, seed):
    widths = graph.to_widths(random_choices(seed, graph=graph))
    fixed, variables = graph.fixed(widths), random_variables(1, graph=graph)
    images = np.random.default_rng(2).integers(0, 256, (3, *graph.input_shape), np.uint8)
    mean, std = (0.5,) * graph.input_shape[2], (0.25,) * graph.input_shape[2]
    normalised = jnp.asarray((images / 255.0 - 0.5) / 0.25, jnp.float32)
    masked, _ = jax.jit(training.functions_of(graph).apply)(variables, normalised, jnp.asarray(widths))
    sliced = slice_variables(variables, graph, widths)
    folded = deploy.fold(sliced, fixed, mean, std)
    session = onnxruntime.InferenceSession(
        deploy.onnx_model(graph, widths, folded), providers=['CPUExecutionProvider']
    )
    forms = {
        'switched': jax.jit(switched.functions_of(graph, extents=2).apply)(
            variables, normalised, jnp.asarray(widths)
        )[0],
        'sliced': jax.jit(training.functions_of(fixed).apply)(sliced, normalised)[0],
        'folded': jax.jit(lambda f, x: deploy.forward(f, x, fixed))(folded, images),
        'native': jax.jit(lambda f, x: deploy.forward(f, x, fixed, implementation='native'))(folded, images),
        'onnx': session.run(None, {'images': images})[0],
        'stablehlo': jax.jit(jax_export.deserialize(bytearray(stablehlo(folded, fixed))).call)(images),
    }
    assert np.abs(masked).max() > 0
    for name, logits in forms.items():
        np.testing.assert_allclose(
            logits, masked, rtol=0, atol=TOLERANCE * np.abs(masked).max(), err_msg=f'{name} at {widths}'
        )


@pytest.mark.parametrize('name', TINY)
def test_all_forms_of_a_small_graph_agree(name):
    assert_forms_agree(TINY[name], 0)


@pytest.mark.slow
@pytest.mark.parametrize('name', ZOO)
def test_all_forms_of_the_zoo_agree(name):
    graph = zoo_graph(name)
    for seed in range(2):
        assert_forms_agree(graph, seed)


def logits_and_gradients(network, variables, images, widths, train):
    """Differentiate a loss that is not linear in the logits; moments come along."""

    def loss(params):
        logits, moments = network.apply({**variables, 'params': params}, images, widths, train)
        return jnp.sin(logits).sum(), (logits, moments)

    gradients, (logits, moments) = jax.grad(loss, has_aux=True)(variables['params'])
    return logits, gradients, moments


def assert_masked_is_sliced(graph, seeds, tolerance=1e-9):
    with jax.enable_x64(True):
        supernet = training.functions_of(graph, dtype=jnp.float64)
        variables, images = (
            random_variables(1, np.float64, graph=graph),
            random_images(2, 4, np.float64, graph),
        )
        masked = jax.jit(lambda w: logits_and_gradients(supernet, variables, images, w, True))
        for seed in seeds:
            widths = graph.to_widths(random_choices(seed, graph=graph))
            alone = training.functions_of(graph.fixed(widths), dtype=jnp.float64)
            logits, gradients, moments = masked(jnp.asarray(widths))
            sliced = slice_variables(variables, graph, widths)
            expected = jax.jit(lambda v, n=alone: logits_and_gradients(n, v, images, None, True))(sliced)
            live = slice_variables({'params': gradients, 'batch_stats': moments}, graph, widths)
            assert_close((logits, live['params'], live['batch_stats']), expected, tolerance)
            assert (
                nonzeros(gradients) == nonzeros(live['params']) > 0
            )  # those of dead channels are exactly zero


def nonzeros(tree):
    return sum(int((np.asarray(leaf) != 0).sum()) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize('name', TINY)
def test_masked_training_is_sliced_training_and_dead_gradients_are_zero(name):
    assert_masked_is_sliced(TINY[name], range(2))


@pytest.mark.slow
@pytest.mark.parametrize('name', ZOO)
def test_masked_training_of_the_zoo_is_sliced_training(name):
    assert_masked_is_sliced(zoo_graph(name), range(2))


@pytest.mark.parametrize('name', ['chain', 'residual', 'random 1'])
def test_switched_is_masked_in_training_compiled_once(name):
    graph = TINY[name]
    with jax.enable_x64(True):
        variables, images = (
            random_variables(1, np.float64, graph=graph),
            random_images(2, 4, np.float64, graph),
        )

        def differentiated(net):
            return jax.jit(lambda w: logits_and_gradients(net, variables, images, w, True))

        masked = differentiated(training.functions_of(graph, dtype=jnp.float64))
        other = differentiated(switched.functions_of(graph, extents=2, dtype=jnp.float64))
        for seed in range(3):
            widths = graph.to_widths(random_choices(seed, graph=graph))
            (logits, gradients, moments), expected = other(jnp.asarray(widths)), masked(jnp.asarray(widths))
            assert_close((logits, gradients), expected[:2], 1e-9)
            live = (slice_variables({'batch_stats': m}, graph, widths) for m in (moments, expected[2]))
            assert_close(*live, 1e-9)
        assert other._cache_size() == 1


def test_new_widths_compile_nothing():
    variables, images = random_variables(0), random_images(0, 4)
    apply = jax.jit(
        chex.assert_max_traces(
            lambda w: training.functions_of(GRAPH).apply(variables, images, w, True)[0], n=1
        )
    )
    results = [apply(jnp.asarray(GRAPH.to_widths(random_choices(seed)))) for seed in range(8)]
    assert len({float(r.sum()) for r in results}) > 4


def test_widths_per_example_equal_one_example_at_a_time_in_evaluation():
    variables, images = random_variables(0, graph=RESIDUAL), random_images(0, 4)
    widths = jnp.asarray(RESIDUAL.to_widths(random_choices(3, 4, graph=RESIDUAL)))
    apply = jax.jit(lambda x, w: training.functions_of(RESIDUAL).apply(variables, x, w)[0])
    apart = np.concatenate([apply(images[i : i + 1], widths[i]) for i in range(4)])
    assert_close(apply(images, widths), apart, 1e-5)


def test_equal_widths_per_example_are_shared_widths_in_training():
    with jax.enable_x64(True):
        net = training.functions_of(RESIDUAL, dtype=jnp.float64)
        variables, images = random_variables(0, np.float64, graph=RESIDUAL), random_images(0, 4, np.float64)
        widths = jnp.asarray(RESIDUAL.to_widths(random_choices(4, graph=RESIDUAL)))
        run = jax.jit(lambda w: logits_and_gradients(net, variables, images, w, True)[:2])
        assert_close(run(jnp.tile(widths, (4, 1))), run(widths), 1e-9)


@pytest.mark.parametrize('form', [training.functions_of, switched.functions_of])
def test_bfloat16_keeps_parameters_gradients_and_moments_in_float32(form):
    """Logits agree loosely: each of some ten roundings on the way is off by up to 2^-9, together about 2 %."""
    widths = jnp.asarray(GRAPH.to_widths(random_choices(5)))

    def run(dtype):
        net = form(GRAPH, dtype=dtype)
        return jax.jit(
            lambda: logits_and_gradients(net, random_variables(1), random_images(2, 6), widths, True)
        )()

    half, full = run(jnp.bfloat16), run(jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {jnp.dtype('float32')}
    assert_close([half[0]], [full[0]], 0.05)
    assert not (half[0] == full[0]).all()  # it did compute in bfloat16


def test_a_dropped_block_is_the_graph_without_it():
    def net(g, block):
        x = g.conv(g.images, g.site('stream', 6, (6,)), kernel=3)
        if block:
            x = zoo.inverted_residual(g, x, 'stream', g.site('expand', 8, (0, 8)))
        return g.classify(x)

    whole, without = (build(lambda g, block=b: net(g, block), (8, 7, 3), 5) for b in (True, False))
    fixed = whole.fixed([6, 0])
    assert [(op.kind, op.kernel, op.out) for op in fixed.operations] == [
        (op.kind, op.kernel, op.out) for op in without.operations
    ]


def test_extents_end_at_the_greatest_width_and_spread_evenly():
    assert switched.site_extents((8, 16, 24, 32, 40), 2) == (24, 40)
    assert switched.site_extents((8, 16), 4) == (8, 16)
    assert switched.site_extents((0, 8), 4) == (8,)


def test_a_narrow_subnet_runs_a_branch_of_fewer_operations():
    """The greatest and the least branch of the compiled program, by the sizes of the products in them."""
    graph = build(lambda g: g.classify(g.conv(g.images, g.site('only', 64))), (8, 8, 16), 4, levels=4)
    net, variables = switched.functions_of(graph), random_variables(0, graph=graph)
    jaxpr = jax.make_jaxpr(net.apply)(
        variables, random_images(0, 2, graph=graph), jnp.asarray(graph.smallest)
    )
    branches = max((eqn.params['branches'] for eqn in jaxpr.eqns if eqn.primitive.name == 'cond'), key=len)
    sizes = [
        max(np.prod(eqn.outvars[0].aval.shape) for eqn in _all(b.jaxpr) if _is_product(eqn)) for b in branches
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] < 0.5 * sizes[-1]


def _is_product(eqn):
    return eqn.primitive.name in ('dot_general', 'conv_general_dilated')


def _all(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            for inner in value if isinstance(value, list | tuple) else [value]:
                if hasattr(inner, 'eqns') or hasattr(inner, 'jaxpr'):
                    yield from _all(getattr(inner, 'jaxpr', inner))


def test_widths_of_each_examples_own_are_refused_by_the_switched_form():
    widths = jnp.asarray(GRAPH.to_widths(random_choices(0, 4)))
    unchecked = inspect.unwrap(
        switched.functions_of(GRAPH).apply
    )  # the tests' own type checks would speak first
    with pytest.raises(ValueError, match='all examples share one configuration'):
        unchecked(random_variables(0), random_images(0, 4), widths)
