"""Sums, maxima and means over positions."""

import math
from typing import Any

import numpy as np

from jcw.trace.expressions import Affine, Expression
from jcw.trace.nodes import Node
from jcw.trace.products import mean_of, result_of, windowed
from jcw.trace.values import Value
from jcw.trace.walk import Walk, where
from jcw.trace.windows import stated
from jcw.windows import Pads, size_after

NO_PADS = ((0, 0), (0, 0))


def total(walk: Walk, eqn: Any, operands: list[Any]) -> Value:
    """Read `reduce_sum`: over all positions it is the mean, times how many there are."""
    x: Value = operands[0]
    roles = _reduced(eqn, x)
    axes = [roles for place, roles in enumerate(x.axes) if place not in eqn.params['axes']]
    if not roles:
        node = walk.node(x)  # an operation from here on, as it would be on a larger map
        over = {order_of(x)[place] for place in eqn.params['axes']}
        if node.size == (1, 1) and len(x.axes) == 4 and over == {'h', 'w'}:
            node = mean_of(walk, eqn, node)
            return result_of(node, x.sizes['n'], axes)
        return x._replace(axes=tuple(axes))
    node, affine = walk.node(x), None
    if node.kind == 'pointwise' and node.activation is None and node.reads[0].kind == 'sum':
        node, affine = node.reads[0], node.affine
    if node.kind == 'sum':
        (base,) = node.reads
    elif roles == {role for role in ('h', 'w') if role in x.sizes}:
        base = node
    else:
        half = walk.nodes.append(
            'sum', node, channels=node.channels, size=node.size, where=where(eqn), scope=walk.scope_of(eqn)
        )
        sizes = {role: size for role, size in x.sizes.items() if role not in roles}
        return Value(Expression(node=half), tuple(axes), sizes)
    assert base.size is not None
    mean = mean_of(walk, eqn, base)
    count = math.prod(x.sizes[role] for role in roles)
    return _scaled(mean, base.size[0] * base.size[1], x.sizes['n'], axes, where(eqn), affine, count)


def greatest(walk: Walk, eqn: Any, operands: list[Any]) -> Value:
    """Read `reduce_max` over all positions: a pool whose only window is the map."""
    x: Value = operands[0]
    roles, node = _reduced(eqn, x), walk.node(x)
    if roles != {role for role in ('h', 'w') if role in x.sizes} or node.size is None:
        raise ValueError(f'{where(eqn)}: a maximum over {sorted(roles)} cannot be expressed')
    axes = [roles for place, roles in enumerate(x.axes) if place not in eqn.params['axes']]
    side = max(node.size)
    made = _max_pool(walk, eqn, node, side, side, (1, 1))
    return result_of(made, x.sizes['n'], axes)


def window_sum(walk: Walk, eqn: Any, operands: list[Any]) -> Value:
    """Read `reduce_window_sum`, as of mean pooling: a depthwise convolution with ones."""
    x, node, side, stride, pads, after = _window(walk, eqn, operands)
    axes = [(role,) if role in x.sizes else () for role in order_of(x)]
    if side == node.size and after == (1, 1) and pads == NO_PADS:
        mean = mean_of(walk, eqn, node)
        return _scaled(mean, side[0] * side[1], x.sizes['n'], axes, where(eqn))
    ones = np.ones((*side, 1, node.channels), np.float32)
    made = windowed(walk, eqn, node, ones, stride, pads, node.channels, after)
    made.note = f'a sum over windows of {side[0]} x {side[1]}'
    return result_of(made, x.sizes['n'], axes)


def window_max(walk: Walk, eqn: Any, operands: list[Any]) -> Value:
    """Read `reduce_window_max`."""
    x, node, side, stride, pads, after = _window(walk, eqn, operands)
    if side[0] != side[1] or min(map(min, pads)) < 0:
        raise ValueError(
            f'{where(eqn)}: of windows of {side} with padding {pads} only square ones can be expressed'
        )
    made = _max_pool(walk, eqn, node, side[0], stride, after, stated(node.size, side[0], stride, pads))
    return result_of(made, x.sizes['n'], [(role,) for role in order_of(x)])


