"""Operations that only move axes: transposes, reshapes, broadcasts, padding."""

from typing import Any

import numpy as np

from jcw.trace import pairs, pools, products
from jcw.trace.known import Known
from jcw.trace.values import Value, broadcast, reshaped
from jcw.trace.walk import Walk, where


def transpose(walk: Walk, eqn: Any, operands: list[Any]) -> Value:
    """Read `transpose`."""
    x: Value = operands[0]
    return x._replace(axes=tuple(x.axes[place] for place in eqn.params['permutation']))


def reshape(walk: Walk, eqn: Any, operands: list[Any]) -> Value:
    """Read `reshape`, `squeeze` and `expand_dims`: axes are joined, or joined ones taken apart."""
    x: Value = operands[0]
    found = None if x.pads else reshaped(x, eqn.outvars[0].aval.shape)
    if found is None:
        raise ValueError(
            f'{where(eqn)}: an axis of channels or positions is split, as into heads, groups or patches, '
            'which cannot be expressed'
        )
    return found


def broadcast_in_dim(walk: Walk, eqn: Any, operands: list[Any]) -> Value:
    """Read `broadcast_in_dim`."""
    places = [int(place) for place in eqn.params['broadcast_dimensions']]
    return broadcast(operands[0], eqn.params['shape'], places)


def pad(walk: Walk, eqn: Any, operands: list[Any]) -> Value:
    """Read `pad`: around rows and columns for the next window, after channels as a product with ones and zeros."""
    x, filling = operands
    if not isinstance(x, Value) or not isinstance(filling, Known) or len(x.axes) != 4:
        raise ValueError(f'{where(eqn)}: only maps can be padded, and with known numbers')
    around, more = {'h': (0, 0), 'w': (0, 0)}, (0, 0)
    for role, (low, high, between) in zip(pools.order_of(x), eqn.params['padding_config'], strict=True):
        if between or (role == 'n' and (low or high)):
            raise ValueError(f'{where(eqn)}: padding between entries or of the batch cannot be expressed')
        if role == 'c':
            more = int(low), int(high)
        elif role in around:
            around[role] = int(low), int(high)
    value = float(filling.value)
    if any(more):
        x = _more_channels(walk, eqn, x, more, value)
    if around == {'h': (0, 0), 'w': (0, 0)}:
        return x
    if x.pads and x.padding != value:
        raise ValueError(f'{where(eqn)}: a map is padded with {x.padding}, and again with {value}')
    own = x.pads or pools.NO_PADS
    rows, columns = ((a + low, b + high) for (a, b), (low, high) in zip(own, around.values(), strict=True))
    return x._replace(pads=(rows, columns), padding=value)


def _more_channels(walk: Walk, eqn: Any, x: Value, more: tuple[int, int], value: float) -> Value:
    node = walk.node(x)
    if value != 0 or min(more) < 0 or x.pads or node.size is None:
        raise ValueError(f'{where(eqn)}: channels can only be padded with zeros')
    channels = node.channels + sum(more)
    kernel = np.eye(node.channels, channels, more[0], dtype=np.float32)[None, None]
    made = walk.nodes.append(
        'conv',
        node,
        channels=channels,
        size=node.size,
        where=where(eqn),
        kernel=kernel,
        scope=walk.scope_of(eqn),
        note='channels of zeros are put in',
    )
    return products.result_of(made, x.sizes['n'], [(role,) for role in pools.order_of(x)])


RULES: dict[str, Any] = {
    'conv_general_dilated': products.convolution,
    'dot_general': products.product,
    'reduce_sum': pools.total,
    'reduce_max': pools.greatest,
    'reduce_window_sum': pools.window_sum,
    'reduce_window_max': pools.window_max,
    'slice': pools.strided,
    'two': pairs.two,
    'transpose': transpose,
    'reshape': reshape,
    'squeeze': reshape,
    'expand_dims': reshape,
    'broadcast_in_dim': broadcast_in_dim,
    'pad': pad,
}
"""By primitive; 'two' combines two results element by element."""
