"""The network as it is read: operations, and arithmetic on their results that becomes operations when it is needed."""

import dataclasses
from typing import Any

import numpy as np

from jcw.trace.elementwise import REFUSED
from jcw.trace.expressions import Affine, Expression, activation_of
from jcw.trace.moments import moments_of
from jcw.windows import Pads

FOLDED = 'a normalisation is part of its weights: training does not normalise there any more'
"""Said where a graph has no normalisation: after products of vectors, and within gates."""
RISING = ('relu', 'relu6')
"""Activations that never fall."""


@dataclasses.dataclass(eq=False)
class Node:
    """An operation as it was read.

    Attributes:
      kind: 'images', 'conv', 'depthwise', 'pointwise' (scale, shift and activation), 'add', 'gate', 'max_pool',
        'mean', 'dense', or 'sum' over one axis of positions, which another must follow.
      reads: the operations it reads.
      channels: how many it has.
      size: height and width of its result; none for a vector.
      where: primitive, shapes and line.
      number: place among all that were read.
      kernel: (k, k, in, out), of 'depthwise' (k, k, out), of 'dense' (in, out).
      bias: of 'dense'.
      side, stride, pads: of windows, the last none for those of 'SAME'.
      affine: of 'pointwise'; `variables` are the arrays, by `id`, that it comes from.
      activation: of 'pointwise'; a gate's inner one.
      inner: of a gate, its two products.
      frozen: why its channels cannot be searched.
      note: what else there is to say about it.
      scope: name of the module it comes from.
      seen: see `Expression`.
    """

    kind: str
    reads: 'tuple[Node, ...]'
    channels: int
    size: tuple[int, int] | None
    where: str
    number: int = 0
    kernel: np.ndarray | None = None
    bias: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(()))
    side: int = 1
    stride: int = 1
    pads: Pads | None = None
    affine: Affine | None = None
    variables: frozenset = frozenset()
    activation: str | None = None
    opening: str = 'hard_sigmoid'
    inner: 'tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]] | None' = None
    frozen: str = ''
    note: str = ''
    scope: str = ''
    seen: Any = None


