"""A network as a list of operations over named sites: the one description that every form of it is made from.

A *site* is a searchable width. Operations on one residual stream name the same site, so widths that must be equal are
one unknown. `jcw.builder` writes graphs. Images are NHWC; padding is 'SAME' unless an operation states its own.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jcw.graph_checks import check
from jcw.operations import NORMALISED, Operation, Site, Width, Widths, dropped_by
from jcw.trellis import trellis
from jcw.windows import Pads, pads_of, size_after

__all__ = ['NORMALISED', 'Graph', 'Operation', 'Site', 'Width', 'Widths']


@dataclasses.dataclass(frozen=True)
class Graph:
    """A network over sites; it is checked when it is made, and everything else reads it.

    Attributes:
      sites: the searchable widths.
      operations: in order; the first is the images, the last the logits.
      input_shape: height, width and channels of an image.

    Raises:
      ValueError: what cannot be expressed, naming the operation or the site.
    """

    sites: tuple[Site, ...]
    operations: tuple[Operation, ...]
    input_shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        check(self)
        if self.sites:
            trellis(self.scopes, self.num_sites, names=self.site_names)

    @cached_property
    def _hash(self) -> int:
        return hash((self.sites, self.operations, self.input_shape))

    def __hash__(self) -> int:
        return self._hash

    @property
    def num_sites(self) -> int:
        return len(self.sites)

    @cached_property
    def site_names(self) -> tuple[str, ...]:
        return tuple(site.name for site in self.sites)

    @cached_property
    def site_index(self) -> dict[str, int]:
        """Place of each site, by name."""
        return {site.name: index for index, site in enumerate(self.sites)}

    @property
    def num_classes(self) -> int:
        return int(self.operations[-1].out)

    @cached_property
    def width_choices(self) -> tuple[tuple[int, ...], ...]:
        return tuple(site.choices for site in self.sites)

    @cached_property
    def num_choices(self) -> np.ndarray:
        """Number of widths of each site, int32 [sites]."""
        return np.array([len(widths) for widths in self.width_choices], np.int32)

    @cached_property
    def present(self) -> np.ndarray:
        """Which choices there are, bool [sites choices]; sites with fewer are padded."""
        return np.arange(self.num_choices.max(initial=0)) < self.num_choices[:, None]

    @cached_property
    def width_table(self) -> np.ndarray:
        """Width of each choice, int32 [sites choices]; 0 where there is no such choice."""
        table = np.zeros(self.present.shape, np.int32)
        for row, widths in zip(table, self.width_choices, strict=True):
            row[: len(widths)] = widths
        return table

    @cached_property
    def smallest(self) -> np.ndarray:
        """The configuration of least widths, int32 [sites]; no block is dropped."""
        return np.array([next(w for w in widths if w) for widths in self.width_choices], np.int32)

    @cached_property
    def largest(self) -> np.ndarray:
        """The configuration of greatest widths, int32 [sites]."""
        return np.array([widths[-1] for widths in self.width_choices], np.int32)

    @cached_property
    def base(self) -> np.ndarray:
        """The usual configuration, int32 [sites]; each width the nearest allowed one to the site's base."""
        return self.nearest([site.base for site in self.sites])

    @property
    def num_configurations(self) -> int:
        return math.prod(int(n) for n in self.num_choices)

    def nearest(self, widths: Sequence[float] | np.ndarray) -> np.ndarray:
        """Return the configuration whose widths are nearest, the smaller on a tie, no block dropped, int32 [sites]."""
        chosen = [
            min((w for w in allowed if w), key=lambda w: abs(w - x))
            for allowed, x in zip(self.width_choices, widths, strict=True)
        ]
        return np.array(chosen, np.int32)

    def to_widths(self, choices: Any) -> Any:
        """Look up the widths of choices, [... sites] -> [... sites]; NumPy in, NumPy out; JAX in, JAX out."""
        if isinstance(choices, jax.Array):
            return jnp.asarray(self.width_table)[jnp.arange(self.num_sites), choices]
        choices = np.asarray(choices)
        if (
            choices.shape[-1:] != (self.num_sites,)
            or (choices < 0).any()
            or (choices >= self.num_choices).any()
        ):
            raise ValueError(
                f'choices must end in {self.num_sites} indices below {self.num_choices.tolist()}, '
                f'got {choices.tolist()}'
            )
        return self.width_table[np.arange(self.num_sites), choices]

    def networks(self, choices: Any) -> list[Widths]:
        """Return the networks of rows of choices, [networks sites]: their widths, as they are named and remembered."""
        return [tuple(row) for row in self.to_widths(np.asarray(choices)).tolist()]

    def to_choices(self, widths: Any) -> np.ndarray:
        """Look up the choices of widths, [... sites] -> int32 [... sites].

        Raises:
          ValueError: a width is not among its site's choices.
        """
        widths = np.asarray(widths)
        if widths.shape[-1:] != (self.num_sites,):
            raise ValueError(f'expected {self.num_sites} widths, got shape {widths.shape}')
        match = (widths[..., None] == self.width_table) & self.present
        missing = ~match.any(-1)
        if missing.any():
            index = int(np.argwhere(missing)[0][-1])
            wrong = widths[..., index][missing[..., index]].flat[0]
            site = self.sites[index]
            raise ValueError(f'width {wrong} of site {site.name!r} is not one of {site.choices}')
        return match.argmax(-1).astype(np.int32)

    def width(self, out: Width, widths: Sequence[int] | np.ndarray) -> int:
        """Return the number that a site or a fixed width stands for in a configuration."""
        return int(widths[self.site_index[out]]) if isinstance(out, str) else out

    @cached_property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Height and width of each operation's result; (1, 1) after the mean."""
        sizes = [self.input_shape[:2]]
        for op in self.operations[1:]:
            read, window = sizes[op.reads[0]], ((op.kernel, op.kernel), (op.stride, op.stride))
            one = op.kind in ('mean', 'dense')
            pads = pads_of(read, op.kernel, op.stride, op.pads)
            sizes.append((1, 1) if one else size_after(read, *window, pads))
        return tuple(sizes)

    def pads(self, op: Operation) -> Pads:
        """Return what an operation puts around the map it reads."""
        return pads_of(self.sizes[op.reads[0]], op.kernel, op.stride, op.pads)

    @cached_property
    def readers(self) -> tuple[tuple[int, ...], ...]:
        """The operations that read each operation."""
        readers: list[list[int]] = [[] for _ in self.operations]
        for place, op in enumerate(self.operations):
            for read in dict.fromkeys(op.reads):
                readers[read].append(place)
        return tuple(tuple(places) for places in readers)

    @cached_property
    def scopes(self) -> tuple[tuple[int, int], ...]:
        """Pairs of different sites that one operation reads and writes, the lower first: factors of any cost."""
        found: dict[tuple[int, int], None] = {}
        for op in self.operations[1:]:
            ends = (self.operations[op.reads[0]].out, op.inner if op.kind == 'gate' else op.out)
            first, second = sorted(
                self.site_index.get(end, -1) if isinstance(end, str) else -1 for end in ends
            )
            if first >= 0 and first != second:
                found[first, second] = None
        return tuple(sorted(found))

    @cached_property
    def drops(self) -> tuple[frozenset[str], ...]:
        """For each operation, the sites at whose width 0 it is dropped: those it depends on with no way round."""
        return dropped_by(self.operations, {site.name for site in self.sites if site.choices[0] == 0})

    @cached_property
    def blocks(self) -> tuple[tuple[int, ...], ...]:
        """Sites that are 0 together, as indices: those of one block that may be dropped."""
        groups: dict[frozenset[int], list[int]] = {}
        for index, site in enumerate(self.sites):
            if site.choices[0] == 0:
                ends = {
                    p
                    for p, op in enumerate(self.operations)
                    if op.kind == 'add' and any(site.name in self.drops[read] for read in op.reads)
                }
                groups.setdefault(frozenset(ends), []).append(index)
        return tuple(tuple(group) for group in groups.values())

    def settled(self, choices: np.ndarray) -> np.ndarray:
        """Return choices in which a block that any of its sites drops is dropped by all of them, [... sites]."""
        choices = np.array(choices)
        for block in self.blocks:
            where = list(block)
            choices[..., where] = np.where(
                (choices[..., where] == 0).any(-1, keepdims=True), 0, choices[..., where]
            )
        return choices

    def fixed(self, widths: Sequence[int] | np.ndarray) -> 'Graph':
        """Return the graph of one configuration: every site has one width, and what a width of 0 drops is gone.

        Widths need not be among the choices, only positive where 0 is not among them.

        Raises:
          ValueError: not one width per site, or none left where nothing goes round a site.
        """
        widths = [int(w) for w in widths]
        if len(widths) != self.num_sites:
            raise ValueError(f'expected {self.num_sites} widths, got {len(widths)}')
        zero = {site.name for site, width in zip(self.sites, widths, strict=True) if width == 0}
        for site, width in zip(self.sites, widths, strict=True):
            if width < 0 or (width == 0 and site.choices[0] != 0):
                raise ValueError(f'site {site.name!r} must have a positive width, got {width}')
        operations: list[Operation] = []
        place_of: dict[int, int] = {}
        for place, op in enumerate(self.operations):
            if self.drops[place] & zero:
                continue
            reads = tuple(place_of[read] for read in op.reads if read in place_of)
            if op.kind == 'add' and len(reads) == 1 and _changes_nothing(op, operations[reads[0]]):
                place_of[place] = reads[0]
                continue
            place_of[place] = len(operations)
            operations.append(dataclasses.replace(op, reads=reads))
        used = {end for op in operations for end in (op.out, op.inner)}
        sites = [
            dataclasses.replace(site, choices=(width,))
            for site, width in zip(self.sites, widths, strict=True)
            if site.name in used
        ]
        return Graph(tuple(sites), tuple(operations), self.input_shape)

    def to_json(self) -> dict[str, Any]:
        """Return the graph as JSON values."""
        made = dataclasses.asdict(self)
        for op in made['operations']:
            for name, usual in (('pads', None), ('norm', True)):
                if op[name] is usual:
                    del op[name]
        return made

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> 'Graph':
        """Read what `to_json` wrote.

        Raises:
          ValueError: it is no graph.
        """
        try:
            sites = [Site(s['name'], s['base'], tuple(s['choices'])) for s in value['sites']]
            operations = [_operation(op) for op in value['operations']]
            return cls(tuple(sites), tuple(operations), tuple(value['input_shape']))
        except (KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError) as error:
            raise ValueError(f'not the description of a graph: {error!r}') from None


def _operation(value: Mapping[str, Any]) -> Operation:
    pads = value.get('pads')
    pads = None if pads is None else tuple(map(tuple, pads))
    return Operation(**{**value, 'reads': tuple(value['reads']), 'pads': pads})


def _changes_nothing(add: Operation, read: Operation) -> bool:
    """Say whether a sum of one term only is that term: `relu(relu(x)) = relu(x)`."""
    again = add.activation in ('relu', 'relu6') and add.activation == read.activation
    return add.activation is None or again