def strided(walk: Walk, eqn: Any, operands: list[Any]) -> Value:
    """Read `slice`: every nth row and column."""
    x: Value = operands[0]
    starts, limits, steps = (eqn.params[key] for key in ('start_indices', 'limit_indices', 'strides'))
    steps = steps or (1,) * len(starts)
    if (
        starts == (0,) * len(starts)
        and set(steps) == {1}
        and tuple(limits) == tuple(eqn.invars[0].aval.shape)
    ):
        return x
    spatial = {x.axes[i]: step for i, step in enumerate(steps) if x.axes[i] in (('h',), ('w',))}
    whole = all(
        limit > (size - 1) // step * step for limit, size, step in zip(limits, x.shape, steps, strict=True)
    )
    others = all(step == 1 for i, step in enumerate(steps) if x.axes[i] not in spatial)
    if any(starts) or not whole or not others or len(set(spatial.values())) != 1 or x.pads:
        raise ValueError(f'{where(eqn)}: a part of the channels or of the positions cannot be expressed')
    node, step = walk.node(x), next(iter(spatial.values()))
    assert node.size is not None
    after = -(-node.size[0] // step), -(-node.size[1] // step)
    made = _max_pool(walk, eqn, node, 1, step, after)
    made.note = 'every nth row and column'
    return result_of(made, x.sizes['n'], list(x.axes))


def _reduced(eqn: Any, x: Value) -> set[str]:
    """Return the roles of the axes that are reduced."""
    roles = {role for place in eqn.params['axes'] for role in x.axes[place]}
    if 'n' in roles:
        raise ValueError(
            f'{where(eqn)}: it goes over the batch, as normalisation does in training: '
            'trace the function in evaluation mode'
        )
    if 'c' in roles:
        raise ValueError(
            f'{where(eqn)}: it goes over channels, as softmax, layer and group normalisation do; '
            'a graph treats each channel by itself'
        )
    if '?' in roles or x.pads:
        raise ValueError(f'{where(eqn)}: it goes over an axis that only repeats or pads')
    return roles


def _window(walk: Walk, eqn: Any, operands: list[Any]) -> tuple:
    """Return value, operation, side, stride, padding and size of a reduction of windows."""
    x, params = operands[0], eqn.params
    order = order_of(x)
    places = [i for role in ('h', 'w') for i, own in enumerate(order) if own == role]
    one = [i for i in range(len(order)) if i not in places]
    dilations = {*params.get('base_dilation', ()), *params.get('window_dilation', ())} - {1}
    if len(places) != 2 or dilations or any(params['window_dimensions'][i] != 1 for i in one):
        raise ValueError(f'{where(eqn)}: only windows of rows and columns can be expressed')
    node = walk.node(x)
    side, steps, pads = (
        tuple(params[key][i] for i in places) for key in ('window_dimensions', 'window_strides', 'padding')
    )
    own = x.pads or NO_PADS
    pads = tuple((int(low + a), int(high + b)) for (low, high), (a, b) in zip(own, pads, strict=True))
    after = size_after(node.size or (1, 1), side, steps, pads)
    if (steps[0] != steps[1] and after != (1, 1)) or node.size is None:
        raise ValueError(f'{where(eqn)}: strides of rows and columns must be equal, got {steps}')
    if x.pads and x.padding != (0 if 'sum' in eqn.primitive.name else -np.inf):
        raise ValueError(f'{where(eqn)}: it reads a map padded with {x.padding}')
    return x, node, side, max(steps), pads, after


def order_of(x: Value) -> list[str]:
    """Return the role of every axis, those of length 1 by what is missing, in the usual order."""
    missing = [role for role in ('n', 'h', 'w', 'c') if role not in x.sizes]
    return [roles[0] if roles else missing.pop(0) if missing else '' for roles in x.axes]


def _max_pool(
    walk: Walk, eqn: Any, node: Node, side: int, stride: int, size: Any, pads: Pads | None = None
) -> Node:
    settings: dict[str, Any] = {'channels': node.channels, 'size': size, 'where': where(eqn), 'pads': pads}
    return walk.nodes.append('max_pool', node, side=side, stride=stride, **settings)


def _scaled(
    node: Node, factor: int, batch: int, axes: list, at: str, affine: Affine | None = None, count: int = 1
) -> Value:
    """Return a mean times a factor; with the scale, and `count` times the shift, of what it was taken of."""
    scale, shift = (1, 0) if affine is None else affine[:2]
    value = result_of(node, batch, axes)
    args = value.expression, Expression(value=np.asarray(factor * scale, np.float64))
    scaled = Expression(name='mul', function=np.multiply, args=args, where=at)
    args = scaled, Expression(value=np.asarray(count * shift, np.float64))
    return value._replace(expression=Expression(name='add', function=np.add, args=args, where=at))
