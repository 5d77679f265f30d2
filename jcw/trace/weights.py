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
    which is the same function; elsewhere part of the kernel and the bias of an operation without normalisation.
    """
    params: dict[str, Any] = {}
    stats: dict[str, Any] = {}
    for op, part in zip(graph.operations, parts, strict=True):
        node, channels = part.node, part.node.channels
        if op.kind in ('conv', 'depthwise'):
            kernel = np.ones((1, 1, channels)) if node.kernel is None else node.kernel
            if op.norm:
                own, stats[op.name] = _normalisation(part.affine, channels)
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


def _normalisation(affine: Affine, channels: int) -> tuple[dict[str, Any], dict[str, Any]]:
    factor, shift = (np.broadcast_to(values, channels) for values in affine[:2])
    assert affine.mean is not None
    assert affine.variance is not None
    mean, variance = (
        np.broadcast_to(values, channels) for values in (affine.mean, affine.variance - EPSILON)
    )
    if not ((variance + EPSILON > 0).all() and np.isfinite(variance).all()):
        mean, variance = np.zeros(channels), np.full(channels, 1 - EPSILON)
    scale, bias = factor * np.sqrt(variance + EPSILON), shift + factor * mean
    return {'scale': _array(scale), 'bias': _array(bias)}, {
        'mean': _array(mean),
        'variance': _array(variance),
    }


def _array(values: Any) -> Any:
    return jnp.asarray(np.asarray(values, np.float32))
