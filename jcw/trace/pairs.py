"""Two results that meet element by element: residuals, and gates, which a mean opens."""

from typing import Any

import numpy as np

from jcw.operations import OPENINGS
from jcw.trace.expressions import IDENTITY, Expression
from jcw.trace.nodes import FOLDED, Node
from jcw.trace.values import Axes, Value
from jcw.trace.walk import Walk, where


def two(walk: Walk, eqn: Any, values: list[Value], axes: Axes, sizes: dict[str, int]) -> Value:
    """Read a sum, a difference, or a product of two results: a residual or a gate."""
    first, second = values
    if eqn.primitive.name == 'mul':
        return gate(walk, eqn, values, axes, sizes)
    if eqn.primitive.name == 'sub':
        minus = Expression(name='neg', function=np.negative, args=(second.expression,), where=where(eqn))
        second = second._replace(expression=minus)
    nodes = walk.node(first), walk.node(second)
    if nodes[0].size is None and nodes[1].size is None:
        raise ValueError(
            f'{where(eqn)}: vectors cannot be added, only maps of one size; add before the mean is taken'
        )
    if nodes[0].size != nodes[1].size or nodes[0].channels != nodes[1].channels:
        raise ValueError(f'{where(eqn)}: only maps of one size can be added')
    one = nodes[0]
    made = walk.nodes.append('add', *nodes, channels=one.channels, size=one.size, where=where(eqn))
    return Value(Expression(node=made), axes, sizes)


def gate(walk: Walk, eqn: Any, values: list[Value], axes: Axes, sizes: dict[str, int]) -> Value:
    """Read a product of two results one by one."""
    nodes = [walk.node(value) for value in values]
    vectors = [node for node in nodes if node.size is None]
    maps = [node for node in nodes if node.size is not None]
    refusal = ValueError(
        f'{where(eqn)}: the only product of two results that can be expressed is a gate, '
        'x * sigmoid(B act(A mean(x)))'
    )
    if len(vectors) != 1:
        raise refusal
    (vector,), factor = vectors, None
    affine = vector.affine
    if affine is not None and vector.activation is None and not np.any(affine.shift):
        (vector,), factor = vector.reads, affine.factor  # what scales the opening scales the result
    expand = _dense_of(vector, tuple(OPENINGS))
    reduce = _dense_of(expand[2], ('relu', 'relu6', 'hard_swish', 'swish', None)) if expand else None
    if not expand or not reduce or reduce[2].kind != 'mean' or reduce[2].reads[0] is not maps[0]:
        raise refusal
    made = walk.nodes.append(
        'gate',
        maps[0],
        channels=maps[0].channels,
        size=maps[0].size,
        where=where(eqn),
        activation=reduce[3],
        opening=expand[3],
        inner=(reduce[:2], expand[:2]),
        note=FOLDED if reduce[4] or expand[4] else '',
        scope=walk.scope_of(eqn),
    )
    opened = Expression(node=made)
    if factor is not None:
        scale = Expression(value=factor)
        opened = Expression(name='mul', function=np.multiply, args=(opened, scale), where=where(eqn))
    return Value(opened, axes, sizes)


def _dense_of(node: Node, activations: tuple) -> tuple[np.ndarray, np.ndarray, Node, Any, bool] | None:
    """Return kernel, bias, what it reads and activation of a product of a vector, and whether it was normalised."""
    affine, activation, product = IDENTITY, None, node
    if node.kind == 'pointwise':
        assert node.affine is not None
        affine, activation, product = node.affine, node.activation, node.reads[0]
    if product.kind != 'dense' or activation not in activations:
        return None
    assert product.kernel is not None
    bias = np.broadcast_to(product.bias * affine.factor + affine.shift, product.channels)
    return product.kernel * affine.factor, bias, product.reads[0], activation, affine.normalises
