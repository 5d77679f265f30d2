"""Depthwise convolutions as shifted multiply-adds, with gradients of the same kind."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jcw.nets import blocks
from jcw.windows import Pads

KERNEL_SUM_BYTES = 2**17  # of running sums for a kernel: well within a core's second-level cache

Sums = Callable[..., list[jax.Array]]
"""Sums `x * g` over positions: of images, a gradient, a kernel's size and its live taps, stride and pads."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def shifted(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads, sums: Sums) -> jax.Array:
    """Convolve images [batch height width channels] with a kernel [k k channels], a multiply-add for each position.

    The gradient for the kernel is summed by `sums`, `block_sums` on CPUs and `row_sums` on GPUs.
    """
    size = kernel.shape[0]
    padded, after = blocks.pad(x, pads), blocks.after_of(x, size, stride, pads)
    taps = blocks.live_taps(x, size, stride, pads)
    return functools.reduce(
        jnp.add, [blocks.window(padded, after, i, j, stride) * kernel[i, j] for i, j in taps]
    )


def _shifted_forward(
    x: jax.Array, kernel: jax.Array, stride: int, pads: Pads, sums: Sums
) -> tuple[jax.Array, tuple]:
    return shifted(x, kernel, stride, pads, sums), (x, kernel)


def _shifted_backward(
    stride: int, pads: Pads, sums: Sums, residuals: tuple, g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    size = kernel.shape[0]
    taps = blocks.live_taps(x, size, stride, pads)
    found = jnp.stack(sums(x, g, size, taps, stride, pads))
    places = np.array([i * size + j for i, j in taps])
    if len(taps) < size**2:
        found = jnp.zeros((size * size, g.shape[-1]), found.dtype).at[places].set(found)
    return _input_gradient(x, g, kernel, stride, pads), found.reshape(kernel.shape).astype(kernel.dtype)


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


def block_sums(
    x: jax.Array, g: jax.Array, size: int, taps: list[tuple[int, int]], stride: int, pads: Pads
) -> list[jax.Array]:
    """Sum a block of rows, or of examples where they are small, at a time.

    Each is multiplied and added to running sums of the block's shape; only these are reduced. The additions are
    elementwise, which XLA vectorises over channels on CPUs, and the sums stay in cache; reducing the products
    themselves would store all of them.
    """
    block = blocks.block_of(g, KERNEL_SUM_BYTES, size * size * g.shape[-1] * 4)

    def add(totals: list[jax.Array], windows: list[jax.Array], own: jax.Array) -> list[jax.Array]:
        return [t + (w * own).astype(t.dtype) for t, w in zip(totals, windows, strict=True)]

    zeros = [jnp.zeros((*block, *g.shape[2:]), blocks.accumulator(x)) for _ in taps]
    totals = blocks.fold_blocks(add, zeros, blocks.pad(x, pads), g, taps, size, stride, block)
    return list(jnp.stack(totals).sum((1, 2, 3)))


def row_sums(
    x: jax.Array, g: jax.Array, size: int, taps: list[tuple[int, int]], stride: int, pads: Pads
) -> list[jax.Array]:
    """Sum every row for all taps at once, then the rows: on GPUs one kernel that stores no product.

    Left to itself XLA has a kernel for each tap, all of which read `x` and `g`.
    """
    padded, after = blocks.pad(x, pads), (g.shape[1], g.shape[2])
    wide = blocks.accumulator(x)
    own = g.astype(wide)
    products = [blocks.window(padded, after, i, j, stride).astype(wide) * own for i, j in taps]

    def add(totals: list[jax.Array], values: list[jax.Array]) -> list[jax.Array]:
        return [t + v for t, v in zip(totals, values, strict=True)]

    rows = jax.lax.reduce(products, [np.zeros((), wide)] * len(taps), add, (2,))
    return [row.sum((0, 1)) for row in rows]
