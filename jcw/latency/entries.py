"""The unknowns of a latency table: one entry per layer signature of a graph, and which network uses which.

A convolution between two widths, a gate or a classifier is a *layer*. An operation of a single width joins one: a
depthwise convolution, a pool or the mean the layer that reads it, as runtimes work through one after the other; a sum
the layer that wrote its last term, into which runtimes fuse it, so that it goes where that layer is dropped.
"""

import dataclasses
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jcw.field import Field
from jcw.graph import Graph, Operation, Width

SampleChoices = Int[np.ndarray, 'samples sites']


class Signature(NamedTuple):
    """What determines a layer's time: layers with equal signatures share one entry of a latency table."""

    kind: str  # its operations in order, such as 'depthwise3/2:relu conv1:relu': kernel, stride, any pads, activation
    height: int  # of the layer's input
    width: int  # of the layer's input
    in_channels: int
    out_channels: int


class Work(NamedTuple):
    """What a layer does for one image, in its deployed form: normalisation folded into weights and biases."""

    depthwise: float  # multiply-adds
    pointwise: float  # multiply-adds of 1x1 convolutions, gates and the classifier
    spatial: float  # multiply-adds of larger convolutions
    activations: float  # numbers read and written
    parameters: float  # weights and biases


class Layer(NamedTuple):
    """Operations that are timed together.

    Attributes:
      operations: their places in the graph, in order.
      anchor: place of the one that has two widths.
      ends: the two widths.
    """

    operations: tuple[int, ...]
    anchor: int
    ends: tuple[Width, Width]


def layers_of(graph: Graph) -> tuple[Layer, ...]:
    """Divide a graph's operations, the images left out, into layers.

    Raises:
      ValueError: an operation of a block that may be dropped is timed with one that stays.
    """
    joined: dict[int, list[int]] = {
        place: [place] for place, op in enumerate(graph.operations) if _ends(graph, op) is not None
    }
    for place, op in enumerate(graph.operations[1:], 1):
        if place in joined:
            continue
        anchor = _anchor(graph, place, joined)
        if graph.drops[place] - graph.drops[anchor] and op.kind != 'add':
            raise ValueError(
                f'operation {op.name!r} would be timed with {graph.operations[anchor].name!r}, '
                f'which stays where site {min(graph.drops[place])!r} is 0'
            )
        joined[anchor].append(place)
    layers = []
    for anchor, places in sorted(joined.items()):
        ends = _ends(graph, graph.operations[anchor])
        assert ends is not None
        layers.append(Layer(tuple(sorted(places)), anchor, ends))
    return tuple(layers)


def _ends(graph: Graph, op: Operation) -> tuple[Width, Width] | None:
    """Return the two widths of an operation; none if it has only one."""
    if op.kind in ('conv', 'dense'):
        return graph.operations[op.reads[0]].out, op.out
    return (op.out, op.inner) if op.kind == 'gate' and isinstance(op.inner, str) else None


def _anchor(graph: Graph, place: int, anchors: dict[int, list[int]]) -> int:
    if graph.operations[place].kind == 'add':
        before = place
        while before > 0 and before not in anchors:
            before = graph.operations[before].reads[-1]
        if before in anchors and graph.operations[before].kind == 'conv':
            return before
    while place not in anchors:
        place = graph.readers[place][0]
    return place


