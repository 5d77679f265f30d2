"""The weights of a deployed network: kernels and biases, normalisation folded into them.

They are nested dictionaries: `input` (`scale`, `bias` of each channel of an image), `layer_00` ... (`kernel` and
`bias`; in separable layers those of `depthwise` and `pointwise`) and `head` (`kernel`, `bias`).
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jcw.nets.masking import EPSILON
from jcw.nets.variables import Variables, layer_name
from jcw.space import SearchSpace

Folded = dict[str, Any]


def fold(variables: Variables, space: SearchSpace, mean: Sequence[float], std: Sequence[float]) -> Folded:
    """Fold the normalisation of a standalone network's layers into its kernels, that of images into one scale.

    With `f = scale / sqrt(variance + eps)`, a kernel becomes `kernel * f` and its bias `bias - mean * f`.

    Args:
      variables: of a network that has the widths it is to ship with; see `jcw.nets.slicing`.
      space: its layers.
      mean: of each input channel, in [0, 1].
      std: likewise.

    Raises:
      ValueError: `mean` and `std` are not one number for each input channel, or a deviation is not positive.
    """
    channels = space.input_shape[2]
    if len(mean) != channels or len(std) != channels or min(std) <= 0:
        raise ValueError(f'need mean and positive std of {channels} input channels, got {mean} and {std}')
    params, stats = variables['params'], variables['batch_stats']
    centre, deviation = np.asarray(mean, np.float64), np.asarray(std, np.float64)
    folded: Folded = {
        'input': {
            'scale': (1 / (255 * deviation)).astype(np.float32),
            'bias': (-centre / deviation).astype(np.float32),
        },
        'head': {name: np.asarray(leaf) for name, leaf in params['head'].items()},
    }
    for index, spec in enumerate(space.layers):
        name = layer_name(index)
        if spec.kind == 'conv':
            folded[name] = _fold(params[name]['kernel'], params[name]['norm'], stats[name]['norm'])
        else:
            folded[name] = {
                part: _fold(params[name][part], params[name][f'{part}_norm'], stats[name][f'{part}_norm'])
                for part in ('depthwise', 'pointwise')
            }
    return folded


def _fold(kernel: Any, norm: dict[str, Any], stats: dict[str, Any]) -> dict[str, np.ndarray]:
    factor = _wide(norm['scale']) / np.sqrt(_wide(stats['variance']) + EPSILON)
    bias = _wide(norm['bias']) - _wide(stats['mean']) * factor
    return {'kernel': (_wide(kernel) * factor).astype(np.float32), 'bias': bias.astype(np.float32)}


def _wide(array: Any) -> np.ndarray:
    return np.asarray(array, np.float64)


def shapes(space: SearchSpace, widths: Sequence[int] | np.ndarray) -> Folded:
    """Return the tree of a configuration's weights as `jax.ShapeDtypeStruct`s, all float32.

    Raises:
      ValueError: there is not one positive width per layer.
    """
    widths = [int(w) for w in widths]
    if len(widths) != space.num_layers or min(widths) < 1:
        raise ValueError(f'expected {space.num_layers} positive widths, got {widths}')
    channels = [space.input_shape[2], *widths]
    tree: Folded = {'input': {name: _shape(channels[0]) for name in ('scale', 'bias')}}
    for index, (spec, inputs, outputs) in enumerate(zip(space.layers, channels, widths, strict=False)):
        size = spec.kernel
        tree[layer_name(index)] = (
            _part(size, size, inputs, outputs)
            if spec.kind == 'conv'
            else {'depthwise': _part(size, size, inputs), 'pointwise': _part(inputs, outputs)}
        )
    tree['head'] = _part(widths[-1], space.num_classes)
    return tree


def _shape(*sizes: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, np.float32)


def _part(*kernel: int) -> dict[str, jax.ShapeDtypeStruct]:
    return {'kernel': _shape(*kernel), 'bias': _shape(kernel[-1])}


def random(space: SearchSpace, widths: Sequence[int] | np.ndarray, seed: int = 0) -> Folded:
    """Draw weights of a configuration, for timing: kernels from He et al.'s normal (2015), small biases."""
    rng = np.random.default_rng(seed)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if path[0].key == 'input':
            return np.full(leaf.shape, 1 / 64 if path[1].key == 'scale' else -2, np.float32)
        fan_in = max(leaf.size // leaf.shape[-1], 1)
        deviation = 0.1 if len(leaf.shape) == 1 else (2 / fan_in) ** 0.5
        return np.float32(deviation) * rng.standard_normal(leaf.shape, np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes(space, widths))
