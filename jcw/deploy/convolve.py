"""Convolutions of the deployed network: those of `jcw.nets.kernels`, and on CPUs forms that need no gradient.

There a stem of few input channels is a sum of broadcast products, one for each entry of the kernel, where training
gathers patches for a matrix product; and a depthwise convolution reads a padded copy that is made first, which XLA
would otherwise make part of the loop that reads it.

Results are float32, whatever the inputs: narrow inputs are widened before they are summed, and matrix units accumulate
in float32 anyway.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jcw.nets import kernels
from jcw.nets.kernels import Images, Implementation

MOST_TAPS = 64  # terms of a stem's sum; beyond, patches are gathered


def dense(
    x: Images, kernel: Float[Array, 'k k channels out_channels'], stride: int, implementation: Implementation
) -> Float[Array, 'batch out_height out_width out_channels']:
    """Convolve over all channels."""
    few = kernel.shape[0] * kernel.shape[1] * kernel.shape[2] <= MOST_TAPS
    return _apply(_taps if few else None, kernels.dense, x, kernel, stride, implementation)


def depthwise(
    x: Images, kernel: Float[Array, 'k k channels'], stride: int, implementation: Implementation
) -> Float[Array, 'batch out_height out_width channels']:
    """Convolve each channel with its own kernel."""
    return _apply(_shifted, kernels.depthwise, x, kernel, stride, implementation)


def pointwise(
    x: Images, kernel: Float[Array, 'channels out_channels'], implementation: Implementation
) -> Float[Array, 'batch height width out_channels']:
    """Multiply the channels of every position by one matrix."""

    def trained(x: jax.Array, kernel: jax.Array, stride: int, implementation: Implementation) -> jax.Array:
        return kernels.pointwise(x, kernel, implementation)

    return _apply(_product, trained, x, kernel, 1, implementation)


def _apply(
    on_cpu: Callable | None,
    trained: Callable,
    x: jax.Array,
    kernel: jax.Array,
    stride: int,
    implementation: Implementation,
) -> jax.Array:
    def native(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return trained(x, kernel, stride, 'native').astype(jnp.float32)

    if on_cpu is None:
        return trained(x, kernel, stride, implementation).astype(jnp.float32)
    if implementation == 'native':
        return native(x, kernel)
    if implementation == 'cpu':
        return on_cpu(x, kernel, stride)
    return jax.lax.platform_dependent(x, kernel, cpu=functools.partial(on_cpu, stride=stride), default=native)


def _product(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    rows = jnp.dot(x.reshape(-1, x.shape[-1]), kernel, preferred_element_type=jnp.float32)
    return rows.reshape(*x.shape[:-1], kernel.shape[-1])


def _taps(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    size, channels = kernel.shape[0], x.shape[-1]
    terms = [
        window[..., c, None].astype(jnp.float32) * kernel[i, j, c].astype(jnp.float32)
        for i, j, window in _windows(x, size, stride)
        for c in range(channels)
    ]
    return functools.reduce(jnp.add, terms)


def _shifted(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return functools.reduce(
        jnp.add,
        [
            window.astype(jnp.float32) * kernel[i, j].astype(jnp.float32)
            for i, j, window in _windows(x, kernel.shape[0], stride)
        ],
    )


def _windows(x: jax.Array, size: int, stride: int) -> list[tuple[int, int, jax.Array]]:
    """Return, for each kernel position, the entries of `x` it meets, zeros beyond the edges."""
    padded = jax.lax.optimization_barrier(kernels.pad(x, size, stride))
    return [(i, j, kernels.window(padded, x.shape, i, j, stride)) for i in range(size) for j in range(size)]
