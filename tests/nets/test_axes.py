"""Variables by the names of their axes: slices, places, permutations, initial values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jcw.nets import axes, training
from tests.compiled import compilations
from tests.tiny_graph import (
    GRAPH,
    RESIDUAL,
    chain,
    random_choices,
    random_graph,
    random_images,
    random_variables,
)

GRAPHS = [GRAPH, RESIDUAL, random_graph(0), random_graph(1)]


@pytest.mark.parametrize('graph', GRAPHS, ids=range(len(GRAPHS)))
def test_a_slice_has_the_shapes_of_the_narrow_network(graph):
    widths = graph.to_widths(random_choices(0, graph=graph))
    sliced = axes.slice_variables(random_variables(0, graph=graph), graph, widths)
    expected = axes.shapes(graph.fixed(widths))
    assert jax.tree.map(jnp.shape, sliced) == jax.tree.map(lambda leaf: leaf.shape, expected)


def test_slicing_twice_is_slicing_once():
    whole = random_variables(0)
    once = axes.slice_variables(whole, GRAPH, GRAPH.smallest)
    middle = [int(a + b) // 2 for a, b in zip(GRAPH.smallest, GRAPH.largest, strict=True)]
    twice = axes.slice_variables(axes.slice_variables(whole, GRAPH, middle), GRAPH, GRAPH.smallest)
    assert jax.tree.all(jax.tree.map(np.array_equal, once, twice))


def test_the_largest_slice_is_everything():
    whole = random_variables(0)
    assert jax.tree.all(
        jax.tree.map(np.array_equal, whole, axes.slice_variables(whole, GRAPH, GRAPH.largest))
    )


def test_a_slices_gradient_added_in_its_place_is_the_gradient_through_slicing():
    params = random_variables(0, graph=RESIDUAL)['params']
    widths = RESIDUAL.to_widths(random_choices(0, graph=RESIDUAL))
    stats = random_variables(0, graph=RESIDUAL)['batch_stats']

    def sliced(params):
        return axes.slice_variables({'params': params, 'batch_stats': stats}, RESIDUAL, widths)['params']

    def of_slice(thin):
        return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(thin))

    def of_both(params):
        return sum((leaf**2).sum() for leaf in jax.tree.leaves(params)) + of_slice(sliced(params))

    thin = jax.grad(of_slice)(sliced(params))
    found = jax.jit(axes.add_slices)(jax.tree.map(lambda leaf: 2 * leaf, params), thin)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(jax.grad(of_both)(params)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize('graph', GRAPHS, ids=range(len(GRAPHS)))
def test_a_permutation_of_channels_changes_no_output(graph):
    rng = np.random.default_rng(0)
    orders = {site.name: rng.permutation(site.choices[-1]) for site in graph.sites}
    variables, images = random_variables(0, graph=graph), random_images(0, 3, graph=graph)
    apply = jax.jit(training.functions_of(graph).apply)
    found, expected = (apply(v, images)[0] for v in (axes.permuted(variables, graph, orders), variables))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_initial_kernels_have_the_variance_of_he():
    graph = chain([('conv', 64, 3, 1), ('separable', 128, 3, 1)], (8, 8, 3), 10)
    params = jax.jit(training.functions_of(graph).init)(jax.random.key(0))['params']
    kernel = params['003_conv']['kernel']
    np.testing.assert_allclose(kernel.std(), (2 / kernel.shape[2]) ** 0.5, rtol=0.05)
    assert (params['001_conv']['scale'] == 1).all()
    assert (params['005_dense']['bias'] == 0).all()
    assert params['005_dense']['kernel'].std() < 0.011


def test_initial_values_are_drawn_without_compiling_for_each_width():
    graph = chain([('conv', 64, 3, 1), ('separable', 128, 3, 1)], (8, 8, 3), 10)
    wide, narrow = graph.fixed((64, 128)), graph.fixed((64, 112))
    axes.initial(jax.random.key(0), wide)
    with compilations() as compiled:
        found = axes.initial(jax.random.key(1), narrow)
    assert not compiled
    expected = jax.jit(lambda key: axes.initial(key, narrow))(jax.random.key(1))
    for own, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert isinstance(own, jax.Array)
        np.testing.assert_allclose(own, other, rtol=1e-6)


def test_widths_beyond_the_variables_and_variables_of_another_network_are_named():
    narrow = axes.slice_variables(random_variables(0), GRAPH, GRAPH.smallest)
    with pytest.raises(ValueError, match=r'variables of shape .* cannot give'):
        axes.slice_variables(narrow, GRAPH, GRAPH.largest)
    with pytest.raises(ValueError, match='expected 4 widths, got 1'):
        axes.slice_variables(narrow, GRAPH, (2,))
    with pytest.raises(ValueError, match=r'the variables have no params/.*: they are of another network'):
        axes.slice_variables(random_variables(0), RESIDUAL, RESIDUAL.largest)


@pytest.mark.parametrize('graph', GRAPHS, ids=range(len(GRAPHS)))
def test_parameters_are_counted_as_the_shapes_of_the_network_alone(graph):
    widths = graph.to_widths(random_choices(0, 6, graph=graph))
    counted = axes.count_parameters(graph, widths)
    for row, count in zip(widths, counted, strict=True):
        leaves = jax.tree.leaves(axes.shapes(graph.fixed(row))['params'])
        assert count == axes.count_parameters(graph, row) == sum(np.prod(leaf.shape) for leaf in leaves)
