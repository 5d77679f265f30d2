"""Depthwise convolutions as shifted multiply-adds, with gradients of the same kind."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jcw.nets import blocks
from jcw.windows import Pads

KERNEL_SUM_BYTES = 2**17  # of running sums for a kernel: well within a core's second-level cache


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def shifted(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    """Convolve images [batch height width channels] with a kernel [k k channels], a multiply-add for each position."""
    size = kernel.shape[0]
    padded, after = blocks.pad(x, pads), blocks.after_of(x, size, stride, pads)
    taps = blocks.live_taps(x, size, stride, pads)
    return functools.reduce(
        jnp.add, [blocks.window(padded, after, i, j, stride) * kernel[i, j] for i, j in taps]
    )


def _shifted_forward(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> tuple[jax.Array, tuple]:
    return shifted(x, kernel, stride, pads), (x, kernel)


def _shifted_backward(stride: int, pads: Pads, residuals: tuple, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    return _input_gradient(x, g, kernel, stride, pads), _kernel_gradient(x, g, kernel, stride, pads)


shifted.defvjp(_shifted_forward, _shifted_backward)


def _input_gradient(x: jax.Array, g: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    """Convolve the dilated gradient with the flipped kernel, again by shifts."""
    size = kernel.shape[0]
    around = blocks.dilation(x, g, size, stride, pads)
    padded = jax.lax.pad(g, jnp.zeros((), g.dtype), [(0, 0, 0), *around, (0, 0, 0)])
    last, after = size - 1, (x.shape[1], x.shape[2])  # the kernel is flipped
    taps = blocks.live_taps(x, size, stride, pads)
    terms = [blocks.window(padded, after, last - i, last - j, 1) * kernel[i, j] for i, j in taps]
    return functools.reduce(jnp.add, terms)


def _kernel_gradient(x: jax.Array, g: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    """Sum `x * g` over positions for each kernel entry.

    A block of rows, or of examples where they are small, at a time is multiplied and added to running sums of the
    block's shape; only these are reduced. The additions are elementwise, which XLA vectorises over channels, and the
    sums stay in cache; reducing the products themselves would store all of them.
    """
    size, channels = kernel.shape[0], g.shape[-1]
    block = blocks.block_of(g, KERNEL_SUM_BYTES, size * size * channels * 4)
    entries = blocks.live_taps(x, size, stride, pads)

    def add(totals: list[jax.Array], windows: list[jax.Array], own: jax.Array) -> list[jax.Array]:
        return [t + (w * own).astype(t.dtype) for t, w in zip(totals, windows, strict=True)]

    zeros = [jnp.zeros((*block, *g.shape[2:]), blocks.accumulator(x)) for _ in entries]
    totals = blocks.fold_blocks(add, zeros, blocks.pad(x, pads), g, entries, size, stride, block)
    sums = jnp.stack(totals).sum((1, 2, 3))
    places = np.array([i * size + j for i, j in entries])
    every = (
        jnp.zeros((size * size, channels), sums.dtype).at[places].set(sums)
        if len(entries) < size**2
        else sums
    )
    return every.reshape(kernel.shape).astype(kernel.dtype)
