"""The variables of a traced network, as a graph has them."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jcw.graph import Graph
from jcw.nets.axes import Variables
from jcw.nets.masking import EPSILON
from jcw.trace.expressions import Affine
from jcw.trace.parts import Part


def variables_of(graph: Graph, parts: list[Part]) -> Variables:
    """Return the variables of a graph at its base widths.

    Where moments were met, scale `a` and shift `b` become `scale = a sqrt(variance + eps)` and `bias = b + a mean`,
    which is the same function; what was multiplied before, and all of both elsewhere, is part of kernel and bias.
    """
    params: dict[str, Any] = {}
    stats: dict[str, Any] = {}
    for op, part in zip(graph.operations, parts, strict=True):
        node, channels = part.node, part.node.channels
        if op.kind in ('conv', 'depthwise'):
            kernel = np.ones((1, 1, channels)) if node.kernel is None else node.kernel
            if op.norm:
                own, stats[op.name], before = _normalisation(part.affine, channels)
                kernel = kernel * before
            else:
                factor, shift = (np.broadcast_to(values, channels) for values in part.affine[:2])
                kernel, own = kernel * factor, {'bias': _array(shift)}
            params[op.name] = {'kernel': _array(kernel), **own}
        elif op.kind == 'dense':
            factor = np.broadcast_to(part.affine.factor, channels)
            kernel = np.diag(factor) if node.kernel is None else node.kernel * factor
            bias = np.broadcast_to(node.bias * factor + part.affine.shift, channels)
            params[op.name] = {'kernel': _array(kernel), 'bias': _array(bias)}
        elif op.kind == 'gate':
            assert node.inner is not None
            (reduce, reduce_bias), (expand, expand_bias) = node.inner
            params[op.name] = {
                'reduce_kernel': _array(reduce),
                'reduce_bias': _array(reduce_bias),
                'expand_kernel': _array(expand),
                'expand_bias': _array(expand_bias),
            }
    return {'params': params, 'batch_stats': stats}


def _normalisation(affine: Affine, channels: int) -> tuple[dict[str, Any], dict[str, Any], np.ndarray]:
    """Return variables of a normalisation of `x * before`, and `before`, which the kernel does."""
    factor, shift, *moments = (
        np.ones(()) if own is None else np.broadcast_to(own, channels) for own in affine
    )
    mean, variance, before = moments
    factor, mean, variance = factor / before, mean * before, variance * before**2
    if not ((variance > 0).all() and np.isfinite(variance).all()):
        mean, variance = np.zeros(channels), np.ones(channels)
    params = {'scale': _array(factor * np.sqrt(variance)), 'bias': _array(shift + factor * mean)}
    return params, {'mean': _array(mean), 'variance': _array(variance - EPSILON)}, before


def _array(values: Any) -> Any:
    return jnp.asarray(np.asarray(values, np.float32))
