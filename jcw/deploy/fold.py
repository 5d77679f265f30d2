"""The weights of a deployed network: kernels and biases, normalisation folded into them.

They are nested dictionaries: `images` (`scale`, `bias` of each channel of an image), and for every operation of the
graph that has weights its `kernel` and `bias`; a gate has two of each.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jcw.graph import NORMALISED, Graph
from jcw.nets.axes import Variables, kernels_of, sizes
from jcw.nets.masking import EPSILON

Folded = dict[str, Any]


def fold(variables: Variables, graph: Graph, mean: Sequence[float], std: Sequence[float]) -> Folded:
    """Fold the normalisation of a standalone network into its kernels, that of images into one scale.

    With `f = scale / sqrt(variance + eps)`, a kernel becomes `kernel * f` and its bias `bias - mean * f`.

    Args:
      variables: of a network that has the widths it is to ship with; see `jcw.nets.axes`.
      graph: of that one configuration.
      mean: of each input channel, in [0, 1].
      std: likewise.

    Raises:
      ValueError: `mean` and `std` are not one number for each input channel, or a deviation is not positive.
    """
    channels = graph.input_shape[2]
    if len(mean) != channels or len(std) != channels or not min(std) > 0:
        raise ValueError(f'need mean and positive std of {channels} input channels, got {mean} and {std}')
    params, stats = variables['params'], variables['batch_stats']
    centre, deviation = np.asarray(mean, np.float64), np.asarray(std, np.float64)
    folded: Folded = {
        'images': {
            'scale': (1 / (255 * deviation)).astype(np.float32),
            'bias': (-centre / deviation).astype(np.float32),
        }
    }
    for op in graph.operations:
        if op.kind in NORMALISED and op.norm:
            folded[op.name] = _fold(params[op.name], stats[op.name])
        elif op.name in params:
            folded[op.name] = {name: np.asarray(leaf) for name, leaf in params[op.name].items()}
    return folded


def _fold(own: dict[str, Any], stats: dict[str, Any]) -> dict[str, np.ndarray]:
    factor = _wide(own['scale']) / np.sqrt(_wide(stats['variance']) + EPSILON)
    bias = _wide(own['bias']) - _wide(stats['mean']) * factor
    return {'kernel': (_wide(own['kernel']) * factor).astype(np.float32), 'bias': bias.astype(np.float32)}


def _wide(array: Any) -> np.ndarray:
    return np.asarray(array, np.float64)


def shapes(graph: Graph) -> Folded:
    """Return the tree of the weights of a graph of one configuration as `jax.ShapeDtypeStruct`s, all float32."""
    channels = (graph.input_shape[2],)
    tree: dict[str, Any] = {'images': {'scale': channels, 'bias': channels}}
    for op in graph.operations:
        leaves = kernels_of(graph, op)
        if op.kind in NORMALISED:
            leaves['bias'] = (op.out,)
        if leaves:
            tree[op.name] = {name: sizes(graph, axes, graph.largest) for name, axes in leaves.items()}
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, np.float32),
        tree,
        is_leaf=lambda leaf: isinstance(leaf, tuple),
    )


def random(graph: Graph, seed: int = 0) -> Folded:
    """Draw weights of a configuration, for timing: kernels from He et al.'s normal (2015), small biases."""
    rng = np.random.default_rng(seed)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if path[0].key == 'images':
            return np.full(leaf.shape, 1 / 64 if path[1].key == 'scale' else -2, np.float32)
        fan_in = max(leaf.size // leaf.shape[-1], 1)
        deviation = 0.1 if len(leaf.shape) == 1 else (2 / fan_in) ** 0.5
        return np.float32(deviation) * rng.standard_normal(leaf.shape, np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes(graph))