@dataclasses.dataclass(frozen=True)
class Entries:
    """All layer signatures of a graph, each counted once, however many layers and widths share it."""

    graph: Graph

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        return layers_of(self.graph)

    @cached_property
    def index(self) -> Int[np.ndarray, 'layers choices choices']:
        """Entry of each (layer, choice of its first end, of its second); -1 where the layer is absent or dropped.

        A number of channels has the only choice 0. Where both ends are one site, only the diagonal is used.
        """
        most = max(int(self.graph.num_choices.max(initial=1)), 1)
        index = np.full((len(self.layers), most, most), -1, np.int32)
        known: dict[Signature, int] = {}
        for number, layer in enumerate(self.layers):
            first, second = (self._widths(end) for end in layer.ends)
            same = layer.ends[0] == layer.ends[1] and isinstance(layer.ends[0], str)
            for i, a in enumerate(first):
                for j, b in enumerate(second):
                    if a and b and (i == j or not same):
                        index[number, i, j] = known.setdefault(signature(self.graph, layer, a, b), len(known))
        return index

    @cached_property
    def all(self) -> tuple[Signature, ...]:
        """Every signature, in order of its entry."""
        return tuple(signature(self.graph, layer, a, b) for layer, a, b in self._examples)

    @cached_property
    def _examples(self) -> tuple[tuple[Layer, int, int], ...]:
        """A layer and two widths that have each signature."""
        found: dict[int, tuple[Layer, int, int]] = {}
        for number, i, j in np.argwhere(self.index >= 0):
            layer = self.layers[number]
            example = layer, self._widths(layer.ends[0])[i], self._widths(layer.ends[1])[j]
            found.setdefault(int(self.index[number, i, j]), example)
        return tuple(found[entry] for entry in range(len(found)))

    def __len__(self) -> int:
        return int(self.index.max()) + 1

    def used(self, choices: Int[np.ndarray, '*samples sites']) -> Int[np.ndarray, '*samples layers']:
        """Look up the entries that networks use, one per layer; -1 for a layer that is dropped."""
        choices = self.graph.settled(choices)
        none = np.zeros((*choices.shape[:-1], 1), choices.dtype)
        padded = np.concatenate([choices, none], -1)
        places = np.array([[self._site(end) for end in layer.ends] for layer in self.layers])
        return self.index[np.arange(len(self.layers)), padded[..., places[:, 0]], padded[..., places[:, 1]]]

    def incidence(self, choices: SampleChoices) -> Float[np.ndarray, 'samples signatures']:
        """Count how often each network uses each entry; latency = incidence @ table."""
        matrix = np.zeros((len(choices), len(self) + 1), np.float32)
        np.add.at(matrix, (np.arange(len(choices))[:, None], self.used(choices)), 1)
        return matrix[:, :-1]

    @cached_property
    def monotone_pairs(self) -> Int[np.ndarray, 'pairs 2']:
        """Pairs (narrower, wider) that differ by one step of the input or of the output width."""
        along_output = np.stack([self.index[:, :, :-1], self.index[:, :, 1:]], -1).reshape(-1, 2)
        along_input = np.stack([self.index[:, :-1], self.index[:, 1:]], -1).reshape(-1, 2)
        along_both = np.stack([self.index[:, :-1, :-1], self.index[:, 1:, 1:]], -1)
        same = [n for n, layer in enumerate(self.layers) if layer.ends[0] == layer.ends[1]]
        pairs = np.concatenate([along_output, along_input, along_both[same].reshape(-1, 2)])
        return np.unique(pairs[(pairs >= 0).all(-1)], axis=0)

    @cached_property
    def work(self) -> Float[np.ndarray, 'signatures 5']:
        """Work of every entry, in the order of `Work`'s fields."""
        return np.array([work_of(self.graph, *example) for example in self._examples], np.float64)

    @cached_property
    def launches(self) -> Float[np.ndarray, 'signatures kinds']:
        """How many operations of each kind every entry has, but for the classifier's, of which there is one."""
        layers = [layer for layer, _, _ in self._examples]
        kinds = ('conv', 'depthwise', 'add', 'gate', 'max_pool')
        counts = [
            [sum(self.graph.operations[p].kind == k for p in layer.operations) for k in kinds]
            for layer in layers
        ]
        return np.array(counts, np.float64)

    @cached_property
    def peaks(self) -> Float[np.ndarray, ' signatures']:
        """The most numbers that one operation of every entry reads and writes for one image."""
        return np.array(
            [
                max(_moved(self.graph, place, layer, a, b) for place in layer.operations)
                for layer, a, b in self._examples
            ],
            np.float64,
        )

    @cached_property
    def channels(self) -> Float[np.ndarray, ' signatures']:
        """How many channels of every entry have a bias."""
        return np.array([_biases(self.graph, *example) for example in self._examples], np.float64)

    def to_field(self, entries: Float[np.ndarray, ' signatures'], base: float) -> Field:
        """Arrange a table's entries as potentials whose score is `base` plus their sum."""
        graph, most = self.graph, self.index.shape[-1]
        values = np.append(entries, 0.0)[self.index]
        unary = np.where(graph.present, 0.0, -np.inf)
        unary[0] += base
        factors = {scope: number for number, scope in enumerate(graph.scopes)}
        tables = np.zeros((len(factors), most, most))
        for layer, table in zip(self.layers, values, strict=True):
            first, second = (self._site(end) for end in layer.ends)
            if first >= 0 and second >= 0 and first != second:
                tables[factors[min(first, second), max(first, second)]] += (
                    table if first < second else table.T
                )
            elif first == second and first >= 0:
                unary[first] += np.diag(table)
            elif max(first, second) >= 0:
                unary[max(first, second)] += table[:, 0] if first >= 0 else table[0]
            else:
                unary[0] += table[0, 0]
        return Field(unary, tables, graph.scopes)

    def _site(self, end: Width) -> int:
        """Return the place of a site, -1 for a number."""
        return self.graph.site_index[end] if isinstance(end, str) else -1

    def _widths(self, end: Width) -> tuple[int, ...]:
        return self.graph.sites[self.graph.site_index[end]].choices if isinstance(end, str) else (end,)


