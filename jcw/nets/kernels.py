"""Convolutions in the form that suits the platform.

Each exists as a native convolution, which accelerators and exporters want, and in a form that XLA runs many times
faster on CPUs: a depthwise convolution as shifted multiply-adds, a 1x1 one as a matrix product, a larger one of few
input channels, a stem, as a matrix product over gathered patches. Of other larger ones only the gradients are others
there: XLA's own take up to two hundred times as long inside loops, which gates are. On GPUs shifts serve for depthwise
convolutions, too: a step is about as fast, and compiles in a fraction of the time, since none of cuDNN's need be tried.

Arrays are NHWC; padding is 'SAME' unless pads are given.
"""

import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jcw.nets import blocks, dense, shifts
from jcw.windows import Pads, pads_of

Implementation = Literal['auto', 'cpu', 'accelerator', 'native']
"""'cpu': shifts and matrix products; 'native': `conv_general_dilated`; 'accelerator': that, but shifts for depthwise
convolutions where a GPU is compiled for; 'auto': by the platform compiled for."""

Images = Float[Array, 'batch height width channels']

MOST_GATHERED = 64  # channels of a gathered patch, as of a stem; beyond, XLA's own convolution is faster
UNPADDED: Pads = ((0, 0), (0, 0))


def here() -> Implementation:
    """Return the form for JAX's default device: what is compiled for it alone need not be traced for others."""
    return 'cpu' if jax.default_backend() == 'cpu' else 'accelerator'


def depthwise(
    x: Images,
    kernel: Float[Array, 'k k channels'],
    stride: int = 1,
    implementation: Implementation = 'auto',
    pads: Pads | None = None,
) -> Float[Array, 'batch out_height out_width channels']:
    """Convolve each channel with its own kernel."""
    pads = pads_of(x.shape[1:3], kernel.shape[0], stride, pads)

    on_cpu, accelerated, native = (
        functools.partial(function, stride=stride, pads=pads)
        for function in (_shifts_on_cpus, _shifts_on_gpus, _grouped)
    )
    return choose(on_cpu, native, implementation, accelerated)(x, kernel)


def _shifts_on_cpus(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    return shifts.shifted(x, kernel, stride, pads, shifts.sums_on_cpus)


def _grouped(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    return dense.convolve(x, kernel[:, :, None, :], stride, pads, groups=x.shape[-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _shifts_on_gpus(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    """Choose the form, and that of the gradients again, so that gates keep nothing for the one that is not chosen."""
    rows = functools.partial(shifts.shifted, stride=stride, pads=pads, tap_sums=shifts.sums_by_rows)
    return on_gpus(rows, functools.partial(_grouped, stride=stride, pads=pads))(x, kernel)


def _shifts_on_gpus_forward(
    x: jax.Array, kernel: jax.Array, stride: int, pads: Pads
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _shifts_on_gpus(x, kernel, stride, pads), (x, kernel)


def _shifts_on_gpus_backward(
    stride: int, pads: Pads, kept: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    def grouped(kept: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vjp(functools.partial(_grouped, stride=stride, pads=pads), *kept)[1](g)

    rows = functools.partial(shifts.gradients, stride, pads, shifts.sums_by_rows)
    return on_gpus(rows, grouped)(kept, g)


_shifts_on_gpus.defvjp(_shifts_on_gpus_forward, _shifts_on_gpus_backward)


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
        return dense.product(x[:, ::stride, ::stride], kernel[0, 0])

    def gathered(x: jax.Array, kernel: jax.Array) -> jax.Array:
        padded, after = blocks.pad(x, pads), blocks.after_of(x, size, stride, pads)
        patches = jnp.concatenate(
            [blocks.window(padded, after, i, j, stride) for i in range(size) for j in range(size)], axis=-1
        )
        return dense.product(patches, kernel.reshape(-1, kernel.shape[-1]))

    def native(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return dense.convolve(x, kernel, stride, pads)

    if size == 1 and pads == UNPADDED:
        return choose(product, native, implementation)(x, kernel)
    few = size * size * x.shape[-1] <= MOST_GATHERED
    on_cpu = gathered if few else functools.partial(dense.spatial, stride=stride, pads=pads)
    return choose(on_cpu, native, implementation)(x, kernel)


def max_pool(
    x: Images, size: int, stride: int, pads: Pads | None = None
) -> Float[Array, 'batch out_height out_width channels']:
    """Return the maxima of windows."""
    around = ((0, 0), *pads_of(x.shape[1:3], size, stride, pads), (0, 0))
    window, strides = (1, size, size, 1), (1, stride, stride, 1)
    return jax.lax.reduce_window(x, np.array(-np.inf, x.dtype), jax.lax.max, window, strides, around)


def position_sums(
    function: Callable[..., tuple[jax.Array, ...]], *arrays: Images
) -> tuple[Float[Array, ' channels'], ...]:
    """Sum the results of an elementwise function over batch, height and width, in at least float32.

    On CPUs by rows, or by blocks added to running sums in cache: XLA reduces a product over all positions an entry at a
    time, several times slower.
    """

    def plain(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(v.sum((0, 1, 2), dtype=blocks.accumulator(v)) for v in function(*arrays))

    return jax.lax.platform_dependent(
        *arrays, cpu=functools.partial(blocks.sums_on_cpus, function), default=plain
    )


def choose(
    cpu: Callable, native: Callable, implementation: str, accelerator: Callable | None = None
) -> Callable:
    """Return the implementation's function, or one that is, when compiled, that of the platform."""
    forms = {'cpu': cpu, 'accelerator': accelerator or native, 'native': native}
    if implementation == 'auto':
        return functools.partial(jax.lax.platform_dependent, cpu=cpu, default=forms['accelerator'])
    if implementation not in forms:
        raise ValueError(
            f"implementation must be 'auto', 'cpu', 'accelerator' or 'native', got {implementation!r}"
        )
    return forms[implementation]


def on_gpus(gpu: Callable, others: Callable) -> Callable:
    """Return the function that is, when compiled, the one for the platform."""
    return functools.partial(jax.lax.platform_dependent, cuda=gpu, rocm=gpu, default=others)
