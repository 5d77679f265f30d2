"""Convolutions and products with matrices, in any order of axes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jcw.trace.expressions import Expression
from jcw.trace.known import Known
from jcw.trace.nodes import FOLDED, Node
from jcw.trace.pairs import gate
from jcw.trace.values import Value
from jcw.trace.walk import Walk, fixed, where
from jcw.trace.windows import dilated, squared, stated
from jcw.windows import size_after


def convolution(walk: Walk, eqn: Any, operands: list[Any]) -> Value:
    """Read `conv_general_dilated`."""
    params, spec = eqn.params, eqn.params['dimension_numbers']
    x, kernel = operands
    if not isinstance(x, Value) or not isinstance(kernel, Known):
        raise ValueError(f'{where(eqn)}: its kernel depends on the images')
    if len(spec.lhs_spec) != 4:
        raise ValueError(f'{where(eqn)}: only convolutions over height and width can be expressed')
    if params['batch_group_count'] != 1 or set(params['lhs_dilation']) != {1}:
        raise ValueError(f'{where(eqn)}: transposed convolutions cannot be expressed')
    node = walk.node(x)
    _check_layout(eqn, x, spec.lhs_spec, node)
    weights = np.transpose(np.asarray(kernel.value), (*spec.rhs_spec[2:], spec.rhs_spec[1], spec.rhs_spec[0]))
    weights, pads = dilated(weights, params['rhs_dilation']), _pads(x, params['padding'])
    strides, groups = params['window_strides'], params['feature_group_count']
    after = size_after(node.size or (1, 1), weights.shape[:2], strides, pads)
    if node.size is None:
        (top, _), (left, _) = pads
        tap = weights[top : top + 1, left : left + 1] if groups == 1 and after == (1, 1) else weights[:0]
        if not tap.size or x.padding:
            raise ValueError(f'{where(eqn)}: a convolution of a mean is only read if it is a product')
        made = dense(walk, eqn, node, tap[0, 0])
    else:
        if strides[0] != strides[1] and max(node.size) > 1:
            raise ValueError(f'{where(eqn)}: strides of rows and columns must be equal, got {strides}')
        made = windowed(walk, eqn, node, weights, strides[0], pads, groups, after)
    names = {spec.out_spec[0]: 'n', spec.out_spec[1]: 'c', spec.out_spec[2]: 'h', spec.out_spec[3]: 'w'}
    return result_of(made, x.sizes['n'], [(names[i],) for i in range(4)])


def windowed(
    walk: Walk, eqn: Any, read: Node, kernel: np.ndarray, stride: int, pads: Any, groups: int, after: Any
) -> Node:
    """Append a convolution with a kernel (h, w, in / groups, out)."""
    unpadded = not np.any(pads)
    if kernel.shape[:2] == (1, 1) and read.kind == 'max_pool' and read.side == 1 and unpadded:
        (read,), stride = read.reads, stride * read.stride
    assert read.size is not None
    if min(min(pad) for pad in pads) < 0:
        raise ValueError(
            f'{where(eqn)}: padding {tuple(pads)} cuts rows or columns off, which cannot be expressed'
        )
    square, pads = squared(kernel, pads)
    side = square.shape[0]
    note = (
        ''
        if kernel.shape[:2] == (side, side)
        else f'a kernel of {kernel.shape[0]} x {kernel.shape[1]}, with zeros'
    )
    settings: dict[str, Any] = {'side': side, 'stride': stride, 'size': after, 'where': where(eqn)}
    settings |= {'scope': walk.scope_of(eqn), 'note': note, 'pads': stated(read.size, side, stride, pads)}
    channels = kernel.shape[3]
    if groups == read.channels == channels and groups > 1:
        return walk.nodes.append('depthwise', read, channels=channels, kernel=square[:, :, 0], **settings)
    frozen = ''
    if groups > 1:
        square, frozen = _ungrouped(square, groups), f'{where(eqn)}: {groups} groups of channels'
        settings['note'] = f'{groups} groups, written as a dense convolution: {groups} times the work'
        read.frozen = read.frozen or frozen
    return walk.nodes.append('conv', read, channels=channels, kernel=square, frozen=frozen, **settings)


def dense(walk: Walk, eqn: Any, read: Node, kernel: np.ndarray) -> Node:
    """Append a product of a vector with a matrix (in, out); what scaled and shifted the vector becomes part of it."""
    bias, note = np.zeros(()), ''
    if read.kind == 'pointwise' and read.activation is None:
        assert read.affine is not None
        note = FOLDED if read.affine.normalises else ''
        bias = np.broadcast_to(read.affine.shift, read.channels) @ kernel
        kernel = np.broadcast_to(read.affine.factor, read.channels)[:, None] * kernel
        (read,) = read.reads
    settings: dict[str, Any] = {
        'where': where(eqn),
        'kernel': kernel,
        'bias': bias,
        'scope': walk.scope_of(eqn),
        'note': note,
    }
    return walk.nodes.append('dense', read, channels=kernel.shape[1], size=None, **settings)


def product(walk: Walk, eqn: Any, operands: list[Any]) -> Value:
    """Read `dot_general`: over channels, or over all positions and channels, as after a flatten."""
    contracting, batch = eqn.params['dimension_numbers']
    values = [operand for operand in operands if isinstance(operand, Value)]
    if len(values) == 1 and not contracting[0]:
        return _scaled(walk, eqn, operands)
    if len(values) == 2 and len(batch[0]) in (len(x.axes) for x in values):
        first, second = (_batch_first(x, places) for x, places in zip(values, batch, strict=True))
        axes = max(first.axes, second.axes, key=len)
        return gate(walk, eqn, [first, second], axes, first.sizes | second.sizes)
    if len(values) == 2:
        raise ValueError(f'{where(eqn)}: a product of two results, as of attention, cannot be expressed')
    own = 0 if isinstance(operands[0], Value) else 1
    x, matrix = values[0], np.asarray(operands[1 - own].value)
    summed = [role for place in contracting[own] for role in x.axes[place]]
    kept = [place for place in range(len(x.axes)) if place not in contracting[own]]
    free = [place for place in range(matrix.ndim) if place not in contracting[1 - own]]
    if len(free) != 1:
        raise ValueError(
            f'{where(eqn)}: a product with {len(free)} axes of results, as of the heads of attention, '
            'cannot be expressed'
        )
    if 'n' in summed or '?' in summed or x.pads or not set(summed) <= {'h', 'w', 'c'}:
        raise ValueError(f'{where(eqn)}: it sums over {summed or "nothing"}, not over channels')
    node = walk.node(x)
    matrix = np.transpose(matrix, (*contracting[1 - own], free[0])).reshape(
        *(x.sizes[role] for role in summed), -1
    )
    roles = [x.axes[place] for place in kept]
    left = {role for axis in roles for role in axis} - {'n'}
    if 'c' in left or (left and set(summed) - {'c'}):
        raise ValueError(f'{where(eqn)}: it sums over {summed}, and channels or positions are left')
    if node.size is None:
        made = dense(walk, eqn, node, matrix.reshape(-1, matrix.shape[-1]))
    elif left or (set(summed) <= {'c'} and node.size == (1, 1) and len(x.axes) == 4):
        kernel = matrix.reshape(1, 1, -1, matrix.shape[-1])
        made = windowed(walk, eqn, node, kernel, 1, ((0, 0), (0, 0)), 1, node.size)
    elif node.size == (1, 1):
        made = dense(walk, eqn, mean_of(walk, eqn, node), matrix.reshape(-1, matrix.shape[-1]))
    else:
        made = _whole_map(walk, eqn, node, matrix, summed)
    results = [*roles, ('c',)] if own == 0 else [('c',), *roles]
    return result_of(made, x.sizes['n'], results)


def _scaled(walk: Walk, eqn: Any, operands: list[Any]) -> Value:
    """Read a product with known numbers over no axis, as of `einsum('nhwc,c->nhwc')`."""
    _, batch = eqn.params['dimension_numbers']
    own = 0 if isinstance(operands[0], Value) else 1
    x, known = operands[own], operands[1 - own]
    if len(batch[0]) < np.ndim(known.value) or x.pads:
        raise ValueError(f'{where(eqn)}: a product of axes one by one, and over others, cannot be expressed')
    roles = dict(zip(batch[1 - own], (x.axes[place] for place in batch[own]), strict=True))
    factor = fixed(eqn, known, tuple(roles[place] for place in range(len(roles))))
    made = Expression(name='mul', function=np.multiply, args=(x.expression, factor), where=where(eqn))
    return _batch_first(x, batch[own])._replace(expression=made)


def _batch_first(x: Value, batch: Sequence[int]) -> Value:
    """Return a value with its axes in the order of a product's result: those that go one by one, then the others."""
    order = *batch, *(place for place in range(len(x.axes)) if place not in batch)
    return x._replace(axes=tuple(x.axes[place] for place in order))


