"""Channels in the order of their importance, so that narrow networks keep those that matter."""

from typing import Any

import numpy as np

from jcw.graph import NORMALISED, Graph
from jcw.nets.axes import Variables, kernels_of, permuted
from jcw.nets.masking import EPSILON


def by_importance(variables: Variables, graph: Graph) -> Variables:
    """Sort the channels of every site, the most important first; outputs stay what they were."""
    orders = {
        name: np.argsort(-scores, kind='stable') for name, scores in importance(variables, graph).items()
    }
    return permuted(variables, graph, orders)


def importance(variables: Variables, graph: Graph) -> dict[str, np.ndarray]:
    """Return the importance of each channel, by site, float64 [channels].

    It is the channel's share of the sum of squares of every kernel, with its normalisation folded in, that reads or
    writes it, summed over these kernels (the magnitude criterion of Li et al., 2017, on both sides).
    """
    scores: dict[str, Any] = {}
    for op in graph.operations:
        for leaf, axes in kernels_of(graph, op).items():
            if len(axes) == 1:
                continue
            kernel = np.asarray(variables['params'][op.name][leaf], np.float64)
            if op.kind in NORMALISED and op.norm:
                variance = np.asarray(variables['batch_stats'][op.name]['variance'], np.float64)
                scale = np.asarray(variables['params'][op.name]['scale'], np.float64)
                kernel = kernel * (scale / np.sqrt(variance + EPSILON))
            for place, axis in enumerate(axes):
                if isinstance(axis, str):
                    others = tuple(other for other in range(kernel.ndim) if other != place)
                    squares = np.square(kernel).sum(others)
                    scores[axis] = scores.get(axis, 0) + squares / max(squares.sum(), 1e-30)
    return scores
