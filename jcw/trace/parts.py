"""Arithmetic joins the operation it follows: a convolution, its normalisation and its activation are one."""

import heapq
from collections import Counter
from typing import NamedTuple

import numpy as np

from jcw.operations import ACTIVATIONS
from jcw.trace.expressions import IDENTITY, Affine
from jcw.trace.nodes import FOLDED, Node


class Part(NamedTuple):
    """An operation of the graph to be: what was read, and the arithmetic after it that it does as well."""

    node: Node
    reads: tuple[Node, ...]
    affine: Affine
    activation: str | None
    last: Node  # whose result it is


def parts_of(output: Node) -> list[Part]:
    """Join arithmetic with the operations it follows, where nothing else reads them."""
    _share(_reachable(output))
    order = _reachable(output)
    readers = Counter(read for node in order for read in set(node.reads))
    joined: dict[Node, Node] = {}
    for node in order:
        if node.kind != 'pointwise':
            continue
        (read,), plain = node.reads, node.affine is not None and node.affine.changes_nothing
        usable = node.activation is None or node.activation in ACTIVATIONS
        joins = read.kind in ('conv', 'depthwise', 'dense') or (read.kind == 'add' and plain)
        if usable and joins and readers[read] == 1:
            joined[read] = node
    parts = []
    for node in order:
        if node.kind == 'sum':
            raise ValueError(
                f'{node.where}: a sum over rows or columns alone is only read where it leads to the mean'
            )
        if node in joined.values():
            continue
        after = joined.get(node)
        source = after or node
        own = source.kind == 'pointwise'
        affine = source.affine if own and source.affine is not None else IDENTITY
        activation = source.activation if own else None
        if activation is not None and activation not in ACTIVATIONS:
            raise ValueError(f'{source.where}: {activation} is known as what opens a gate, and only there')
        if affine.normalises and (node.kind == 'dense' or node.size is None):
            node.note = '; '.join(filter(None, (node.note, FOLDED)))
        parts.append(Part(node, node.reads, affine, activation, source))
    return parts


def _share(order: list[Node]) -> None:
    """Let arithmetic on one convolution that begins alike, as with its bias, begin with one operation."""
    readers: dict[Node, list[Node]] = {}
    for node in order:
        for read in dict.fromkeys(node.reads):
            readers.setdefault(read, []).append(node)
    for read, own in readers.items():
        first = next((node for node in own if node.kind == 'pointwise' and node.activation is None), None)
        if first is None or len(own) == 1 or any(node.kind != 'pointwise' for node in own):
            continue
        once = first.affine or IDENTITY
        a, b = once[:2]
        if read.kind not in ('conv', 'depthwise') or not np.all(a):
            continue
        for node in own:
            again = once.normalises and not node.variables >= first.variables
            if node is first or node.affine is None or again:
                continue  # of two normalisations each is one of the convolution
            factor, shift, mean, variance, before = node.affine
            node.affine = Affine(factor / a, shift - factor * b / a)
            if not once.normalises and mean is not None and variance is not None and before is not None:
                node.affine = Affine(*node.affine[:2], a * mean + b, a * a * variance, before / a)
            node.reads = (first,)


def _reachable(output: Node) -> list[Node]:
    """Return the operations that an output needs, each after those it reads, else in the order they were read in."""
    readers: dict[Node, set[Node]] = {output: set()}
    stack = [output]
    while stack:
        node = stack.pop()
        for read in node.reads:
            if read not in readers:
                stack.append(read)
            readers.setdefault(read, set()).add(node)
    waiting = {node: len(set(node.reads)) for node in readers}
    ready = [(node.number, node) for node in readers if not waiting[node]]
    order = []
    while ready:
        _, node = heapq.heappop(ready)
        order.append(node)
        for reader in readers[node]:
            waiting[reader] -= 1
            if not waiting[reader]:
                heapq.heappush(ready, (reader.number, reader))
    return order
