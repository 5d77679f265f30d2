"""From the supernet's variables to those of a narrower network of its own."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jcw.nets.variables import Variables, layer_name
from jcw.space import SearchSpace


def slice_variables(
    variables: Variables, space: SearchSpace, widths: Sequence[int] | np.ndarray
) -> Variables:
    """Keep the first `widths` channels of every layer; differentiable, and exact for `network(space, widths)`.

    Raises:
      ValueError: a width exceeds the variables', or there is not one per layer.
    """
    widths = [int(w) for w in widths]
    if len(widths) != space.num_layers:
        raise ValueError(f'expected {space.num_layers} widths, got {len(widths)}')
    channels = [space.input_shape[2], *widths]

    def collection(tree: dict[str, Any]) -> dict[str, Any]:
        sliced = {
            layer_name(i): _slice_layer(tree[layer_name(i)], channels[i], channels[i + 1], layer_name(i))
            for i in range(space.num_layers)
        }
        if 'head' in tree:
            kernel = _take(tree['head']['kernel'], (channels[-1], space.num_classes), 'head')
            sliced['head'] = {'kernel': kernel, 'bias': tree['head']['bias']}
        return sliced

    return {name: collection(tree) for name, tree in variables.items()}


def _slice_layer(layer: dict[str, Any], inputs: int, outputs: int, name: str) -> dict[str, Any]:
    """Slice the leaves of one layer, known by the names that `jcw.nets.mobilenet` gives them."""
    shapes = {'kernel': (inputs, outputs), 'pointwise': (inputs, outputs), 'depthwise': (inputs,)}
    sliced: dict[str, Any] = {}
    for key, value in layer.items():
        if key in shapes:
            sliced[key] = _take(value, shapes[key], f'{name}/{key}')
        else:
            channels = inputs if key == 'depthwise_norm' else outputs
            sliced[key] = {leaf: _take(array, (channels,), f'{name}/{key}') for leaf, array in value.items()}
    return sliced


def _take(array: Any, sizes: tuple[int, ...], name: str) -> Any:
    """Keep the first `sizes` entries of the last axes."""
    have = array.shape[array.ndim - len(sizes) :]
    if any(size > limit for size, limit in zip(sizes, have, strict=True)):
        raise ValueError(f'{name} has {have} channels, too few for {sizes}')
    return array[(..., *(slice(size) for size in sizes))]


def add_slices(params: Any, thin: Any) -> Any:
    """Add to parameters, or their gradient, those of a network sliced from them, each in its place."""

    def add(whole: jax.Array, part: jax.Array) -> jax.Array:
        own = whole[tuple(slice(size) for size in part.shape)] + part
        return jax.lax.dynamic_update_slice(whole, own, (0,) * whole.ndim)

    return jax.tree.map(add, params, thin)
