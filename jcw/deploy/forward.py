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
      dtype: of activations and products.
      implementation: of the convolutions, see `jcw.nets.kernels`.
    """
    x = (images.astype(jnp.float32) * folded['input']['scale'] + folded['input']['bias']).astype(dtype)
    for index, stride in enumerate(strides):
        layer = jax.tree.map(lambda leaf: leaf.astype(dtype), folded[layer_name(index)])
        if 'kernel' in layer:
            x = jax.nn.relu(convolve.dense(x, layer['kernel'], stride, implementation) + layer['bias'])
        else:
            deep, point = layer['depthwise'], layer['pointwise']
            x = jax.nn.relu(convolve.depthwise(x, deep['kernel'], stride, implementation) + deep['bias'])
            x = jax.nn.relu(kernels.pointwise(x, point['kernel'], implementation) + point['bias'])
    return x.mean((1, 2), dtype=jnp.float32) @ folded['head']['kernel'] + folded['head']['bias']


def build(
    space: SearchSpace, widths: Sequence[int] | np.ndarray, batch: int, dtype: Any = jnp.float32
) -> tuple[Callable[[Folded, Any], jax.Array], tuple[Folded, np.ndarray]]:
    """Return the deployed function of a configuration and arguments of no meaning: what a runtime times."""
    strides = tuple(layer.stride for layer in space.layers)

    def function(folded: Folded, images: jax.Array) -> jax.Array:
        return forward(folded, images, strides, dtype=dtype)

    folded = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.01, leaf.dtype), shapes(space, widths))
    return function, (folded, np.full((batch, *space.input_shape), 128, np.uint8))
