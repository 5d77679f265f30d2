"""Programs of training: compiled once for each shape, by options that this compiler knows."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jcw import compilation
from jcw.nets import kernels


def test_a_program_is_compiled_once_for_each_shape_type_and_place():
    traced = chex.assert_max_traces(lambda x, more: x + more['one'], n=3)
    program = compilation.ToTrain(jax.jit(traced))
    arrays = [np.ones(shape, dtype) for shape, dtype in [((2,), 'f4'), ((3,), 'f4'), ((2,), 'i4')]]
    elsewhere = jax.device_put(arrays[0], jax.devices()[-1])
    for x in [*arrays, elsewhere] * 2:
        y = program(x, {'one': x})
        np.testing.assert_array_equal(y, 2 * np.asarray(x))
        assert x is not elsewhere or y.devices() == elsewhere.devices()


def test_dense_convolutions_of_training_are_not_the_librarys_that_is_slower():
    x, kernel = jnp.ones((8, 16, 16, 24)), jnp.ones((3, 3, 24, 24))
    lowered = jax.jit(lambda x, kernel: kernels.conv(x, kernel, 1, 'native')).lower(x, kernel)
    assert '__ynn_fusion' in lowered.compile().as_text(), 'it is no longer the default: the option may go'
    chosen = lowered.compile(compiler_options=dict(compilation.for_training()))
    assert '__ynn_fusion' not in chosen.as_text()
