"""Convolutions in the form that suits the platform.

Three operations make up a chain of (depthwise-separable) convolutions. Each exists as a native convolution, which
accelerators and exporters want, and in a form that XLA runs many times faster on CPUs: a depthwise convolution as
shifted multiply-adds, a pointwise one as a matrix product, a dense one as a matrix product over gathered patches.

Arrays are NHWC; padding is 'SAME'.
"""

import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Implementation = Literal['auto', 'cpu', 'native']
"""'cpu': shifts and matrix products; 'native': `conv_general_dilated`; 'auto': by the platform compiled for."""

Images = Float[Array, 'batch height width channels']


def depthwise(
    x: Images, kernel: Float[Array, 'k k channels'], stride: int = 1, implementation: Implementation = 'auto'
) -> Float[Array, 'batch out_height out_width channels']:
    """Convolve each channel with its own kernel."""

    def native(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return _convolve(x, kernel[:, :, None, :], stride, groups=x.shape[-1])

    return _choose(functools.partial(_shifted, stride=stride), native, implementation)(x, kernel)


def pointwise(
    x: Images, kernel: Float[Array, 'channels out_channels'], implementation: Implementation = 'auto'
) -> Float[Array, 'batch height width out_channels']:
    """Multiply the channels of every position by one matrix."""

    def native(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return _convolve(x, kernel[None, None], 1)

    return _choose(_product, native, implementation)(x, kernel)


def dense(
    x: Images,
    kernel: Float[Array, 'k k channels out_channels'],
    stride: int = 1,
    implementation: Implementation = 'auto',
) -> Float[Array, 'batch out_height out_width out_channels']:
    """Convolve over all channels; meant for a stem, whose few input channels make gathered patches cheap."""

    def gathered(x: jax.Array, kernel: jax.Array) -> jax.Array:
        size = kernel.shape[0]
        padded = _pad(x, size, stride)
        patches = jnp.concatenate(
            [_window(padded, x.shape, i, j, stride) for i in range(size) for j in range(size)], axis=-1
        )
        return _product(patches, kernel.reshape(-1, kernel.shape[-1]))

    def native(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return _convolve(x, kernel, stride)

    return _choose(gathered, native, implementation)(x, kernel)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return the zeros 'SAME' puts before and after an axis of `size` entries; the odd one goes after."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def accumulator(x: jax.Array) -> jnp.dtype:
    """Return the type sums over `x` are taken in: its own, at least float32."""
    return jnp.promote_types(x.dtype, jnp.float32)


def _choose(cpu: Callable, native: Callable, implementation: Implementation) -> Callable:
    if implementation == 'auto':
        return lambda *args: jax.lax.platform_dependent(*args, cpu=cpu, default=native)
    if implementation not in ('cpu', 'native'):
        raise ValueError(f"implementation must be 'auto', 'cpu' or 'native', got {implementation!r}")
    return cpu if implementation == 'cpu' else native


def _convolve(x: jax.Array, kernel: jax.Array, stride: int, groups: int = 1) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        'SAME',
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        feature_group_count=groups,
    )


def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jnp.einsum('...c,cd->...d', x, kernel)


def _pad(x: jax.Array, kernel: int, stride: int) -> jax.Array:
    rows, columns = (same_padding(size, kernel, stride) for size in x.shape[1:3])
    return jnp.pad(x, ((0, 0), rows, columns, (0, 0)))


def _window(padded: jax.Array, shape: tuple[int, ...], i: int, j: int, stride: int) -> jax.Array:
    """Return the entries that kernel position (i, j) meets, for an unpadded input of `shape`."""
    height, width = (-(-size // stride) for size in shape[1:3])
    rows = slice(i, i + (height - 1) * stride + 1, stride)
    columns = slice(j, j + (width - 1) * stride + 1, stride)
    return padded[..., rows, columns, :]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _shifted(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    size = kernel.shape[0]
    padded = _pad(x, size, stride)
    terms = [
        _window(padded, x.shape, i, j, stride) * kernel[i, j]
        for i in range(size)
        for j in range(size)
    ]
    return functools.reduce(jnp.add, terms)


def _shifted_forward(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, tuple]:
    return _shifted(x, kernel, stride), (x, kernel)


def _shifted_backward(stride: int, residuals: tuple, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    return _input_gradient(g, kernel, x.shape, stride), _kernel_gradient(x, g, kernel, stride)


def _input_gradient(g: jax.Array, kernel: jax.Array, shape: tuple[int, ...], stride: int) -> jax.Array:
    """Convolve the dilated gradient with the flipped kernel, again by shifts."""
    size = kernel.shape[0]
    pads = []
    for axis in (1, 2):
        before, _ = same_padding(shape[axis], size, stride)
        dilated = (g.shape[axis] - 1) * stride + 1
        low = size - 1 - before
        pads.append((low, shape[axis] + size - 1 - low - dilated, stride - 1))
    padded = jax.lax.pad(g, jnp.zeros((), g.dtype), [(0, 0, 0), *pads, (0, 0, 0)])
    flipped = kernel[::-1, ::-1]
    return sum(_window(padded, shape, i, j, 1) * flipped[i, j] for i in range(size) for j in range(size))


def _kernel_gradient(x: jax.Array, g: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Sum products over positions, one example at a time: all at once, XLA would store every product."""
    size = kernel.shape[0]
    padded = _pad(x, size, stride)

    def add(total: jax.Array, example: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        row, gradient = example
        parts = [
            (_window(row, x.shape, i, j, stride) * gradient).sum((0, 1), dtype=accumulator(x))
            for i in range(size)
            for j in range(size)
        ]
        return total + jnp.stack(parts), None

    zeros = jnp.zeros((size * size, x.shape[-1]), accumulator(x))
    total, _ = jax.lax.scan(add, zeros, (padded, g))
    return total.reshape(kernel.shape).astype(kernel.dtype)


_shifted.defvjp(_shifted_forward, _shifted_backward)
