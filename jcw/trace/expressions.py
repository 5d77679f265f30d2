"""Arithmetic on one operation's result, channel by channel, until something needs it as an operation of its own.

An expression is a tree of elementwise functions over leaves. One that only scales and shifts is a normalisation; one
that equals an activation at a thousand points, whatever it is made of, is that activation.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from jcw.trace.elementwise import RECOGNISED
from jcw.trace.known import part_of_root

POINTS = np.concatenate([np.linspace(-9, 9, 145), [-400.0, -50.0, -12.0, 12.0, 50.0, 400.0]])
"""Where an expression is compared with the activations: between and beyond all their corners."""
MOST = 64  # numbers in an expression around which it is compared as well: its own corners, if it has others
EXACT = 1e-5  # relative; constants such as 1/6 are float32


class Affine(NamedTuple):
    """`factor * x + shift`, and a normalisation met on the way; float64 [channels] or [].

    Attributes:
      mean: that was subtracted, of `x`; none where nothing was, so that a root alone is no normalisation.
      variance: with epsilon, of `x`, if something of each channel was divided by a root.
      square: of that root, as it was written.
      offset: what was added to `x` before that division.
      centred: the factor, and the mean, where a mean was taken off last and the division is still to come.
    """

    factor: np.ndarray
    shift: np.ndarray
    mean: np.ndarray | None = None
    variance: np.ndarray | None = None
    square: np.ndarray | None = None
    offset: np.ndarray | None = None
    centred: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def normalises(self) -> bool:
        return self.mean is not None and self.variance is not None

    @property
    def changes_nothing(self) -> bool:
        return bool(np.all(np.abs(self.factor - 1) < 1e-6) and np.all(self.shift == 0))


IDENTITY = Affine(np.ones(()), np.zeros(()))


@dataclasses.dataclass(eq=False)
class Expression:
    """A leaf (`node`), known numbers (`value`), or a function of other expressions.

    Attributes:
      node: the operation whose result a leaf is.
      value: numbers of each channel, or one of all; `square`, `root`, `taken` and `negated` as in `Known`.
      name: the primitive.
      where: what to tell the user about it.
      seen: the array that the original function has here, and the roles of its axes, where it was run.
    """

    node: Any = None
    value: np.ndarray | None = None
    square: np.ndarray | None = None
    root: np.ndarray | None = None
    taken: np.ndarray | None = None
    negated: bool = False
    name: str = ''
    function: Callable[..., Any] | None = None
    args: 'tuple[Expression, ...]' = ()
    where: str = ''
    seen: Any = None

    @cached_property
    def leaves(self) -> frozenset:
        if self.node is not None:
            return frozenset([self.node])
        return frozenset().union(*(arg.leaves for arg in self.args))

    @cached_property
    def affine(self) -> Affine | None:
        """What it does to its only leaf, if that is to scale and to shift."""
        if self.node is not None:
            return IDENTITY
        if self.name not in ('add', 'add_any', 'sub', 'mul', 'div', 'neg'):
            return None
        terms: list[Affine | Expression] = []
        for arg in self.args:
            term = arg if arg.value is not None else arg.affine
            if term is None:
                return None
            terms.append(term)
        return _affine(self.name, *terms)

    @cached_property
    def parts(self) -> 'tuple[Expression, ...]':
        """Itself and all it is made of, each once, inner ones first."""
        found: dict[int, Expression] = {}

        def visit(part: Expression) -> None:
            if id(part) not in found:
                for arg in part.args:
                    visit(arg)
                found[id(part)] = part

        visit(self)
        return tuple(found.values())

    def at(self, x: Any) -> Any:
        """Return its value where its only leaf is `x`, [points channels] or [points 1]."""
        values: dict[int, Any] = {}
        with np.errstate(all='ignore'):
            for part in self.parts:
                if part.node is not None:
                    values[id(part)] = x
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
) -> tuple[str, Affine] | None:
    """Find the activation and the affine part of it whose activation an expression is, of one leaf.

    The part is replaced by points, so that channels which it maps to one number are told apart as well; where it was
    written down more than once, points are found that it maps to the wanted ones.
    """
    inner = [part for part in reversed(expression.parts) if part.affine is not None]
    points = _points(expression)[:, None]
    for part in inner:
        leaf = Expression(node=part)
        free = expression.replaced({id(part): leaf})
        if free.leaves == {part} and (name := _name_of(free.at(points), points, channels, known)):
            return name, _affine_of(part)
    for part in inner:
        affine = _affine_of(part)
        if np.all(affine.factor != 0):
            before = (points - affine.shift) / affine.factor
            reached = affine.factor * before + affine.shift
            if name := _name_of(expression.at(before), reached, channels, known):
                return name, affine
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


def _affine_of(part: Expression) -> Affine:
    assert part.affine is not None
    return part.affine


def _equal(found: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.all(np.abs(found - expected) <= EXACT * (1 + np.abs(expected))))


def _affine(name: str, *terms: 'Affine | Expression') -> Affine | None:
    """Combine affine terms of one leaf with known numbers."""
    first = terms[0]
    if name == 'neg' and isinstance(first, Affine):
        return first._replace(factor=-first.factor, shift=-first.shift)
    if name in ('add', 'add_any', 'sub'):
        return _sum(-1 if name == 'sub' else 1, *terms)
    known = [term for term in terms if not isinstance(term, Affine)]
    if len(known) != 1 or (name == 'div' and not isinstance(first, Affine)):
        return None
    (value,), (affine,) = known, [term for term in terms if isinstance(term, Affine)]
    factor = _value(value) if name == 'mul' else 1 / _value(value)
    scaled = affine._replace(factor=affine.factor * factor, shift=affine.shift * factor)
    if value.square is None or value.square.ndim == 0:
        return scaled
    if affine.centred is not None:
        by, mean = affine.centred
        return scaled._replace(
            mean=mean, variance=value.square / np.square(by), square=value.square, centred=None
        )
    if affine.variance is not None or not np.all(affine.factor != 0):
        return scaled
    # A scale may come before the root that it belongs to: a mean that follows will tell.
    return scaled._replace(variance=value.square, square=value.square, offset=affine.shift / affine.factor)


def _sum(sign: int, first: 'Affine | Expression', second: 'Affine | Expression') -> Affine:
    """Add, or subtract, affine terms of one leaf or known numbers."""
    a, b = (
        term if isinstance(term, Affine) else Affine(np.zeros(()), _value(term)) for term in (first, second)
    )
    total = Affine(a.factor + sign * b.factor, a.shift + sign * b.shift)
    if isinstance(first, Affine) == isinstance(second, Affine):
        return total
    own, known, by = (a, second, sign) if isinstance(first, Affine) else (b, first, 1)
    assert isinstance(known, Expression)
    total = total._replace(mean=own.mean, variance=own.variance, square=own.square, offset=own.offset)
    root, part = part_of_root(known)
    same = own.square is not None and np.array_equal(root, own.square)
    if part is not None and own.offset is not None and same:
        # Of channels that a scale of 0 hides, the mean is gone and does not matter.
        scale = np.where(total.factor == 0, 1, total.factor)
        return total._replace(mean=np.where(total.factor == 0, 0, -own.offset - by * part / scale))
    taken_off = own is a and (sign == -1 or known.negated) and _value(known).ndim > 0
    if taken_off and np.all(total.factor != 0):
        return total._replace(centred=(total.factor, -total.shift / total.factor))
    return total


def _value(expression: Expression) -> np.ndarray:
    assert expression.value is not None
    return expression.value
