"""From operations as they were read to a graph: channels are followed, and equal widths become sites."""

from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np

from jcw.builder import round_width
from jcw.graph import NORMALISED, Graph, Operation, Site, Width
from jcw.trace.nodes import Node
from jcw.trace.parts import Part


class Multipliers(NamedTuple):
    """Between which multiples of its base width a site may be, and in how many steps; see `jcw.graph.build`."""

    min_multiplier: float
    max_multiplier: float
    levels: int
    divisor: int


class Ties:
    """Which operations have equal widths: union-find over them."""

    def __init__(self) -> None:
        self._parent: dict[Any, Any] = {}
        self.frozen: dict[Any, str] = {}

    def find(self, key: Any) -> Any:
        while self._parent.setdefault(key, key) is not key:
            key = self._parent[key]
        return key

    def tie(self, a: Any, b: Any) -> None:
        """Say that two widths are one."""
        first, second = self.find(a), self.find(b)
        if first is not second:
            self._parent[second] = first
            if second in self.frozen:
                self.frozen.setdefault(first, self.frozen.pop(second))

    def freeze(self, key: Any, why: str) -> None:
        self.frozen.setdefault(self.find(key), why)


def ties_of(parts: list[Part]) -> Ties:
    """Follow channels from operation to operation."""
    ties = Ties()
    for part in parts:
        node = part.node
        own = node.kind in ('images', 'conv', 'dense')
        for read in part.reads if not own else ():
            ties.tie(_key(read), _key(node))
        if part.last is not node:
            ties.tie(_key(node), _key(part.last))
    for part in parts:
        if part.node.kind == 'images':
            ties.freeze(_key(part.node), 'the channels of the images')
        for node in (part.node, part.last):
            if node.frozen:
                ties.freeze(_key(node), node.frozen)
    ties.freeze(_key(parts[-1].node), 'the classes')
    return ties


def _key(node: Node) -> tuple[str, int]:
    return 'out', id(node)


def graph_of(
    parts: list[Part], input_shape: tuple[int, int, int], multipliers: Multipliers, freeze: Collection[str]
) -> Graph:
    """Build the graph; a width that cannot vary is a number, and the operation's note says why.

    Raises:
      ValueError: no width can vary, a name in `freeze` is no site, or the graph cannot be searched.
    """
    ties, places = ties_of(parts), {id(part.last): place for place, part in enumerate(parts)}
    names, sites, why = _Names(), dict[Any, Site](), dict[Any, str]()

    def width(key: Any, base: int, scope: str, place: int, kind: str) -> tuple[Width, str]:
        root, base = ties.find(key), int(base)
        if root in ties.frozen:
            return base, f'frozen: {ties.frozen[root]}'
        if root not in sites and root not in why:
            name, options = names.of(scope or f'{kind}_{place}'), choices_of(base, multipliers)
            if name in freeze:
                why[root] = f'site {name!r} is frozen, as asked'
            elif len(options) == 1:
                why[root] = (
                    f'of {base} channels no other multiple of {multipliers.divisor} lies between '
                    f'{multipliers.min_multiplier} and {multipliers.max_multiplier} of them'
                )
            else:
                sites[root] = Site(name, base, options)
        return (sites[root].name, '') if root in sites else (base, f'frozen: {why[root]}')

    operations = []
    for place, part in enumerate(parts):
        node = part.node
        inner, inner_note = None, ''
        if node.kind == 'gate':
            assert node.inner is not None
            size, scope = int(node.inner[0][0].shape[1]), f'{node.scope}/inner' if node.scope else ''
            inner, why_inner = width(('inner', id(node)), size, scope, place, 'inner')
            inner_note = why_inner and f'inner layer {why_inner}'
        out, note = width(_key(node), node.channels, node.scope, place, node.kind)
        kind = _kind(node)
        operations.append(
            Operation(
                'images' if kind == 'images' else f'{place:03d}_{kind}',
                kind,
                tuple(places[id(read)] for read in part.reads),
                out,
                kernel=int(node.side) if kind in ('conv', 'depthwise', 'max_pool') else 1,
                stride=int(node.stride),
                pads=node.pads,
                norm=kind not in NORMALISED or part.affine.normalises,
                activation=node.activation if kind == 'gate' else part.activation,
                inner=inner,
                opening=node.opening,
                note='; '.join(filter(None, (node.note, note, inner_note))) if place else '',
            )
        )
    _check(sites, freeze, names, ties.frozen | why)
    return Graph(tuple(sites.values()), tuple(operations), input_shape)


def choices_of(base: int, multipliers: Multipliers) -> tuple[int, ...]:
    """Return multiples of a base width; none beyond it unless a multiplier is, so that its variables hold them all."""
    most = np.inf if multipliers.max_multiplier > 1 else base
    steps = np.linspace(multipliers.min_multiplier, multipliers.max_multiplier, multipliers.levels)
    found = {round_width(base * step, multipliers.divisor) for step in steps}
    return tuple(sorted({width for width in found if width <= most} | {base}))


def _check(sites: dict, freeze: Collection[str], names: '_Names', frozen: dict) -> None:
    unknown = sorted(set(freeze) - set(names.taken))
    if unknown:
        raise ValueError(f'freeze: {unknown[0]!r} is no site; there are {", ".join(names.taken)}')
    if not sites:
        reasons = '; '.join(dict.fromkeys(frozen.values()))
        raise ValueError(f'none of the widths of this network can vary: {reasons}')


def _kind(node: Node) -> str:
    """Return the kind that does what a node does: arithmetic by itself is a depthwise operation, or a product."""
    if node.kind == 'pointwise':
        return 'dense' if node.size is None else 'depthwise'
    return node.kind


class _Names:
    """Names of sites, each used once."""

    def __init__(self) -> None:
        self.taken: list[str] = []

    def of(self, wanted: str) -> str:
        name, number = wanted, 2
        while name in self.taken:
            name, number = f'{wanted}_{number}', number + 1
        self.taken.append(name)
        return name
