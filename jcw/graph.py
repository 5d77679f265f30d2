"""A network as a list of operations over named sites: the one description that every form of it is made from.

A *site* is a searchable width. Operations on one residual stream name the same site, so widths that must be equal are
one unknown. A network is written as a function that appends operations to a `Builder` and returns the logits:

    def net(g):
        x = g.conv(g.images, g.site('stem', 32), kernel=3, stride=2)
        h = g.depthwise(g.conv(x, g.site('inner', 64)))
        x = g.add(x, g.conv(h, 'stem', activation=None))
        return g.classify(x)

    graph = build(net, (32, 32, 3), 10)

Images are NHWC, padding is 'SAME'.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jcw.trellis import trellis

MAPS = ('images', 'conv', 'depthwise', 'add', 'gate', 'max_pool')  # kinds whose values have positions
KINDS = (*MAPS, 'mean', 'dense')
WRITES = ('conv', 'dense')  # kinds that choose their output channels; the others keep those they read
NORMALISED = ('conv', 'depthwise')
ACTIVATIONS = ('relu', 'relu6', 'hard_swish', 'swish')
OPENINGS = ('hard_sigmoid', 'sigmoid')  # what a gate multiplies by

Width = str | int
"""A site's name, or a number of channels that is not searched."""


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
      kernel: side of the square kernel; of 'conv', 'depthwise' and 'max_pool', of the last it may be even.
      stride: likewise.
      activation: one of `ACTIVATIONS`, or none; in a gate that of its inner layer.
      inner: channels of a gate's inner layer.
      opening: one of `OPENINGS`; of a gate.
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
    note: str = dataclasses.field(default='', compare=False)


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
        if len(self.input_shape) != 3 or min(self.input_shape) < 1:
            raise ValueError(f'input_shape must be three positive numbers, got {self.input_shape}')
        _check_sites(self)
        _check_operations(self)
        _check_dropped(self)
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

    def nearest(self, widths: Sequence[float]) -> np.ndarray:
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
            height, width = sizes[op.reads[0]]
            one = op.kind in ('mean', 'dense')
            sizes.append((1, 1) if one else (-(-height // op.stride), -(-width // op.stride)))
        return tuple(sizes)

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
        return _dropped_by(self.operations, {site.name for site in self.sites if site.choices[0] == 0})

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
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> 'Graph':
        """Read what `to_json` wrote.

        Raises:
          ValueError: it is no graph.
        """
        try:
            sites = [Site(s['name'], s['base'], tuple(s['choices'])) for s in value['sites']]
            operations = [Operation(**{**op, 'reads': tuple(op['reads'])}) for op in value['operations']]
            return cls(tuple(sites), tuple(operations), tuple(value['input_shape']))
        except (KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError) as error:
            raise ValueError(f'not the description of a graph: {error!r}') from None


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
        self, x: int, out: Width, *, kernel: int = 1, stride: int = 1, activation: str | None = 'relu'
    ) -> int:
        """Append a convolution, batch normalisation and an activation."""
        return self._append('conv', (x,), out, kernel=kernel, stride=stride, activation=activation)

    def depthwise(self, x: int, *, kernel: int = 3, stride: int = 1, activation: str | None = 'relu') -> int:
        """Append a convolution of every channel by itself, batch normalisation and an activation."""
        return self._append('depthwise', (x,), kernel=kernel, stride=stride, activation=activation)

    def add(self, x: int, y: int, *, activation: str | None = None) -> int:
        """Append the sum of two operations of one width; where a branch may be dropped, that is `y`."""
        return self._append('add', (x, y), activation=activation)

    def gate(
        self, x: int, inner: Width, *, activation: str | None = 'relu', opening: str = 'hard_sigmoid'
    ) -> int:
        """Append squeeze and excitation: `x * opening(B act(A mean(x)))` (Howard et al., 2019)."""
        return self._append('gate', (x,), activation=activation, inner=inner, opening=opening)

    def max_pool(self, x: int, *, kernel: int, stride: int) -> int:
        """Append a maximum over windows."""
        return self._append('max_pool', (x,), kernel=kernel, stride=stride)

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
        return site.name not in _dropped_by(graph.operations, {site.name})[-1]

    sites = [
        dataclasses.replace(site, choices=(0, *(w for w in site.choices if w))) if may_drop(site) else site
        for site in graph.sites
    ]
    return dataclasses.replace(graph, sites=tuple(sites))


def _dropped_by(operations: Sequence[Operation], zero: set[str]) -> tuple[frozenset[str], ...]:
    """Return, for each operation, at the width 0 of which of the sites `zero` it is dropped."""
    drops: list[frozenset[str]] = []
    for op in operations:
        read = [drops[r] for r in op.reads]
        if op.kind == 'add':
            drops.append(frozenset.intersection(*read))
        else:
            drops.append(frozenset().union(*read, {end for end in (op.out, op.inner) if end in zero}))
    return tuple(drops)


def _changes_nothing(add: Operation, read: Operation) -> bool:
    """Say whether a sum of one term only is that term: `relu(relu(x)) = relu(x)`."""
    again = add.activation in ('relu', 'relu6') and add.activation == read.activation
    return add.activation is None or again


def _check_sites(graph: Graph) -> None:
    names = [site.name for site in graph.sites]
    for site in graph.sites:
        if not isinstance(site.name, str) or not site.name or names.count(site.name) > 1:
            raise ValueError(f'names of sites must be different and not empty, got {site.name!r}')
        widths = site.choices
        whole = all(isinstance(w, int) and not isinstance(w, bool) for w in (*widths, site.base))
        if not widths or not whole:
            raise ValueError(
                f'site {site.name!r} has no choice of whole widths: {widths}, base {site.base!r}'
            )
        if (
            widths[0] < 0
            or widths[-1] < 1
            or any(a >= b for a, b in itertools.pairwise(widths))
            or site.base < 1
        ):
            raise ValueError(
                f'widths of site {site.name!r} must be strictly increasing and its base positive, '
                f'got {widths} and {site.base}'
            )


def _check_operations(graph: Graph) -> None:
    operations, known = graph.operations, {site.name for site in graph.sites}
    if not operations or operations[0] != Operation('images', 'images', (), graph.input_shape[2]):
        raise ValueError(f'the first operation must be the images of {graph.input_shape[2]} channels')
    names: set[str] = {'images'}
    for place, op in enumerate(operations[1:], 1):
        if not isinstance(op.name, str) or not op.name or op.name in names:
            raise ValueError(f'names of operations must be different, {op.name!r} comes twice')
        names.add(op.name)
        _check_operation(graph, place, known)
    read = {r for op in operations for r in op.reads}
    unused = [op.name for place, op in enumerate(operations[:-1]) if place not in read]
    if unused:
        raise ValueError(f'operation {unused[0]!r} is unused: nothing reads it')
    last = operations[-1]
    if last.kind != 'dense' or not isinstance(last.out, int) or last.activation is not None:
        raise ValueError(f'the last operation must be a classifier without activation, got {last.name!r}')
    used = {end for op in operations for end in (op.out, op.inner)}
    if known - used:
        raise ValueError(f'site {sorted(known - used)[0]!r} is never used')


def _check_operation(graph: Graph, place: int, known: set[str]) -> None:
    op, name = graph.operations[place], graph.operations[place].name
    if op.kind not in KINDS[1:]:
        raise ValueError(f'operation {name!r} is of unknown kind {op.kind!r}: known are {KINDS[1:]}')
    if not all(isinstance(r, int) and 0 <= r < place for r in op.reads):
        raise ValueError(
            f'operation {name!r} reads {op.reads}: only operations before it, so that there is no cycle'
        )
    wanted = (1, 2) if op.kind == 'add' else (1,)
    if len(op.reads) not in wanted:
        raise ValueError(f'operation {name!r} must read {wanted[-1]} operations, got {len(op.reads)}')
    for end in (op.out, *((op.inner,) if op.kind == 'gate' else ())):
        if isinstance(end, str) and end not in known:
            raise ValueError(
                f'operation {name!r} has the width {end!r}, which is no site: declare it with g.site'
            )
        if not isinstance(end, str) and (not isinstance(end, int) or isinstance(end, bool) or end < 1):
            raise ValueError(f'operation {name!r} needs a site or a positive number of channels, got {end!r}')
    whole = all(isinstance(v, int) and v > 0 for v in (op.kernel, op.stride))
    if not whole or (op.kernel % 2 == 0 and op.kind != 'max_pool'):
        raise ValueError(
            f'operation {name!r} needs an odd kernel and a positive stride, got {op.kernel} and {op.stride}'
        )
    if op.kind not in ('conv', 'depthwise', 'max_pool') and (op.kernel, op.stride) != (1, 1):
        raise ValueError(f'operation {name!r} takes no kernel and no stride')
    if op.activation not in (None, *ACTIVATIONS) or (op.kind in ('max_pool', 'mean') and op.activation):
        raise ValueError(
            f'operation {name!r}: activation must be one of {ACTIVATIONS} or none, got {op.activation!r}'
        )
    if op.opening not in OPENINGS:
        raise ValueError(f'operation {name!r}: opening must be one of {OPENINGS}, got {op.opening!r}')
    reads = [graph.operations[r] for r in op.reads]
    for read in reads:
        if (read.kind in MAPS) == (op.kind == 'dense'):
            raise ValueError(
                f'operation {name!r} cannot read {read.name!r}: a dense layer follows the mean, and only it'
            )
    if op.kind not in WRITES and any(read.out != op.out for read in reads):
        widths = ' and '.join(f'{read.name!r} of {read.out!r}' for read in reads)
        raise ValueError(f'operation {name!r} of width {op.out!r} must read that width, got {widths}')
    if len({graph.sizes[r] for r in op.reads}) > 1:
        sizes = ' and '.join(f'{graph.operations[r].name!r} of {graph.sizes[r]}' for r in op.reads)
        raise ValueError(f'operation {name!r} adds maps of different sizes: {sizes}')


def _check_dropped(graph: Graph) -> None:
    for name in sorted(graph.drops[-1]):
        raise ValueError(f'site {name!r} may be 0, but nothing goes round it: its block cannot be dropped')
