"""The forms for CPUs and GPUs against native convolutions, values and gradients."""

import functools
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jcw.nets import blocks, kernels, shifts
from jcw.windows import pads_of, same_padding

SHAPES = [
    # batch, height, width, channels, kernel, stride
    (3, 8, 8, 4, 3, 1),
    (2, 7, 5, 3, 3, 2),
    (3, 8, 6, 2, 3, 2),
    (1, 1, 1, 2, 3, 1),
    (2, 9, 4, 3, 5, 3),
    (2, 2, 3, 2, 3, 1),
    (5, 6, 6, 1, 1, 1),
    (2, 2, 1, 3, 5, 2),  # taps that meet padding alone
    (2, 1, 2, 3, 7, 1),
    (24, 4, 4, 64, 3, 1),  # sums over blocks of examples
    (2, 24, 20, 64, 3, 2),  # sums over blocks of rows
    (27, 16, 16, 40, 3, 1),  # sums over blocks of examples, in two loops
    (1, 128, 126, 40, 3, 2),  # sums over blocks of rows
    (2, 10, 9, 65, 3, 1),  # the kernel's sums by blocks on CPUs, as others not
]

PADDED = [
    # batch, height, width, channels, kernel, stride, pads
    (3, 8, 8, 4, 3, 2, ((1, 1), (1, 1))),
    (2, 7, 6, 3, 3, 1, ((0, 0), (0, 0))),
    (2, 7, 6, 3, 2, 2, ((1, 0), (0, 1))),
    (2, 6, 5, 3, 4, 3, ((2, 1), (0, 2))),
    (2, 5, 5, 3, 1, 1, ((1, 0), (0, 2))),
    (2, 3, 4, 3, 2, 1, ((3, 2), (2, 0))),  # windows that meet padding alone
    (3, 9, 8, 2, 3, 3, ((0, 0), (0, 0))),  # entries that no window meets
    (1, 132, 130, 40, 3, 2, ((1, 1), (1, 1))),  # sums over blocks of rows
    (24, 6, 6, 64, 3, 1, ((0, 0), (0, 0))),  # sums over blocks of examples
]


def values_and_gradients(function, x, kernel):
    def both(x, kernel):
        y, pull = jax.vjp(function, x, kernel)
        cotangent = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
        return y, *pull(cotangent)

    return jax.jit(both)(x, kernel)


def compare(kernel_function, x_shape, kernel_shape, *args, forms=('cpu',)):
    with jax.enable_x64(True):
        x, kernel = (np.random.default_rng(0).standard_normal(shape) for shape in (x_shape, kernel_shape))
        stride, *pads = args
        *ours, native = (
            values_and_gradients(
                lambda x, k, form=form: kernel_function(x, k, stride, form, *pads), x, kernel
            )
            for form in (*forms, 'native')
        )
        for found in ours:
            for a, b in zip(found, native, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(('batch', 'height', 'width', 'channels', 'size', 'stride'), SHAPES)
def test_depthwise_by_shifts_is_the_native_convolution(batch, height, width, channels, size, stride):
    shapes = (batch, height, width, channels), (size, size, channels)
    compare(kernels.depthwise, *shapes, stride, forms=('cpu', 'accelerator'))


SUMS = {'blocks': shifts.sums_by_blocks, 'rows': shifts.sums_by_rows}


def summed(x, kernel, stride, form, pads=None):
    """Convolve natively, or by shifts whose kernel gradient is summed by blocks or by rows."""
    if form == 'native':
        return kernels.depthwise(x, kernel, stride, form, pads)
    return shifts.shifted(x, kernel, stride, pads_of(x.shape[1:3], len(kernel), stride, pads), SUMS[form])


@pytest.mark.parametrize(('batch', 'height', 'width', 'channels', 'size', 'stride'), SHAPES)
def test_depthwise_by_either_sum_is_the_native_convolution(batch, height, width, channels, size, stride):
    compare(summed, (batch, height, width, channels), (size, size, channels), stride, forms=SUMS)


@pytest.mark.parametrize(('batch', 'height', 'width', 'channels', 'size', 'stride', 'pads'), PADDED)
def test_depthwise_by_either_sum_is_the_native_convolution_with_any_padding(
    batch, height, width, channels, size, stride, pads
):
    compare(summed, (batch, height, width, channels), (size, size, channels), stride, pads, forms=SUMS)


@pytest.mark.parametrize('sums', [blocks.sums_on_cpus, blocks.block_sums, kernels.position_sums])
@pytest.mark.parametrize(
    ('shape', 'by_rows'),
    [((3, 5, 7, 9), True), ((2, 20, 17, 32), True), ((2, 20, 17, 33), False), ((16, 64, 64, 40), False)],
)
@pytest.mark.parametrize('dtype', [np.float64, jnp.bfloat16])
def test_sums_over_positions_are_the_plain_ones(sums, shape, by_rows, dtype, monkeypatch):
    with jax.enable_x64(True):
        x, y = (jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype) for seed in range(2))
        taken = []
        rows = blocks.row_sums
        monkeypatch.setattr(blocks, 'row_sums', lambda values: (taken.append(1), rows(values))[1])
        found = jax.jit(lambda x, y: sums(lambda x, y: (-x, jnp.abs(y)), x, y))(x, y)
        assert bool(taken) == (by_rows and sums != blocks.block_sums)
        for own, values in zip(found, (-x, jnp.abs(y)), strict=True):
            assert own.dtype == jnp.promote_types(dtype, np.float32)
            expected = np.asarray(values, np.float64).sum((0, 1, 2))
            scale = np.abs(np.asarray(values, np.float64)).sum((0, 1, 2)).max()
            tolerance = 1e-12 if dtype == np.float64 else 1e-5
            np.testing.assert_allclose(own, expected, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize(('batch', 'height', 'width', 'channels', 'size', 'stride'), SHAPES)
def test_a_convolution_on_cpus_is_the_native_convolution(batch, height, width, channels, size, stride):
    compare(kernels.conv, (batch, height, width, channels), (size, size, channels, 6), stride)


@pytest.mark.parametrize(('batch', 'height', 'width', 'channels', 'size', 'stride', 'pads'), PADDED)
def test_the_forms_for_the_cpu_are_the_native_convolutions_with_any_padding(
    batch, height, width, channels, size, stride, pads
):
    compare(kernels.depthwise, (batch, height, width, channels), (size, size, channels), stride, pads)
    compare(kernels.conv, (batch, height, width, channels), (size, size, channels, 6), stride, pads)


@pytest.mark.parametrize(('batch', 'height', 'width', 'channels', 'size', 'stride'), SHAPES[:8])
def test_a_max_pool_takes_the_greatest_of_every_window(batch, height, width, channels, size, stride):
    x = np.random.default_rng(0).standard_normal((batch, height, width, channels)).astype(np.float32)
    pads = [same_padding(n, size, stride) for n in (height, width)]
    padded = np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (1, 2))
    expected = windows[:, ::stride, ::stride].max((-1, -2))
    np.testing.assert_array_equal(kernels.max_pool(jnp.asarray(x), size, stride), expected)


