"""Write a graph: a function appends operations to a builder and returns the logits.

def net(g):
    x = g.conv(g.images, g.site('stem', 32), kernel=3, stride=2)
    h = g.depthwise(g.conv(x, g.site('inner', 64)))
    x = g.add(x, g.conv(h, 'stem', activation=None))
    return g.classify(x)

graph = build(net, (32, 32, 3), 10)
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jcw.graph import Graph, Operation, Site, Width, dropped_by
from jcw.windows import Pads


class Builder:
    """What a network's function appends its operations to.

    Attributes:
      images: the operation to begin with.
      num_classes: outputs of the classifier.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        base_of: Callable[[int], int],
        choices_of: Callable[[int], tuple[int, ...]],
    ) -> None:
        self.images, self.num_classes, self.input_shape = 0, num_classes, input_shape
        self._base_of, self._choices_of = base_of, choices_of
        self._sites: dict[str, Site] = {}
        self._operations = [Operation('images', 'images', (), input_shape[2])]

    def site(self, name: str, base: int, choices: Sequence[int] | None = None) -> str:
        """Declare a searchable width and return its name; without `choices`, multiples of its base width.

        Raises:
          ValueError: the name is taken.
        """
        if name in self._sites:
            raise ValueError(f'site {name!r} is declared twice')
        if choices is None:
            base = self._base_of(base)
            choices = self._choices_of(base)
        self._sites[name] = Site(name, base, tuple(int(w) for w in choices))
        return name

    def width(self, x: int) -> Width:
        """Return the channels of an operation: a site's name or a number."""
        return self._operations[x].out

    def conv(
        self,
        x: int,
        out: Width,
        *,
        kernel: int = 1,
        stride: int = 1,
        activation: str | None = 'relu',
        pads: Pads | None = None,
        norm: bool = True,
    ) -> int:
        """Append a convolution, batch normalisation and an activation.

        Without `pads` they are those of 'SAME'; without `norm` a bias takes the place of the normalisation.
        """
        return self._append(
            'conv', (x,), out, kernel=kernel, stride=stride, activation=activation, pads=pads, norm=norm
        )

    def depthwise(
        self,
        x: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        activation: str | None = 'relu',
        pads: Pads | None = None,
        norm: bool = True,
    ) -> int:
        """Append a convolution of every channel by itself, batch normalisation and an activation."""
        return self._append(
            'depthwise', (x,), kernel=kernel, stride=stride, activation=activation, pads=pads, norm=norm
        )

    def add(self, x: int, y: int, *, activation: str | None = None) -> int:
        """Append the sum of two operations of one width; where a branch may be dropped, that is `y`."""
        return self._append('add', (x, y), activation=activation)

    def gate(
        self, x: int, inner: Width, *, activation: str | None = 'relu', opening: str = 'hard_sigmoid'
    ) -> int:
        """Append squeeze and excitation: `x * opening(B act(A mean(x)))` (Howard et al., 2019)."""
        return self._append('gate', (x,), activation=activation, inner=inner, opening=opening)

    def max_pool(self, x: int, *, kernel: int, stride: int, pads: Pads | None = None) -> int:
        """Append a maximum over windows."""
        return self._append('max_pool', (x,), kernel=kernel, stride=stride, pads=pads)

    def mean(self, x: int) -> int:
        """Append the mean over all positions."""
        return self._append('mean', (x,))

    def dense(self, x: int, out: Width, *, activation: str | None = None) -> int:
        """Append a product with a matrix, a bias and an activation; it follows the mean."""
        return self._append('dense', (x,), out, activation=activation)

    def classify(self, x: int) -> int:
        """Append the mean and the classifier."""
        return self.dense(self.mean(x), self.num_classes)

    def concatenate(self, *xs: int) -> int:
        """Refuse: widths that add up are not a sum over pairs of sites, which the exact search needs."""
        names = ', '.join(self._operations[x].name for x in xs)
        raise ValueError(f'concatenation of {names} cannot be expressed: add them, or keep that part fixed')

    def graph(self, logits: int) -> Graph:
        """Return the graph whose result is `logits`."""
        if logits != len(self._operations) - 1:
            after = self._operations[logits + 1 :] if isinstance(logits, int) else []
            unused = f': operation {after[0].name!r} is unused' if after else ''
            raise ValueError(f'the network must return its last operation, the logits{unused}')
        order = {end: None for op in self._operations for end in (op.inner, op.out) if isinstance(end, str)}
        idle = [name for name in self._sites if name not in order]
        if idle:
            raise ValueError(f'site {idle[0]!r} is declared and never used')
        sites = [self._sites[name] for name in order if name in self._sites]
        return Graph(tuple(sites), tuple(self._operations), self.input_shape)

    def _append(self, kind: str, reads: tuple[int, ...], out: Width | None = None, **settings: Any) -> int:
        place = len(self._operations)
        name = f'{place:03d}_{kind}'
        for read in reads:
            if not isinstance(read, int) or not 0 <= read < place:
                raise ValueError(f'operation {name!r} reads {read!r}, which is no operation before it')
        out = self._operations[reads[0]].out if out is None else out
        self._operations.append(Operation(name, kind, reads, out, **settings))
        return place