def result_of(node: Node, batch: int, axes: Sequence[tuple[str, ...]]) -> Value:
    """Return the value of an operation's result; axes of length 1 have no role."""
    height, width = node.size or (1, 1)
    lengths = {'n': batch, 'h': height, 'w': width, 'c': node.channels}
    sizes = {role: size for role, size in lengths.items() if size > 1}
    kept = tuple(tuple(role for role in roles if role in sizes) for roles in axes)
    return Value(Expression(node=node), kept, sizes)


def _whole_map(walk: Walk, eqn: Any, read: Node, matrix: np.ndarray, summed: list[str]) -> Node:
    """Append a product over all positions: a convolution whose only window is the map."""
    assert read.size is not None
    lengths = {'h': read.size[0], 'w': read.size[1], 'c': read.channels}
    for role in ('h', 'w', 'c'):
        if role not in summed:
            matrix, summed = matrix[None], [role, *summed]
            if lengths[role] != 1:
                raise ValueError(f'{where(eqn)}: it reads a part of a map')
    kernel = np.moveaxis(matrix, [summed.index(role) for role in ('h', 'w', 'c')], [0, 1, 2])
    made = windowed(walk, eqn, read, kernel, 1, ((0, 0), (0, 0)), 1, (1, 1))
    made.note = f'a product over {read.size[0]} x {read.size[1]} positions'
    return made