@pytest.mark.parametrize('stride', [1, 2])
def test_convolutions_in_gradients_are_of_the_kind_that_is_fast_in_loops(stride):
    """XLA:CPU runs others an entry at a time there: with channels elsewhere than last."""
    x, kernel = jnp.ones((2, 8, 8, 16)), jnp.ones((3, 3, 16, 16))

    def loss(*args):
        return kernels.conv(*args, stride, 'cpu').sum()

    text = str(jax.make_jaxpr(jax.value_and_grad(loss, argnums=(0, 1)))(x, kernel))
    plain = str(jax.make_jaxpr(lambda x, kernel: kernels.conv(x, kernel, stride, 'native'))(x, kernel))
    (spec,) = re.findall('dimension_numbers=Conv.*', plain)
    assert re.findall('dimension_numbers=Conv.*', text) == 3 * [spec]  # forward, and both gradients


def test_the_platform_decides_where_nothing_is_said():
    x, kernel = jnp.ones((2, 4, 4, 3)), jnp.ones((3, 3, 3))
    automatic, chosen = (
        jax.jit(lambda x, k, form=form: kernels.depthwise(x, k, 1, form)).lower(x, kernel).as_text()
        for form in ('auto', 'native')
    )
    assert 'convolution' in chosen
    assert 'convolution' not in automatic


@pytest.mark.parametrize(('platform', 'dense', 'depthwise'), [('cuda', 1, 0), ('tpu', 1, 1)])
def test_on_accelerators_dense_convolutions_are_native_and_depthwise_ones_on_tpus(platform, dense, depthwise):
    x, kernel, each = jnp.ones((2, 4, 4, 3)), jnp.ones((3, 3, 3, 5)), jnp.ones((3, 3, 3))
    for function, weights, expected in ((kernels.conv, kernel, dense), (kernels.depthwise, each, depthwise)):
        exported = jax.export.export(jax.jit(function), platforms=(platform,))(x, weights)
        assert exported.mlir_module().count('stablehlo.convolution') == expected


@pytest.mark.parametrize(
    'depthwise',
    [
        functools.partial(kernels.depthwise, implementation='cpu'),
        *(functools.partial(summed, form=form) for form in SUMS),
    ],
    ids=['cpu', *SUMS],
)
def test_kernels_accumulate_bfloat16_in_float32(depthwise):
    """A sum of 4096 ones is lost in bfloat16, whose integers end at 256."""
    x = jnp.ones((1, 64, 64, 2), jnp.bfloat16)
    kernel = jnp.ones((1, 1, 2), jnp.bfloat16)
    gradient = jax.grad(lambda k: depthwise(x, k, 1).astype(jnp.float32).sum())(kernel)
    np.testing.assert_array_equal(np.asarray(gradient, np.float32), 4096.0)


def test_shifts_are_added_in_float32():
    """A sum of 256 and eight ones is 256 in bfloat16, one after another."""
    x, kernel = jnp.ones((1, 3, 3, 2), jnp.bfloat16), jnp.ones((3, 3, 2), jnp.bfloat16).at[0, 0].set(256)
    y, pull = jax.vjp(lambda x: shifts.shifted(x, kernel, 1, ((1, 1), (1, 1)), shifts.sums_by_rows), x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(y[0, 1, 1], np.float32), 264.0)
    np.testing.assert_array_equal(np.asarray(pull(y * 0 + 1)[0][0, 1, 1], np.float32), 264.0)


def test_an_unknown_implementation_is_named():
    unchecked = inspect.unwrap(kernels.conv)  # the tests' own type checks would speak first
    with pytest.raises(ValueError, match="'auto', 'cpu', 'accelerator' or 'native', got 'metal'"):
        unchecked(jnp.ones((1, 2, 2, 3)), jnp.ones((1, 1, 3, 4)), 1, 'metal')
