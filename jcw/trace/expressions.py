"""Arithmetic on one operation's result, channel by channel, until something needs it as an operation of its own.

An expression is a tree of elementwise functions over leaves. One that only scales and shifts is a normalisation; one
that equals an activation at a thousand points, whatever it is made of, is that activation.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from jcw.trace.elementwise import RECOGNISED
from jcw.trace.known import Known, inner_first

POINTS = np.concatenate([np.linspace(-9, 9, 145), [-400.0, -50.0, -12.0, 12.0, 50.0, 400.0]])
"""Where an expression is compared with the activations: between and beyond all their corners."""
MOST = 64  # numbers in an expression around which it is compared as well: its own corners, if it has others
EXACT = 1e-5  # relative; constants such as 1/6 are float32


class Affine(NamedTuple):
    """`factor * x + shift`, [channels] or []; where this is a normalisation, of what.

    Attributes:
      mean, variance: of `x`, the latter with epsilon.
      before: what `x` is multiplied by first, so that epsilon is added to `before ** 2` times its variance.
    """

    factor: np.ndarray
    shift: np.ndarray
    mean: np.ndarray | None = None
    variance: np.ndarray | None = None
    before: np.ndarray | None = None

    @property
    def normalises(self) -> bool:
        return self.mean is not None

    @property
    def changes_nothing(self) -> bool:
        same = np.all(np.abs(self.factor - 1) < 1e-6) and np.all(self.shift == 0)
        return bool(same and not self.normalises)


IDENTITY = Affine(np.ones(()), np.zeros(()))
LINEAR = ('add', 'add_any', 'sub', 'mul', 'div', 'neg', 'select_n')


@dataclasses.dataclass(eq=False)
class Expression:
    """A leaf (`node`), known numbers (`value`), or a function of other expressions.

    Attributes:
      node: the operation whose result a leaf is.
      value: numbers of each channel, or one of all.
      known: the array that they are of, and the roles of its `axes`.
      name: the primitive.
      where: what to tell the user about it.
      seen: the array that the original function has here, and the roles of its axes, where it was run.
    """

    node: Any = None
    value: np.ndarray | None = None
    known: Known | None = None
    axes: Any = None
    name: str = ''
    function: Callable[..., Any] | None = None
    args: 'tuple[Expression, ...]' = ()
    where: str = ''
    seen: Any = None

    @cached_property
    def leaves(self) -> frozenset:
        return frozenset(part.node for part in self.parts if part.node is not None)

    @cached_property
    def variables(self) -> frozenset:
        """The arrays, by `id`, that its numbers come from."""
        known = [part.known for part in self.parts if part.known is not None]
        return frozenset(id(k) for own in known for k in own.parts() if not k.operands and np.ndim(k.value))

    @cached_property
    def degree(self) -> int | None:
        """0 of known numbers, 1 of what only scales and shifts its leaf; none of the rest."""
        if self.node is not None or self.value is not None:
            return int(self.node is not None)
        for part in self.parts[:-1]:  # from the inner ones on: a chain may be longer than calls within calls
            _ = part.degree
        degrees = [degree for arg in self.args if (degree := arg.degree) is not None]
        if self.name not in LINEAR or len(degrees) < len(self.args):
            return None
        if self.name == 'select_n':
            return None if degrees[0] else max(degrees)
        total = sum(degrees) if self.name in ('mul', 'div') else max(degrees)
        return total if total < 2 and not (self.name == 'div' and degrees[1]) else None

    @cached_property
    def affine(self) -> Affine | None:
        """What it does to its only leaf, if that is to scale and to shift."""
        if not self.degree:
            return None
        shift = np.asarray(self.at(np.zeros(())), np.float64)
        return Affine(np.asarray(self.at(np.ones(())) - shift, np.float64), shift)

    @cached_property
    def parts(self) -> 'tuple[Expression, ...]':
        """Itself and all it is made of, each once, inner ones first."""
        return tuple(inner_first(self, lambda part: part.args))

    def at(self, x: Any, numbers: Mapping[int, Any] = MappingProxyType({})) -> Any:
        """Return its value where its only leaf is `x`, [points channels] or [points 1].

        Parts whose `id` is in `numbers` are these.
        """
        values: dict[int, Any] = {}
        with np.errstate(all='ignore'):
            for part in self.parts:
                if part.node is not None:
                    values[id(part)] = x
                elif id(part) in numbers:
                    values[id(part)] = numbers[id(part)]
                elif part.value is not None:
                    values[id(part)] = part.value
                else:
                    assert part.function is not None
                    values[id(part)] = part.function(*(values[id(arg)] for arg in part.args))
        return values[id(self)]

    def replaced(self, known: 'dict[int, Expression]') -> 'Expression':
        """Return it with some of its parts replaced by others, by their `id`; itself if it has none of them."""
        if not any(id(part) in known for part in self.parts):
            return self
        new: dict[int, Expression] = {}
        for part in self.parts:
            if id(part) in known:
                new[id(part)] = known[id(part)]
            elif any(new[id(arg)] is not arg for arg in part.args):
                args = tuple(new[id(arg)] for arg in part.args)
                new[id(part)] = Expression(
                    name=part.name, function=part.function, args=args, where=part.where, seen=part.seen
                )
            else:
                new[id(part)] = part
        return new[id(self)]


def activation_of(
    expression: Expression, channels: int, known: Mapping[str, Callable[..., Any]] = RECOGNISED
) -> 'tuple[str, Expression] | None':
    """Find the activation and the affine part whose activation an expression is, of one leaf.

    The part is replaced by points, so that channels which it maps to one number are told apart as well; where it was
    written down more than once, points are found that it maps to the wanted ones.
    """
    inner = [part for part in reversed(expression.parts) if part.affine is not None]
    points = _points(expression)[:, None]
    for part in inner:
        leaf = Expression(node=part)
        free = expression.replaced({id(part): leaf})
        if free.leaves == {part} and (name := _name_of(free.at(points), points, channels, known)):
            return name, part
    for part in inner:
        affine = part.affine
        assert affine is not None
        if np.all(affine.factor != 0):
            before = (points - affine.shift) / affine.factor
            reached = affine.factor * before + affine.shift
            if name := _name_of(expression.at(before), reached, channels, known):
                return name, part
    return None


def _points(expression: Expression) -> np.ndarray:
    """Return `POINTS` and others around and beyond the numbers that an expression has for all channels."""
    values = [part.value for part in expression.parts if part.value is not None]
    own = np.unique(np.concatenate([POINTS[:0], *(v.reshape(1) for v in values if v.size == 1)]))
    own = own[np.isfinite(own) & (np.abs(own) < 1e6)][:MOST]
    return np.concatenate(
        [POINTS, *(own * by + step for by in (1, -1) for step in (-0.01, 0, 0.01)), 2 * own, -2 * own]
    )


def _name_of(
    found: Any, reached: np.ndarray, channels: int, known: Mapping[str, Callable[..., Any]]
) -> str | None:
    found = np.broadcast_to(found, (len(reached), channels))
    with np.errstate(all='ignore'):
        matching = (name for name, function in known.items() if _equal(found, function(reached)))
        return next(matching, None)


def _equal(found: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.all(np.abs(found - expected) <= EXACT * (1 + np.abs(expected))))
