"""The function that ships: from images as bytes to logits, with normalisation folded into kernels and biases.

Convolutions are those of `jcw.nets.kernels`, and on CPUs forms that need no gradient: a stem of few input channels is a
sum of broadcast products, one for each entry of the kernel, where training gathers patches for a matrix product; and a
depthwise convolution reads a padded copy that is made first, which XLA would otherwise make part of the loop that
reads it. On GPUs a depthwise convolution is a sum of products, too, one kernel with its bias and activation.

Results of convolutions are float32, whatever the inputs: narrow inputs are widened before they are summed, and matrix
units accumulate in float32 anyway.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from jcw.deploy.fold import Folded, shapes
from jcw.graph import Graph, Operation
from jcw.nets import activations, blocks, kernels
from jcw.nets.kernels import Implementation
from jcw.windows import pads_of

MOST_TAPS = 64  # terms of a stem's sum


def forward(
    folded: Folded,
    images: UInt8[Array, 'batch height width channels'],
    graph: Graph,
    *,
    dtype: Any = jnp.float32,
    implementation: Implementation = 'auto',
) -> Float[Array, 'batch classes']:
    """Return the float32 logits of images as bytes.

    Args:
      folded: the weights.
      images: as they come; normalisation is part of the network.
      graph: of one configuration.
      dtype: in which activations are kept and multiplied; sums, biases and the classifier are float32.
      implementation: of the convolutions, see `jcw.nets.kernels`.
    """
    form = _Form(dtype, implementation)
    scale = folded['images']
    values = [(images.astype(jnp.float32) * scale['scale'] + scale['bias']).astype(dtype)]
    for op in graph.operations[1:]:
        values.append(FORMS[op.kind](form, op, folded.get(op.name, {}), *(values[read] for read in op.reads)))
    return values[-1]


class _Form(NamedTuple):
    dtype: Any
    implementation: Implementation

    def activate(self, x: jax.Array, bias: Any, op: Operation) -> jax.Array:
        return activations.BY_NAME[op.activation](x + bias).astype(self.dtype)


def _conv(form: _Form, op: Operation, own: Folded, x: jax.Array) -> jax.Array:
    kernel = own['kernel'].astype(form.dtype)
    size, channels = op.kernel, x.shape[-1]
    product = size == 1 and op.pads is None
    on_cpu = _product if product else _taps if size * size * channels <= MOST_TAPS else None
    y = _apply(form, kernels.conv, op, on_cpu)(x, kernel)
    return form.activate(y, own['bias'], op)


def _depthwise(form: _Form, op: Operation, own: Folded, x: jax.Array) -> jax.Array:
    kernel = own['kernel'].astype(form.dtype)
    y = _apply(form, kernels.depthwise, op, functools.partial(_shifted, copy=True), _shifted)(x, kernel)
    return form.activate(y, own['bias'], op)


def _add(form: _Form, op: Operation, own: Folded, *terms: jax.Array) -> jax.Array:
    return activations.BY_NAME[op.activation](sum(terms[1:], start=terms[0]))


def _gate(form: _Form, op: Operation, own: Folded, x: jax.Array) -> jax.Array:
    squeezed = x.mean((1, 2), dtype=jnp.float32)
    inner = activations.BY_NAME[op.activation](squeezed @ own['reduce_kernel'] + own['reduce_bias'])
    opened = activations.OPENINGS[op.opening](inner @ own['expand_kernel'] + own['expand_bias'])
    return (x * opened[:, None, None, :]).astype(form.dtype)


def _max_pool(form: _Form, op: Operation, own: Folded, x: jax.Array) -> jax.Array:
    return kernels.max_pool(x, op.kernel, op.stride, op.pads)


def _mean(form: _Form, op: Operation, own: Folded, x: jax.Array) -> jax.Array:
    return x.mean((1, 2), dtype=jnp.float32)


def _dense(form: _Form, op: Operation, own: Folded, x: jax.Array) -> jax.Array:
    return activations.BY_NAME[op.activation](x @ own['kernel'] + own['bias'])


FORMS: dict[str, Callable[..., jax.Array]] = {
    'conv': _conv,
    'depthwise': _depthwise,
    'add': _add,
    'gate': _gate,
    'max_pool': _max_pool,
    'mean': _mean,
    'dense': _dense,
}


def build(
    graph: Graph,
    widths: Sequence[int] | np.ndarray,
    batch: int,
    dtype: Any = jnp.float32,
    implementation: Implementation = 'auto',
) -> tuple[Callable[[Folded, Any], jax.Array], tuple[Folded, np.ndarray]]:
    """Return the deployed function of a configuration and arguments of no meaning: what a runtime times."""
    fixed = graph.fixed(widths)

    def function(folded: Folded, images: jax.Array) -> jax.Array:
        return forward(folded, images, fixed, dtype=dtype, implementation=implementation)

    folded = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.01, leaf.dtype), shapes(fixed))
    return function, (folded, np.full((batch, *graph.input_shape), 128, np.uint8))


def _apply(
    form: _Form, trained: Callable, op: Operation, on_cpu: Callable | None, on_gpu: Callable | None = None
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Return the operation as a function of images and kernel: as trained, or by a platform's own form."""

    def as_trained(x: jax.Array, kernel: jax.Array, platform: kernels.Implementation) -> jax.Array:
        return trained(x, kernel, op.stride, platform, op.pads).astype(jnp.float32)

    cpu = functools.partial(on_cpu, op=op) if on_cpu else functools.partial(as_trained, platform='cpu')
    native = functools.partial(as_trained, platform='native')
    accelerator = kernels.on_gpus(functools.partial(on_gpu, op=op), native) if on_gpu else native
    return kernels.choose(cpu, native, form.implementation, accelerator)


def _product(x: jax.Array, kernel: jax.Array, op: Operation) -> jax.Array:
    x = x[:, :: op.stride, :: op.stride]
    rows = jnp.dot(x.reshape(-1, x.shape[-1]), kernel[0, 0], preferred_element_type=jnp.float32)
    return rows.reshape(*x.shape[:-1], kernel.shape[-1])


def _taps(x: jax.Array, kernel: jax.Array, op: Operation) -> jax.Array:
    terms = [
        window[..., c, None].astype(jnp.float32) * kernel[i, j, c].astype(jnp.float32)
        for i, j, window in _windows(x, op, copy=True)
        for c in range(x.shape[-1])
    ]
    return functools.reduce(jnp.add, terms)


def _shifted(x: jax.Array, kernel: jax.Array, op: Operation, copy: bool = False) -> jax.Array:
    terms = [
        window.astype(jnp.float32) * kernel[i, j].astype(jnp.float32)
        for i, j, window in _windows(x, op, copy)
    ]
    return functools.reduce(jnp.add, terms)


def _windows(x: jax.Array, op: Operation, copy: bool) -> list[tuple[int, int, jax.Array]]:
    """Return, for each kernel position that does not meet padding alone, the entries of `x`, padded, it meets."""
    size, stride = op.kernel, op.stride
    pads = pads_of(x.shape[1:3], size, stride, op.pads)
    padded, after = blocks.pad(x, pads), blocks.after_of(x, size, stride, pads)
    if copy:
        padded = jax.lax.optimization_barrier(padded)
    taps = blocks.live_taps(x, size, stride, pads)
    return [(i, j, blocks.window(padded, after, i, j, stride)) for i, j in taps]