class Nodes:
    """All operations read so far, in order."""

    def __init__(self) -> None:
        self.all: list[Node] = []
        self._of: dict[int, Expression] = {}  # by id of the expressions that became operations
        self._kept: list[Expression] = []  # so that no id is used again

    def append(self, kind: str, *reads: Node, **attributes: Any) -> Node:
        """Append an operation."""
        node = Node(kind, reads, number=len(self.all), **attributes)
        self.all.append(node)
        return node

    def current(self, expression: Expression) -> Expression:
        """Return an expression in which what became operations are leaves."""
        return expression.replaced(self._of)

    def node_of(self, expression: Expression) -> Node:
        """Return the operation whose result an expression is; what was arithmetic becomes one.

        Raises:
          ValueError: the arithmetic is no normalisation and no activation that is known.
        """
        found = self._recognised(self.current(expression))
        self._of[id(expression)] = found
        self._kept.append(expression)
        return found.node

    def _recognised(self, expression: Expression) -> Expression:
        """Make operations of a formula, from the outermost activation in it on inwards."""
        if expression.node is not None:
            return expression
        if len(expression.leaves) != 1:
            return self._sum(expression)
        (read,) = expression.leaves
        for total in expression.parts:
            if own := _normalised_term(total, read):
                self.node_of(own)
                self.node_of(total)
                return self._recognised(self.current(expression))
        if expression.affine is not None:
            return self._pointwise(read, _normalising(expression, read), None, expression)
        first = _normalised(expression, read) or expression
        found = activation_of(first, read.channels)
        if found is not None and first is expression:
            return self._pointwise(read, _normalising(found[1], read), found[0], expression)
        if found is None and (other := activation_of(first, read.channels, REFUSED)):
            raise _refusal(expression, f'is {other[0]}')
        activated = (p for p in reversed(first.parts) if p.degree is None and activation_of(p, read.channels))
        part = next(activated, None)
        if part is None:
            raise _refusal(expression, 'ends arithmetic that is no normalisation')
        # It may meet what it is of: their sum is a residual, no other formula is known.
        leaf = Expression(node=part)
        met = (p for p in expression.parts if len(p.replaced({id(part): leaf}).leaves) > 1)
        both = next(met, None)
        if both is not None and both.name not in ('add', 'add_any'):
            raise _refusal(expression, 'ends arithmetic that is no normalisation')
        for one in (part, both) if both else (part,):
            self.node_of(one)
        return self._recognised(self.current(expression))

    def _sum(self, expression: Expression) -> Expression:
        """Append the sum of two results that were one formula until one of them became an operation."""
        if expression.name not in ('add', 'add_any'):
            raise ValueError(
                f'{expression.where} combines {len(expression.leaves)} operations in one formula'
            )
        reads = [self.node_of(arg) for arg in expression.args]
        if None in (read.size for read in reads):
            raise ValueError(f'{expression.where}: vectors cannot be added, only maps of one size')
        settings: dict[str, Any] = {'channels': reads[0].channels, 'size': reads[0].size}
        node = self.append('add', *reads, where=expression.where, seen=expression.seen, **settings)
        return Expression(node=node)

    def _pointwise(
        self, read: Node, affine: Affine, activation: str | None, expression: Expression
    ) -> Expression:
        if activation is None and affine.changes_nothing:
            return Expression(node=read)
        if read.kind == 'max_pool' and activation in RISING and affine.changes_nothing:
            # The greatest of activated numbers is the greatest number, activated: so what the pool reads does it.
            of, unseen = read.reads[0], dataclasses.replace(expression, seen=None)
            if of.affine is not None and of.activation is None:
                affine, of = of.affine, of.reads[0]
            before = self._pointwise(of, affine, activation, unseen)
            pool = dataclasses.replace(read, reads=(before.node,), number=len(self.all), seen=expression.seen)
            self.all.append(pool)
            return Expression(node=pool)
        for node in self.all:
            alike = node.reads == (read,) and node.activation == activation
            if alike and node.variables == expression.variables and _equal(affine, node.affine):
                return Expression(node=node)
        node = self.append(
            'pointwise',
            read,
            channels=read.channels,
            size=read.size,
            where=expression.where,
            affine=affine,
            variables=expression.variables,
            activation=activation,
            seen=expression.seen,
        )
        return Expression(node=node)


def _refusal(expression: Expression, what: str) -> ValueError:
    return ValueError(
        f'{expression.where} {what}, and none of the activations ReLU, ReLU6, hard-swish, SiLU, sigmoid and '
        'hard-sigmoid'
    )


def _normalising(part: Expression, read: Node) -> Affine:
    """Return what a part does to the operation it is of, with its moments where that is to normalise."""
    assert part.affine is not None
    moments = moments_of(part, read.channels)
    return part.affine if moments is None else Affine(*part.affine[:2], *moments)


def _normalised_term(part: Expression, read: Node) -> Expression | None:
    """Return the normalisation in a sum of an operation's result with a normalisation of itself."""
    if part.name not in ('add', 'add_any') or any(arg.degree != 1 for arg in part.args):
        return None
    return next((arg for arg in part.args if moments_of(arg, read.channels) is not None), None)


def _normalised(expression: Expression, read: Node) -> Expression | None:
    """Return what is normalised within an expression after it was activated.

    That becomes an operation first: with moments of 0 and 1 the normalisation would pass for nothing at all.
    """
    for part in expression.parts:
        for inner in part.parts[:-1]:
            if inner.degree is None:
                outer = part.replaced({id(inner): Expression(node=inner)})
                if outer.leaves == {inner} and outer.degree and moments_of(outer, read.channels) is not None:
                    return inner
    return None


def _equal(a: Affine, b: Affine | None) -> bool:
    pairs = () if b is None else zip(a, b, strict=True)
    return b is not None and all(x is y or np.array_equal(np.asarray(x), np.asarray(y)) for x, y in pairs)
