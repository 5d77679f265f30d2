"""Convolutions over all channels: 1x1 ones as products of matrices, and the gradients of larger ones written out.

XLA:CPU makes the transposed convolutions of a gradient fast outside of loops only, and gates are loops.
"""

import functools

import jax
import jax.numpy as jnp

from jcw.nets import blocks
from jcw.windows import Pads

PATCH_BYTES = 2**21  # of patches gathered at a time for a larger kernel's gradient


def convolve(
    x: jax.Array, kernel: jax.Array, stride: int, pads: Pads, groups: int = 1, dilation: int = 1
) -> jax.Array:
    """Convolve natively; `groups` of channels, and `dilation` of the images by zeros between their entries."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        pads,
        lhs_dilation=(dilation, dilation),
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        feature_group_count=groups,
    )


@jax.custom_vjp
def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Multiply [... channels] with [channels out_channels]."""
    rows = x.reshape(-1, x.shape[-1])
    return (rows @ kernel).reshape(*x.shape[:-1], kernel.shape[-1])


def _product_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple]:
    return product(x, kernel), (x, kernel)


def _product_backward(residuals: tuple, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Contract matrices, not the four axes: those XLA would transpose, all that is fused with them included."""
    x, kernel = residuals
    rows_x, rows_g = (a.reshape(-1, a.shape[-1]) for a in jax.lax.optimization_barrier((x, g)))
    dx = jax.lax.dot_general(rows_g, kernel, (((1,), (1,)), ((), ())))
    dkernel = jax.lax.dot_general(rows_x, rows_g, (((0,), (0,)), ((), ())))
    return dx.reshape(x.shape), dkernel


product.defvjp(_product_forward, _product_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def spatial(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    """Convolve images [batch height width channels] with a kernel [k k channels out_channels]."""
    return convolve(x, kernel, stride, pads)


def _spatial_forward(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> tuple[jax.Array, tuple]:
    return spatial(x, kernel, stride, pads), (x, kernel)


def _spatial_backward(stride: int, pads: Pads, residuals: tuple, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Convolve the dilated gradient with the flipped kernel; gather patches for the kernel's own.

    XLA makes the first of its transposed convolution as well, but outside of loops alone. Its gradient of the kernel
    takes 1.6 to 7 times as long on large maps even there.
    """
    x, kernel = residuals
    around = [(low, high) for low, high, _ in blocks.dilation(x, g, kernel.shape[0], stride, pads)]
    flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    dx = convolve(g, flipped, 1, (around[0], around[1]), dilation=stride)
    return dx, _patch_products(x, g, kernel, stride, pads)


spatial.defvjp(_spatial_forward, _spatial_backward)


def _patch_products(x: jax.Array, g: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    """Sum `patch^T g` over positions: a block of patches at a time is gathered in cache, and multiplied there."""
    size, channels = kernel.shape[0], kernel.shape[2]
    wide = blocks.accumulator(x)

    def add(total: jax.Array, windows: list[jax.Array], own: jax.Array) -> jax.Array:
        rows, rows_g = (a.reshape(-1, a.shape[-1]) for a in (jnp.concatenate(windows, axis=-1), own))
        return total + jax.lax.dot_general(
            rows, rows_g, (((0,), (0,)), ((), ())), preferred_element_type=wide
        )

    entries = [(i, j) for i in range(size) for j in range(size)]
    block = blocks.block_of(g, PATCH_BYTES, size * size * channels * 4)
    zeros = jnp.zeros((size * size * channels, g.shape[-1]), wide)
    total = blocks.fold_blocks(add, zeros, blocks.pad(x, pads), g, entries, size, stride, block)
    return total.reshape(kernel.shape).astype(kernel.dtype)