def mean_of(walk: Walk, eqn: Any, read: Node) -> Node:
    """Append the mean over all positions."""
    return walk.nodes.append('mean', read, channels=read.channels, size=None, where=where(eqn))


def _pads(x: Value, padding: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    own = x.pads or ((0, 0), (0, 0))
    rows, columns = ((int(low + a), int(high + b)) for (low, high), (a, b) in zip(own, padding, strict=True))
    return rows, columns


def _check_layout(eqn: Any, x: Value, spec: Any, node: Node) -> None:
    if x.padding != 0 and x.pads:
        raise ValueError(f'{where(eqn)}: it reads a map padded with {x.padding}, not with zeros')
    for place, role in zip(spec, ('n', 'c', 'h', 'w'), strict=True):
        if x.axes[place] not in ((role,), ()):
            raise WrongLayout(f'{where(eqn)}: its axes are not batch, channels, height and width of one map')


class WrongLayout(ValueError):
    """Axes have other roles than the ones that were taken for granted."""


def _ungrouped(kernel: np.ndarray, groups: int) -> np.ndarray:
    """Put the blocks of a grouped kernel on the diagonal of a dense one."""
    k, _, inner, out = kernel.shape
    whole = np.zeros((k, k, inner * groups, out), kernel.dtype)
    columns = out // groups
    for group in range(groups):
        rows, place = slice(group * inner, (group + 1) * inner), slice(group * columns, (group + 1) * columns)
        whole[:, :, rows, place] = kernel[:, :, :, place]
    return whole


def logits_of(walk: Walk, value: Value) -> Node:
    """Return the classifier whose result a value is; a map or a mean of logits is read by one that changes nothing.

    Raises:
      ValueError: the value has been activated.
    """
    node = walk.node(value)
    linear = node.reads[0] if node.kind == 'pointwise' else node
    if node.activation is not None and node.kind == 'pointwise':
        raise ValueError(f'{node.where}: the network ends in {node.activation}; it must return logits')
    if linear.kind == 'dense':
        return node
    settings: dict[str, Any] = {'channels': node.channels, 'size': None, 'where': node.where}
    if node.size is not None:
        node = walk.nodes.append('mean', node, **settings)
    note = 'the identity, since a graph ends in a product'
    return walk.nodes.append('dense', node, kernel=np.eye(node.channels), note=note, **settings)
