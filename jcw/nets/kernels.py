"""Convolutions in the form that suits the platform.

Each exists as a native convolution, which accelerators and exporters want, and in a form that XLA runs many times
faster on CPUs: a depthwise convolution as shifted multiply-adds, a 1x1 one as a matrix product, a larger one of few
input channels, a stem, as a matrix product over gathered patches. Of other larger ones only the gradients are others
there: XLA's own take up to two hundred times as long inside loops, which gates are.

Arrays are NHWC; padding is 'SAME' unless pads are given.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jcw.windows import Pads, pads_of, size_after

Implementation = Literal['auto', 'cpu', 'native']
"""'cpu': shifts and matrix products; 'native': `conv_general_dilated`; 'auto': by the platform compiled for."""

Images = Float[Array, 'batch height width channels']


SUM_BYTES = 2**15  # of one running sum: three fit the first-level cache
KERNEL_SUM_BYTES = 2**17  # of running sums for a depthwise kernel: well within a core's second-level cache
PATCH_BYTES = 2**21  # of patches gathered at a time for a larger kernel's gradient
MOST_GATHERED = 64  # channels of a gathered patch, as of a stem; beyond, XLA's own convolution is faster
LONG_FOLD = 2**23  # bytes read from which a second loop earns its compilation
UNPADDED: Pads = ((0, 0), (0, 0))


def depthwise(
    x: Images,
    kernel: Float[Array, 'k k channels'],
    stride: int = 1,
    implementation: Implementation = 'auto',
    pads: Pads | None = None,
) -> Float[Array, 'batch out_height out_width channels']:
    """Convolve each channel with its own kernel."""
    pads = pads_of(x.shape[1:3], kernel.shape[0], stride, pads)

    def native(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return _convolve(x, kernel[:, :, None, :], stride, pads, groups=x.shape[-1])

    return _choose(functools.partial(_shifted, stride=stride, pads=pads), native, implementation)(x, kernel)


def conv(
    x: Images,
    kernel: Float[Array, 'k k channels out_channels'],
    stride: int = 1,
    implementation: Implementation = 'auto',
    pads: Pads | None = None,
) -> Float[Array, 'batch out_height out_width out_channels']:
    """Convolve over all channels; of a 1x1 kernel that is a product of every position's channels with one matrix."""
    size = kernel.shape[0]
    pads = pads_of(x.shape[1:3], size, stride, pads)

    def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return _product(x[:, ::stride, ::stride], kernel[0, 0])

    def gathered(x: jax.Array, kernel: jax.Array) -> jax.Array:
        padded, after = pad(x, pads), after_of(x, size, stride, pads)
        patches = jnp.concatenate(
            [window(padded, after, i, j, stride) for i in range(size) for j in range(size)], axis=-1
        )
        return _product(patches, kernel.reshape(-1, kernel.shape[-1]))

    def native(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return _convolve(x, kernel, stride, pads)

    if size == 1 and pads == UNPADDED:
        return _choose(product, native, implementation)(x, kernel)
    few = size * size * x.shape[-1] <= MOST_GATHERED
    on_cpu = gathered if few else functools.partial(_spatial, stride=stride, pads=pads)
    return _choose(on_cpu, native, implementation)(x, kernel)


def max_pool(
    x: Images, size: int, stride: int, pads: Pads | None = None
) -> Float[Array, 'batch out_height out_width channels']:
    """Return the maxima of windows."""
    around = ((0, 0), *pads_of(x.shape[1:3], size, stride, pads), (0, 0))
    window, strides = (1, size, size, 1), (1, stride, stride, 1)
    return jax.lax.reduce_window(x, np.array(-np.inf, x.dtype), jax.lax.max, window, strides, around)


def accumulator(x: jax.Array) -> jnp.dtype:
    """Return the type sums over `x` are taken in: its own, at least float32."""
    return jnp.promote_types(x.dtype, jnp.float32)


def position_sums(
    function: Callable[..., tuple[jax.Array, ...]], *arrays: Images
) -> tuple[Float[Array, ' channels'], ...]:
    """Sum the results of an elementwise function over batch, height and width, in at least float32.

    On CPUs a block of positions at a time is added to running sums in cache: XLA reduces a fused product an entry at a
    time, several times slower.
    """

    def plain(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(v.sum((0, 1, 2), dtype=accumulator(v)) for v in function(*arrays))

    return jax.lax.platform_dependent(*arrays, cpu=functools.partial(_block_sums, function), default=plain)


def _block_sums(function: Callable, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    channels = arrays[0].shape[-1]
    flat = [array.reshape(-1, channels) for array in arrays]
    rows = _block_rows(len(flat[0]), SUM_BYTES, channels * 4)

    def add(index: jax.Array, totals: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        values = function(*(jax.lax.dynamic_slice_in_dim(a, index * rows, rows) for a in flat))
        return tuple(t + v.astype(t.dtype) for t, v in zip(totals, values, strict=True))

    like = jax.eval_shape(function, *(a[:rows] for a in flat))
    zeros = tuple(jnp.zeros(v.shape, jnp.promote_types(v.dtype, jnp.float32)) for v in like)
    totals = _running_sums(len(flat[0]) // rows, add, zeros, sum(a.nbytes for a in flat))
    return tuple(t.sum(0) for t in totals)


def _running_sums(count: int, add: Callable, zeros: Any, read: int) -> Any:
    """Fold `add(index, totals)` over indices below `count`, reading as many bytes.

    Long folds are two loops, which XLA runs on a core each. Most of a small network's compilation would be these.
    """
    if count < 2 or read < LONG_FOLD:
        return jax.lax.fori_loop(0, count, add, zeros)
    ends = (0, count // 2), (count // 2, count)
    first, second = (jax.lax.fori_loop(*pair, add, zeros) for pair in ends)
    return jax.tree.map(jnp.add, first, second)


def _choose(cpu: Callable, native: Callable, implementation: str) -> Callable:
    if implementation == 'auto':
        return lambda *args: jax.lax.platform_dependent(*args, cpu=cpu, default=native)
    if implementation not in ('cpu', 'native'):
        raise ValueError(f"implementation must be 'auto', 'cpu' or 'native', got {implementation!r}")
    return cpu if implementation == 'cpu' else native


def _convolve(
    x: jax.Array, kernel: jax.Array, stride: int, pads: Pads, groups: int = 1, dilation: int = 1
) -> jax.Array:
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
def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    rows = x.reshape(-1, x.shape[-1])
    return (rows @ kernel).reshape(*x.shape[:-1], kernel.shape[-1])


def _product_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple]:
    return _product(x, kernel), (x, kernel)


def _product_backward(residuals: tuple, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Contract matrices, not the four axes: those XLA would transpose, all that is fused with them included."""
    x, kernel = residuals
    rows_x, rows_g = (a.reshape(-1, a.shape[-1]) for a in jax.lax.optimization_barrier((x, g)))
    dx = jax.lax.dot_general(rows_g, kernel, (((1,), (1,)), ((), ())))
    dkernel = jax.lax.dot_general(rows_x, rows_g, (((0,), (0,)), ((), ())))
    return dx.reshape(x.shape), dkernel


_product.defvjp(_product_forward, _product_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _spatial(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    return _convolve(x, kernel, stride, pads)


def _spatial_forward(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> tuple[jax.Array, tuple]:
    return _spatial(x, kernel, stride, pads), (x, kernel)


def _spatial_backward(stride: int, pads: Pads, residuals: tuple, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Convolve the dilated gradient with the flipped kernel; gather patches for the kernel's own.

    XLA makes the first of its transposed convolution as well, but outside of loops alone. Its gradient of the kernel
    takes 1.6 to 7 times as long on large maps even there.
    """
    x, kernel = residuals
    around = [(low, high) for low, high, _ in _dilation(x, g, kernel.shape[0], stride, pads)]
    flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    dx = _convolve(g, flipped, 1, (around[0], around[1]), dilation=stride)
    return dx, _patch_products(x, g, kernel, stride, pads)


_spatial.defvjp(_spatial_forward, _spatial_backward)


def _patch_products(x: jax.Array, g: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    """Sum `patch^T g` over positions: a block of patches at a time is gathered in cache, and multiplied there."""
    size, channels = kernel.shape[0], kernel.shape[2]
    wide = accumulator(x)

    def add(total: jax.Array, windows: list[jax.Array], own: jax.Array) -> jax.Array:
        rows, rows_g = (a.reshape(-1, a.shape[-1]) for a in (jnp.concatenate(windows, axis=-1), own))
        return total + jax.lax.dot_general(
            rows, rows_g, (((0,), (0,)), ((), ())), preferred_element_type=wide
        )

    entries = [(i, j) for i in range(size) for j in range(size)]
    block = _block_of(g, PATCH_BYTES, size * size * channels * 4)
    zeros = jnp.zeros((size * size * channels, g.shape[-1]), wide)
    total = _fold_blocks(add, zeros, pad(x, pads), g, entries, size, stride, block)
    return total.reshape(kernel.shape).astype(kernel.dtype)


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


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _shifted(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    size = kernel.shape[0]
    padded, after = pad(x, pads), after_of(x, size, stride, pads)
    taps = live_taps(x, size, stride, pads)
    return functools.reduce(jnp.add, [window(padded, after, i, j, stride) * kernel[i, j] for i, j in taps])


def live_taps(x: jax.Array, size: int, stride: int, pads: Pads) -> list[tuple[int, int]]:
    """Return the kernel's positions less those that meet padding alone, as most do on the smallest maps."""
    after = after_of(x, size, stride, pads)
    rows, columns = (
        [i for i in range(size) if any(0 <= at * stride + i - low < length for at in range(count))]
        for length, count, (low, _) in zip(x.shape[1:3], after, pads, strict=True)
    )
    return [(i, j) for i in rows for j in columns]


def _shifted_forward(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> tuple[jax.Array, tuple]:
    return _shifted(x, kernel, stride, pads), (x, kernel)


def _shifted_backward(stride: int, pads: Pads, residuals: tuple, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    return _input_gradient(x, g, kernel, stride, pads), _kernel_gradient(x, g, kernel, stride, pads)


def _input_gradient(x: jax.Array, g: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    """Convolve the dilated gradient with the flipped kernel, again by shifts."""
    size = kernel.shape[0]
    around = _dilation(x, g, size, stride, pads)
    padded = jax.lax.pad(g, jnp.zeros((), g.dtype), [(0, 0, 0), *around, (0, 0, 0)])
    last, after = size - 1, (x.shape[1], x.shape[2])  # the kernel is flipped
    taps = live_taps(x, size, stride, pads)
    terms = [window(padded, after, last - i, last - j, 1) * kernel[i, j] for i, j in taps]
    return functools.reduce(jnp.add, terms)


def _dilation(x: jax.Array, g: jax.Array, size: int, stride: int, pads: Pads) -> list[tuple[int, int, int]]:
    """Return zeros before, after and between rows, and columns, of a gradient, for the flipped kernel to pass over."""
    found = []
    for axis, (before, _) in zip((1, 2), pads, strict=True):
        dilated, low = (g.shape[axis] - 1) * stride + 1, size - 1 - before
        found.append((low, x.shape[axis] + size - 1 - low - dilated, stride - 1))
    return found


def _kernel_gradient(x: jax.Array, g: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    """Sum `x * g` over positions for each kernel entry.

    A block of rows, or of examples where they are small, at a time is multiplied and added to running sums of the
    block's shape; only these are reduced. The additions are elementwise, which XLA vectorises over channels, and the
    sums stay in cache; reducing the products themselves would store all of them.
    """
    size, channels = kernel.shape[0], g.shape[-1]
    block = _block_of(g, KERNEL_SUM_BYTES, size * size * channels * 4)
    entries = live_taps(x, size, stride, pads)

    def add(totals: list[jax.Array], windows: list[jax.Array], own: jax.Array) -> list[jax.Array]:
        return [t + (w * own).astype(t.dtype) for t, w in zip(totals, windows, strict=True)]

    zeros = [jnp.zeros((*block, *g.shape[2:]), accumulator(x)) for _ in entries]
    totals = _fold_blocks(add, zeros, pad(x, pads), g, entries, size, stride, block)
    sums = jnp.stack(totals).sum((1, 2, 3))
    places = np.array([i * size + j for i, j in entries])
    every = (
        jnp.zeros((size * size, channels), sums.dtype).at[places].set(sums)
        if len(entries) < size**2
        else sums
    )
    return every.reshape(kernel.shape).astype(kernel.dtype)


def _fold_blocks(
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

    return _running_sums(batch // examples * blocks, add_block, zeros, len(entries) * g.nbytes)


def _block_of(g: jax.Array, budget: int, position_bytes: int) -> tuple[int, int]:
    """Return how many examples and rows to take at a time: several examples only where they are taken whole."""
    batch, height, width, _ = g.shape
    row = width * position_bytes
    return _block_rows(batch, budget, height * row), _block_rows(height, budget, row)


def _block_rows(rows: int, budget: int, row_bytes: int) -> int:
    """Return how many rows to take at a time: as many as fit the budget, and a divisor of `rows`."""
    limit = max(1, min(rows, budget // row_bytes))
    return next(block for block in range(limit, 0, -1) if rows % block == 0)


_shifted.defvjp(_shifted_forward, _shifted_backward)