def build(
    network: Callable[[Builder], int],
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    base_multiplier: float = 1.0,
    min_multiplier: float = 0.2,
    max_multiplier: float = 1.5,
    levels: int = 14,
    divisor: int = 8,
    drop_blocks: bool = False,
) -> Graph:
    """Build the graph of a network's function; every site takes `levels` even multiples of its base width.

    Args:
      network: appends operations and returns the logits.
      input_shape: height, width and channels of an image.
      num_classes: outputs of the classifier.
      base_multiplier: factor on all base widths, itself not searched.
      min_multiplier: least width multiplier of a site.
      max_multiplier: greatest width multiplier of a site.
      levels: number of even steps between the two, both included; the base width is always among the choices.
      divisor: widths are multiples of it.
      drop_blocks: let widths inside residual branches be 0, which drops the branch.

    Raises:
      ValueError: settings out of range, or a network that cannot be expressed.
    """
    if levels < 1 or divisor < 1:
        raise ValueError(f'levels and divisor must be positive, got {levels} and {divisor}')
    if not 0 < min_multiplier <= max_multiplier < math.inf or not 0 < base_multiplier < math.inf:
        raise ValueError(
            'need 0 < min_multiplier <= max_multiplier and a positive base_multiplier, '
            f'got {min_multiplier}, {max_multiplier} and {base_multiplier}'
        )
    if num_classes < 1:
        raise ValueError(f'num_classes must be positive, got {num_classes}')
    multipliers = np.linspace(min_multiplier, max_multiplier, levels)

    def choices_of(base: int) -> tuple[int, ...]:
        return tuple(sorted({round_width(base * m, divisor) for m in multipliers} | {base}))

    builder = Builder(
        input_shape, num_classes, lambda base: round_width(base * base_multiplier, divisor), choices_of
    )
    graph = builder.graph(network(builder))
    if not graph.sites:
        raise ValueError(
            'the network has no site: declare the widths to be searched with g.site(name, width)'
        )
    return with_dropped_blocks(graph) if drop_blocks else graph


def round_width(width: float, divisor: int) -> int:
    """Round to the nearest multiple of `divisor`, halves up, at least one multiple."""
    return max(divisor, math.floor(width / divisor + 0.5) * divisor)


def with_dropped_blocks(graph: Graph) -> Graph:
    """Return the graph with 0 among the choices of every site that a residual goes round."""

    def may_drop(site: Site) -> bool:
        return site.name not in dropped_by(graph.operations, {site.name})[-1]

    sites = [
        dataclasses.replace(site, choices=(0, *(w for w in site.choices if w))) if may_drop(site) else site
        for site in graph.sites
    ]
    return dataclasses.replace(graph, sites=tuple(sites))