def signature(graph: Graph, layer: Layer, in_channels: int, out_channels: int) -> Signature:
    """Return the signature of a layer between two widths."""
    operations = [graph.operations[place] for place in layer.operations]
    height, width = graph.sizes[operations[0].reads[0]]
    return Signature(' '.join(map(_label, operations)), height, width, int(in_channels), int(out_channels))


def _label(op: Operation) -> str:
    side = str(op.kernel) if op.kind in ('conv', 'depthwise', 'max_pool') else ''
    step = f'/{op.stride}' if op.stride > 1 else ''
    opening = f':{op.opening}' if op.kind == 'gate' and op.opening != 'hard_sigmoid' else ''
    pads = f'p{".".join(str(n) for pair in op.pads for n in pair)}' if op.pads else ''
    return f'{op.kind}{side}{step}{pads}{f":{op.activation}" if op.activation else ""}{opening}'


def work_of(graph: Graph, layer: Layer, in_channels: int, out_channels: int) -> Work:
    """Count a layer's multiply-adds, activations and parameters; padding counts as if it were map."""
    total = np.zeros(len(Work._fields))
    for place in layer.operations:
        op = graph.operations[place]
        inputs, outputs = _channels(graph, place, layer, in_channels, out_channels)
        height, width = graph.sizes[place]
        positions, window = height * width, op.kernel * op.kernel
        moved = _moved(graph, place, layer, in_channels, out_channels)
        if op.kind == 'depthwise':
            weights = window * outputs
            total += Work(positions * weights, 0, 0, moved, weights + outputs)
        elif op.kind in ('conv', 'dense'):
            weights = window * inputs * outputs
            dense = positions * weights
            parts = (dense, 0) if op.kernel == 1 else (0, dense)
            total += Work(0, *parts, moved, weights + outputs)
        elif op.kind == 'gate':
            inner = op.inner if isinstance(op.inner, int) else out_channels
            total += Work(0, 2 * inputs * inner, 0, moved, 2 * inputs * inner + inputs + inner)
        else:
            total += Work(0, 0, 0, moved, 0)
    return Work(*map(float, total))


def _biases(graph: Graph, layer: Layer, in_channels: int, out_channels: int) -> int:
    total = 0
    for place in layer.operations:
        op = graph.operations[place]
        outputs = _channels(graph, place, layer, in_channels, out_channels)[1]
        if op.kind in ('conv', 'depthwise', 'dense'):
            total += outputs
        elif op.kind == 'gate':
            total += outputs + (op.inner if isinstance(op.inner, int) else out_channels)
    return total


def _channels(graph: Graph, place: int, layer: Layer, in_channels: int, out_channels: int) -> tuple[int, int]:
    """Return the channels that an operation of a layer reads and writes."""
    op = graph.operations[place]
    if place == layer.anchor and op.kind != 'gate':
        return in_channels, out_channels
    channels = in_channels if op.out == layer.ends[0] else out_channels
    return channels, channels


def _moved(graph: Graph, place: int, layer: Layer, in_channels: int, out_channels: int) -> int:
    """Return how many numbers an operation reads and writes."""
    op = graph.operations[place]
    inputs, outputs = _channels(graph, place, layer, in_channels, out_channels)
    read, write = (height * width for height, width in (graph.sizes[op.reads[0]], graph.sizes[place]))
    return len(op.reads) * read * inputs + write * outputs
