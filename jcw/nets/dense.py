"""Convolutions over all channels: 1x1 ones as products of matrices, and the gradients of larger ones written out."""

import functools

import jax
import jax.numpy as jnp

from jcw.nets import blocks
from jcw.windows import Pads


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
    """Write both gradients out as convolutions of the kind that XLA:CPU has a library for.

    Of the images: the gradient, dilated by the stride, with the flipped kernel. Of the kernel: the images, examples as
    channels, with the gradient. XLA makes the same of its transposed convolutions, but outside of loops alone.
    """
    x, kernel = residuals
    size = kernel.shape[0]
    around = [(low, high) for low, high, _ in blocks.dilation(x, g, size, stride, pads)]
    flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    dx = convolve(g, flipped, 1, (around[0], around[1]), dilation=stride)
    across, by = jax.lax.optimization_barrier((x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3)))
    dkernel = jax.lax.conv_general_dilated(
        across,
        by,
        (1, 1),
        [(size - 1 - low, size - 1 - high) for low, high in around],
        rhs_dilation=(stride, stride),
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        preferred_element_type=blocks.accumulator(x),
    )
    return dx, dkernel.transpose(1, 2, 0, 3).astype(kernel.dtype)


spatial.defvjp(_spatial_forward, _spatial_backward)
