"""The function that ships: from images as bytes to logits."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from jcw.deploy import convolve
from jcw.deploy.fold import Folded, shapes
from jcw.nets import kernels
from jcw.nets.variables import layer_name
from jcw.space import SearchSpace


def forward(
    folded: Folded,
    images: UInt8[Array, 'batch height width channels'],
    strides: Sequence[int],
    *,
    dtype: Any = jnp.float32,
    implementation: kernels.Implementation = 'auto',
) -> Float[Array, 'batch classes']:
    """Return the float32 logits of images as bytes.

    Args:
      folded: the weights.
      images: as they come; normalisation is part of the network.
      strides: of the layers.
      dtype: in which activations are kept and multiplied; sums, biases and the classifier are float32.
      implementation: of the convolutions, see `jcw.nets.kernels`.
    """
    x = (images.astype(jnp.float32) * folded['input']['scale'] + folded['input']['bias']).astype(dtype)
    for index, stride in enumerate(strides):
        layer = folded[layer_name(index)]
        if 'kernel' in layer:
            x = _activate(
                convolve.dense(x, layer['kernel'].astype(dtype), stride, implementation), layer, dtype
            )
        else:
            deep, point = layer['depthwise'], layer['pointwise']
            x = _activate(
                convolve.depthwise(x, deep['kernel'].astype(dtype), stride, implementation), deep, dtype
            )
            x = _activate(convolve.pointwise(x, point['kernel'].astype(dtype), implementation), point, dtype)
    return x.mean((1, 2), dtype=jnp.float32) @ folded['head']['kernel'] + folded['head']['bias']


def _activate(x: jax.Array, part: Folded, dtype: Any) -> jax.Array:
    return jax.nn.relu(x + part['bias']).astype(dtype)


def build(
    space: SearchSpace, widths: Sequence[int] | np.ndarray, batch: int, dtype: Any = jnp.float32
) -> tuple[Callable[[Folded, Any], jax.Array], tuple[Folded, np.ndarray]]:
    """Return the deployed function of a configuration and arguments of no meaning: what a runtime times."""
    strides = tuple(layer.stride for layer in space.layers)

    def function(folded: Folded, images: jax.Array) -> jax.Array:
        return forward(folded, images, strides, dtype=dtype)

    folded = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.01, leaf.dtype), shapes(space, widths))
    return function, (folded, np.full((batch, *space.input_shape), 128, np.uint8))
