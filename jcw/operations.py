"""What graphs are made of: sites, and the kinds of operations over them."""

import dataclasses
from collections.abc import Sequence

from jcw.windows import Pads

MAPS = ('images', 'conv', 'depthwise', 'add', 'gate', 'max_pool')  # kinds whose values have positions
KINDS = (*MAPS, 'mean', 'dense')
WRITES = ('conv', 'dense')  # kinds that choose their output channels; the others keep those they read
NORMALISED = ('conv', 'depthwise')
ACTIVATIONS = ('relu', 'relu6', 'hard_swish', 'swish')
OPENINGS = ('hard_sigmoid', 'sigmoid')  # what a gate multiplies by

Width = str | int
"""A site's name, or a number of channels that is not searched."""
Widths = tuple[int, ...]
"""A channel configuration: one width for every site, in their order."""


@dataclasses.dataclass(frozen=True)
class Site:
    """A searchable width.

    Attributes:
      name: of the site.
      base: usual number of channels.
      choices: allowed widths, strictly increasing; 0 drops the block that the site lies in.
    """

    name: str
    base: int
    choices: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation of a graph.

    Attributes:
      name: key of its parameters.
      kind: one of `KINDS`.
      reads: places in the list of the operations it reads.
      out: its channels.
      kernel: side of the square kernel; of 'conv', 'depthwise' and 'max_pool'.
      stride: likewise.
      pads: likewise, what is put around the map; none for 'SAME', which keeps its size but for the stride.
      activation: one of `ACTIVATIONS`, or none; in a gate that of its inner layer.
      inner: channels of a gate's inner layer.
      opening: one of `OPENINGS`; of a gate.
      norm: of 'conv' and 'depthwise', whether batch normalisation follows; if not, a bias does.
      note: for readers, why the operation is what it is; no two operations differ by it.
    """

    name: str
    kind: str
    reads: tuple[int, ...]
    out: Width
    kernel: int = 1
    stride: int = 1
    activation: str | None = None
    inner: Width | None = None
    opening: str = 'hard_sigmoid'
    pads: Pads | None = None
    norm: bool = True
    note: str = dataclasses.field(default='', compare=False)


def dropped_by(operations: Sequence[Operation], zero: set[str]) -> tuple[frozenset[str], ...]:
    """Return, for each operation, at the width 0 of which of the sites `zero` it is dropped."""
    drops: list[frozenset[str]] = []
    for op in operations:
        read = [drops[r] for r in op.reads]
        if op.kind == 'add':
            drops.append(frozenset.intersection(*read))
        else:
            drops.append(frozenset().union(*read, {end for end in (op.out, op.inner) if end in zero}))
    return tuple(drops)
