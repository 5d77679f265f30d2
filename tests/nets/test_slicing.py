"""Slicing keeps the first channels, and only those."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jcw.nets import mobilenet
from jcw.nets.slicing import add_slices, slice_variables
from tests.tiny_space import SPACE, random_choices, random_variables


def test_a_slice_has_the_shapes_of_the_narrow_network():
    widths = SPACE.to_widths(random_choices(0))
    narrow = jax.eval_shape(mobilenet.network(SPACE, widths).init, jax.random.key(0))
    sliced = slice_variables(random_variables(0), SPACE, widths)
    assert jax.tree.map(jnp.shape, sliced) == jax.tree.map(lambda leaf: leaf.shape, narrow)


def test_slicing_twice_is_slicing_once():
    once = slice_variables(random_variables(0), SPACE, SPACE.smallest)
    middle = [int(a + b) // 2 for a, b in zip(SPACE.smallest, SPACE.largest, strict=True)]
    twice = slice_variables(slice_variables(random_variables(0), SPACE, middle), SPACE, SPACE.smallest)
    assert jax.tree.all(jax.tree.map(np.array_equal, once, twice))


def test_the_largest_slice_is_everything():
    everything = random_variables(0)
    assert jax.tree.all(
        jax.tree.map(np.array_equal, everything, slice_variables(everything, SPACE, SPACE.largest))
    )


def test_gradients_flow_into_the_slice_alone():
    def total(params):
        sliced = slice_variables({'params': params}, SPACE, SPACE.smallest)
        return sum(leaf.sum() for leaf in jax.tree.leaves(sliced))

    gradients = jax.jit(jax.grad(total))(random_variables(0)['params'])
    gradients = jax.tree.map(np.asarray, gradients)
    assert gradients['layer_01']['pointwise'].sum() == SPACE.smallest[0] * SPACE.smallest[1]


def test_a_slices_gradient_added_in_its_place_is_the_gradient_through_slicing():
    params = random_variables(0)['params']

    def of_slice(thin):
        return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(thin))

    def of_both(params):
        thin = slice_variables({'params': params}, SPACE, SPACE.smallest)['params']
        return sum((leaf**2).sum() for leaf in jax.tree.leaves(params)) + of_slice(thin)

    thin = slice_variables({'params': params}, SPACE, SPACE.smallest)['params']
    found = jax.jit(add_slices)(jax.tree.map(lambda leaf: 2 * leaf, params), jax.grad(of_slice)(thin))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(jax.grad(of_both)(params)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_widths_beyond_the_variables_are_named():
    narrow = slice_variables(random_variables(0), SPACE, SPACE.smallest)
    with pytest.raises(ValueError, match=r'layer_00/.* has .* channels, too few'):
        slice_variables(narrow, SPACE, SPACE.largest)
    with pytest.raises(ValueError, match='expected 4 widths, got 1'):
        slice_variables(narrow, SPACE, (2,))
