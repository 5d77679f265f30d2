"""Windows of padded images, and sums over rows or blocks of them that stay in cache: what CPUs are fast at.

Arrays are NHWC.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jcw.windows import Pads, size_after

SUM_BYTES = 2**15  # of one running sum: three fit the first-level cache
SHORT_ROW, FEW_CHANNELS = 16, 32  # one suffices for sums by rows to be faster
LONG_FOLD = 2**23  # bytes read from which a second loop earns its compilation


def accumulator(x: jax.Array) -> jnp.dtype:
    """Return the type sums over `x` are taken in: its own, at least float32."""
    return jnp.promote_types(x.dtype, jnp.float32)


def pad(x: jax.Array, pads: Pads) -> jax.Array:
    """Put zeros around images."""
    return jnp.pad(x, ((0, 0), *pads, (0, 0)))


def after_of(x: jax.Array, kernel: int, stride: int, pads: Pads) -> tuple[int, int]:
    """Return height and width of a convolution's result."""
    return size_after(x.shape[1:3], (kernel, kernel), (stride, stride), pads)


def window(padded: jax.Array, after: tuple[int, int], i: int, j: int, stride: int) -> jax.Array:
    """Return the entries that kernel position (i, j) meets, for a result of height and width `after`."""
    height, width = after
    rows = slice(i, i + (height - 1) * stride + 1, stride)
    columns = slice(j, j + (width - 1) * stride + 1, stride)
    return padded[..., rows, columns, :]


def live_taps(x: jax.Array, size: int, stride: int, pads: Pads) -> list[tuple[int, int]]:
    """Return the kernel's positions less those that meet padding alone, as most do on the smallest maps."""
    after = after_of(x, size, stride, pads)
    rows, columns = (
        [i for i in range(size) if any(0 <= at * stride + i - low < length for at in range(count))]
        for length, count, (low, _) in zip(x.shape[1:3], after, pads, strict=True)
    )
    return [(i, j) for i in rows for j in columns]


def dilation(x: jax.Array, g: jax.Array, size: int, stride: int, pads: Pads) -> list[tuple[int, int, int]]:
    """Return zeros before, after and between rows, and columns, of a gradient, for the flipped kernel to pass over."""
    found = []
    for axis, (before, _) in zip((1, 2), pads, strict=True):
        dilated, low = (g.shape[axis] - 1) * stride + 1, size - 1 - before
        found.append((low, x.shape[axis] + size - 1 - low - dilated, stride - 1))
    return found


def sums_on_cpus(function: Callable, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Sum the results of an elementwise function of images over all positions, in at least float32."""
    width, channels = arrays[0].shape[2:]
    if width <= SHORT_ROW or channels <= FEW_CHANNELS:
        return tuple(row_sums(function(*arrays)))
    return block_sums(function, *arrays)


def row_sums(values: Sequence[jax.Array]) -> jax.Array:
    """Sum several arrays of one shape over all positions, [arrays channels], in at least float32.

    Every row of all of them is summed in one kernel, then the rows. Of a reduction over all positions XLA adds an entry
    at a time on CPUs; on GPUs it has a kernel for each array, all of which compute what the arrays share.
    """
    wide = [value.astype(accumulator(value)) for value in values]
    rows = jax.lax.reduce(wide, [np.zeros((), value.dtype) for value in wide], _add, (2,))
    return jnp.stack(rows).sum((1, 2))


def _add(totals: list[jax.Array], values: list[jax.Array]) -> list[jax.Array]:
    return [t + v for t, v in zip(totals, values, strict=True)]


def block_sums(function: Callable, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Sum the results of an elementwise function of images over all positions, a block of these at a time."""
    channels = arrays[0].shape[-1]
    flat = [array.reshape(-1, channels) for array in arrays]
    rows = block_rows(len(flat[0]), SUM_BYTES, channels * 4)

    def add(index: jax.Array, totals: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        values = function(*(jax.lax.dynamic_slice_in_dim(a, index * rows, rows) for a in flat))
        return tuple(t + v.astype(t.dtype) for t, v in zip(totals, values, strict=True))

    like = jax.eval_shape(function, *(a[:rows] for a in flat))
    zeros = tuple(jnp.zeros(v.shape, jnp.promote_types(v.dtype, jnp.float32)) for v in like)
    totals = running_sums(len(flat[0]) // rows, add, zeros, sum(a.nbytes for a in flat))
    return tuple(t.sum(0) for t in totals)


def fold_blocks(
    add: Callable,
    zeros: Any,
    padded: jax.Array,
    g: jax.Array,
    entries: list[tuple[int, int]],
    size: int,
    stride: int,
    block: tuple[int, int],
) -> Any:
    """Fold `add(totals, windows, own)` over blocks of g; `windows` are what each kernel position meets there."""
    batch, height, width, _ = g.shape
    examples, rows = block
    blocks, span = height // rows, (rows - 1) * stride + size

    def add_block(index: jax.Array, totals: Any) -> Any:
        first, top = index // blocks * examples, index % blocks * rows
        rows_x = jax.lax.dynamic_slice(
            padded, (first, top * stride, 0, 0), (examples, span, *padded.shape[2:])
        )
        rows_g = jax.lax.dynamic_slice(g, (first, top, 0, 0), (examples, rows, *g.shape[2:]))
        return add(totals, [window(rows_x, (rows, width), i, j, stride) for i, j in entries], rows_g)

    return running_sums(batch // examples * blocks, add_block, zeros, len(entries) * g.nbytes)


def running_sums(count: int, add: Callable, zeros: Any, read: int) -> Any:
    """Fold `add(index, totals)` over indices below `count`, reading as many bytes.

    Long folds are two loops, which XLA runs on a core each. Most of a small network's compilation would be these.
    """
    if count < 2 or read < LONG_FOLD:
        return jax.lax.fori_loop(0, count, add, zeros)
    ends = (0, count // 2), (count // 2, count)
    first, second = (jax.lax.fori_loop(*pair, add, zeros) for pair in ends)
    return jax.tree.map(jnp.add, first, second)


def block_of(g: jax.Array, budget: int, position_bytes: int) -> tuple[int, int]:
    """Return how many examples and rows to take at a time: several examples only where they are taken whole."""
    batch, height, width, _ = g.shape
    row = width * position_bytes
    return block_rows(batch, budget, height * row), block_rows(height, budget, row)


def block_rows(rows: int, budget: int, row_bytes: int) -> int:
    """Return how many rows to take at a time: as many as fit the budget, and a divisor of `rows`."""
    limit = max(1, min(rows, budget // row_bytes))
    return next(block for block in range(limit, 0, -1) if rows % block == 0)
