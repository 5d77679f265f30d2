"""Depthwise convolutions as shifted multiply-adds, with gradients of the same kind."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jcw.nets import blocks
from jcw.windows import Pads

KERNEL_SUM_BYTES = 2**17  # of running sums for a kernel: well within a core's second-level cache
SHORT_ROW, FEW_CHANNELS = 8, 64  # one suffices for sums by rows to be faster

Taps = list[tuple[int, int]]
TapSums = Callable[[jax.Array, jax.Array, int, Taps, int, Pads], jax.Array]
"""Sums `x * g` over positions for each tap, [taps channels]: of images, a gradient, the kernel's size and live taps,
stride and pads."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def shifted(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads, tap_sums: TapSums) -> jax.Array:
    """Convolve images [batch height width channels] with a kernel [k k channels], a multiply-add for each position.

    The gradient for the kernel is summed by `tap_sums`: `sums_on_cpus`, or `sums_by_rows` on GPUs.
    """
    size = kernel.shape[0]
    padded, after = blocks.pad(x, pads), blocks.after_of(x, size, stride, pads)
    taps = blocks.live_taps(x, size, stride, pads)
    return _weighted([blocks.window(padded, after, i, j, stride) for i, j in taps], kernel, taps)


def _weighted(windows: list[jax.Array], kernel: jax.Array, taps: Taps) -> jax.Array:
    """Sum the windows, each times its tap, in at least float32."""
    wide = jnp.promote_types(windows[0].dtype, blocks.accumulator(kernel))
    terms = [w.astype(wide) * kernel[i, j].astype(wide) for w, (i, j) in zip(windows, taps, strict=True)]
    return functools.reduce(jnp.add, terms).astype(windows[0].dtype)


def _forward(
    x: jax.Array, kernel: jax.Array, stride: int, pads: Pads, tap_sums: TapSums
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return shifted(x, kernel, stride, pads, tap_sums), (x, kernel)


def gradients(
    stride: int, pads: Pads, tap_sums: TapSums, kept: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return the gradients for images and kernel, which are `kept`, from that for the result."""
    x, kernel = kept
    size = kernel.shape[0]
    taps = blocks.live_taps(x, size, stride, pads)
    sums = tap_sums(x, g, size, taps, stride, pads)
    if len(taps) < size**2:
        places = np.array([i * size + j for i, j in taps])
        sums = jnp.zeros((size**2, g.shape[-1]), sums.dtype).at[places].set(sums)
    return _input_gradient(x, g, kernel, stride, pads), sums.reshape(kernel.shape).astype(kernel.dtype)


shifted.defvjp(_forward, gradients)


def _input_gradient(x: jax.Array, g: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    """Convolve the dilated gradient with the flipped kernel, again by shifts."""
    size = kernel.shape[0]
    around = blocks.dilation(x, g, size, stride, pads)
    padded = jax.lax.pad(g, jnp.zeros((), g.dtype), [(0, 0, 0), *around, (0, 0, 0)])
    last, after = size - 1, (x.shape[1], x.shape[2])  # the kernel is flipped
    taps = blocks.live_taps(x, size, stride, pads)
    return _weighted([blocks.window(padded, after, last - i, last - j, 1) for i, j in taps], kernel, taps)


def sums_on_cpus(x: jax.Array, g: jax.Array, size: int, taps: Taps, stride: int, pads: Pads) -> jax.Array:
    """Sum by rows where these are short or channels are few, which is faster then, else by blocks."""
    by_rows = g.shape[2] <= SHORT_ROW or g.shape[3] <= FEW_CHANNELS
    return (sums_by_rows if by_rows else sums_by_blocks)(x, g, size, taps, stride, pads)


def sums_by_blocks(x: jax.Array, g: jax.Array, size: int, taps: Taps, stride: int, pads: Pads) -> jax.Array:
    """Sum a block of rows, or of examples where they are small, at a time.

    Each is multiplied and added to running sums of the block's shape; only these are reduced. The additions are
    elementwise, which XLA vectorises over channels on CPUs, and the sums stay in cache; reducing the products
    themselves would store all of them.
    """
    block = blocks.block_of(g, KERNEL_SUM_BYTES, size * size * g.shape[-1] * 4)

    def add(totals: list[jax.Array], windows: list[jax.Array], own: jax.Array) -> list[jax.Array]:
        return [t + w.astype(t.dtype) * own.astype(t.dtype) for t, w in zip(totals, windows, strict=True)]

    zeros = [jnp.zeros((*block, *g.shape[2:]), blocks.accumulator(x)) for _ in taps]
    totals = blocks.fold_blocks(add, zeros, blocks.pad(x, pads), g, taps, size, stride, block)
    return jnp.stack(totals).sum((1, 2, 3))


def sums_by_rows(x: jax.Array, g: jax.Array, size: int, taps: Taps, stride: int, pads: Pads) -> jax.Array:
    """Sum every row for all taps at once, then the rows."""
    padded, after = blocks.pad(x, pads), (g.shape[1], g.shape[2])
    own = g.astype(blocks.accumulator(x))
    return blocks.row_sums(
        [blocks.window(padded, after, i, j, stride).astype(own.dtype) * own for i, j in taps]
    )
