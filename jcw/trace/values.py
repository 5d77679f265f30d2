"""What stands in the place of an array that depends on the images: an expression, and which axis is which."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from jcw.trace.expressions import Expression

Axes = tuple[tuple[str, ...], ...]
"""For each axis of an array its roles: of ('n', 'h', 'w', 'c') the ones it runs over, in order.

None where its length is 1; ('?',) where it only repeats.
"""


class Value(NamedTuple):
    """An array that depends on the images.

    Attributes:
      expression: what it is, channel by channel.
      axes: their roles.
      sizes: length of each role.
      pads: how many numbers `padding` were put around rows and columns.
      seen: the array itself, where the program is run, too.
    """

    expression: Expression
    axes: Axes
    sizes: dict[str, int]
    pads: tuple[tuple[int, int], tuple[int, int]] | None = None
    padding: float = 0.0
    seen: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(math.prod(self.sizes.get(role, 1) for role in roles) for roles in self.axes)


def reshaped(value: Value, shape: Sequence[int]) -> Value | None:
    """Join axes, take joined ones apart, and put in or leave out those of length 1; none where that is not all."""
    roles = [role for axis in value.axes for role in axis]
    if '?' in roles:
        return None
    axes: list[tuple[str, ...]] = []
    for size in shape:
        taken: list[str] = []
        while roles and math.prod(value.sizes[role] for role in taken) < size:
            taken.append(roles.pop(0))
        if math.prod(value.sizes[role] for role in taken) != size:
            return None
        axes.append(tuple(taken))
    return None if roles else value._replace(axes=tuple(axes))


def broadcast(value: Value, shape: Sequence[int], places: Sequence[int]) -> Value:
    """Put axes at their places among those of a larger array."""
    axes: list[tuple[str, ...]] = [('?',) if size > 1 else () for size in shape]
    for place, roles, size in zip(places, value.axes, value.shape, strict=True):
        if size == shape[place] or roles == ('?',):
            axes[place] = roles
    sizes = {role: value.sizes[role] for roles in axes for role in roles if role != '?'}
    return value._replace(axes=tuple(axes), sizes=sizes)


def agreed(values: Sequence[Value]) -> tuple[Axes, dict[str, int]] | None:
    """Return the axes of arrays that are combined element by element; none if they do not agree."""
    axes = []
    for roles in zip(*(value.axes for value in values), strict=True):
        known = {r for r in roles if r not in ((), ('?',))}
        if len(known) > 1:
            return None
        axes.append(known.pop() if known else max(roles))
    sizes: dict[str, int] = {}
    for value in values:
        sizes |= value.sizes
    return tuple(axes), sizes


def channels_of(array: Any, axes: Axes) -> Any | None:
    """Return the number of each channel, [channels] or [], of a known array beside one with these axes.

    None where it varies along another axis.
    """
    if array.ndim == 0:
        return array
    at: list[bool] = []
    for roles, length, stride in zip(axes, array.shape, array.strides, strict=True):
        whole = roles == ('c',)
        if not whole and length > 1 and stride != 0 and (array != array.take([0], len(at))).any():
            return None
        array = array if whole else array.take([0], len(at))
        at.append(whole)
    return array.reshape(-1) if any(at) else array.reshape(())
