"""The largest network and mutated ones in one pass: segments before the first mutated site are computed once.

Where no example of a batch mutates a site before some place, the mutated networks are the largest up to there:
activations, batch statistics and gradients. The convolution that writes the first mutated site is the largest's, too,
and only its mask differs. So the graph is cut into *segments*, at points where one activation is live: for each site at
the last such point before its first mask.

- Up to the first mutated site, the segments of a mutated network do nothing.
- There the largest's activation enters, and from there on they compute.
- In the gradient, what flows back through them joins the largest's own where they had parted (`gates`).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jcw.graph import NORMALISED, Graph, Operation
from jcw.nets import gates, kernels, masking, training
from jcw.nets.axes import Variables
from jcw.nets.training import Forms, Masks, Network


def functions_of(
    graph: Graph,
    *,
    dtype: Any = jnp.float32,
    implementation: kernels.Implementation = 'auto',
    axis_name: str | None = None,
) -> Network:
    """Build the supernet with a `pair` that shares segments; arguments as of `training.functions_of`."""
    whole = training.functions_of(graph, dtype=dtype, implementation=implementation, axis_name=axis_name)
    if implementation != 'auto':
        return Network(whole.init, whole.apply, _pair(graph, dtype, implementation, axis_name))
    # Chosen here: a choice inside a gate would have it keep what either platform's gradient needs, but for that of
    # depthwise convolutions, whose forms need the same.
    cpu, accelerator = (_pair(graph, dtype, each, axis_name) for each in ('cpu', 'accelerator'))
    return Network(whole.init, whole.apply, kernels.choose(cpu, accelerator, 'auto'))


def _pair(
    graph: Graph, dtype: Any, implementation: kernels.Implementation, axis_name: str | None
) -> Callable[..., tuple[jax.Array, dict[str, Any], jax.Array]]:
    halves = halves_of(graph)
    begins = begins_of(graph, halves)
    ends = [*begins[1:], len(halves)]
    segments = [
        _Segment(graph, tuple(halves), begin, end, dtype, implementation, axis_name)
        for begin, end in zip(begins, ends, strict=True)
    ]
    entries = site_segments(graph, halves, begins)

    def pair(
        variables: Variables,
        images: Float[Array, 'batch height width channels'],
        widths: Int[Array, 'batch sites'],
    ) -> tuple[Float[Array, 'batch classes'], dict[str, Any], Float[Array, 'batch classes']]:
        masks = training.masks_of(graph, widths)
        first = _first_mutated(graph, entries, len(segments), widths, axis_name)
        params = [segment.own(variables['params']) for segment in segments]
        logits, moments, mutated = gates.chain(segments, params, images.astype(dtype), first, masks)
        stats = {
            name: {'mean': m.mean, 'variance': m.variance} for seen in moments for name, m in seen.items()
        }
        return logits, stats, mutated

    return pair


class Half(NamedTuple):
    """An operation, or of a convolution either its product or its normalisation.

    Attributes:
      place: of the operation in the graph.
      part: 'linear', 'finish' or 'whole'.
      reads: the halves whose results it reads.
    """

    place: int
    part: str
    reads: tuple[int, ...]


def halves_of(graph: Graph) -> list[Half]:
    """Return the graph's operations but the images, convolutions in two; -1 stands for the images."""
    halves: list[Half] = []
    result = {0: -1}
    for place, op in enumerate(graph.operations[1:], 1):
        reads = tuple(result[read] for read in op.reads)
        if op.kind in NORMALISED:
            halves.append(Half(place, 'linear', reads))
            reads = (len(halves) - 1,)
        halves.append(Half(place, 'finish' if op.kind in NORMALISED else 'whole', reads))
        result[place] = len(halves) - 1
    return halves


def begins_of(graph: Graph, halves: Sequence[Half]) -> list[int]:
    """Return where segments begin: at the start, and for each site at the last cut before its mask acts first."""
    cuts = [
        index
        for index in range(len(halves))
        if {read for half in halves[index:] for read in half.reads if read < index} == {index - 1}
    ]
    first = {max(cut for cut in cuts if cut <= mask) for mask in _first_masks(graph, halves)}
    return [0, *sorted(first)]  # nothing is mutated in the first segment, be it empty


def site_segments(graph: Graph, halves: Sequence[Half], begins: Sequence[int]) -> list[int]:
    """Return, for each site, the segment in which its mask acts first."""
    return [sum(begin <= mask for begin in begins) - 1 for mask in _first_masks(graph, halves)]


def _first_masks(graph: Graph, halves: Sequence[Half]) -> list[int]:
    def masks(half: Half, site: str) -> bool:
        op = graph.operations[half.place]
        return half.part != 'linear' and site in (op.out, op.inner)

    return [next(i for i, half in enumerate(halves) if masks(half, site.name)) for site in graph.sites]


class _Segment(NamedTuple):
    """A stretch of halves that reads one activation and gives one."""

    graph: Graph
    halves: tuple[Half, ...]
    begin: int
    end: int
    dtype: Any
    implementation: kernels.Implementation
    axis_name: str | None

    def own(self, params: dict[str, Any]) -> dict[str, Any]:
        """Return the parameters that the segment needs, by operation."""
        chosen: dict[str, Any] = {}
        for half in self.halves[self.begin : self.end]:
            name = self.graph.operations[half.place].name
            leaves = params.get(name, {})
            norm = ('scale', 'bias') if half.part != 'whole' else ()
            mine = {key: leaf for key, leaf in leaves.items() if (key in norm) == (half.part == 'finish')}
            if mine:
                chosen[name] = {**chosen.get(name, {}), **mine}
        return chosen

    def __call__(
        self, params: dict[str, Any], x: jax.Array, masks: Masks
    ) -> tuple[jax.Array, dict[str, masking.Moments]]:
        """Return the segment's activation and the moments of its normalisations."""
        forms = Forms(self.graph, self.dtype, self.implementation, masks)
        values: dict[int, Any] = {self.begin - 1: x}
        moments: dict[str, masking.Moments] = {}
        for index in range(self.begin, self.end):
            half = self.halves[index]
            op = self.graph.operations[half.place]
            own = params.get(op.name, {})
            if half.part == 'finish':
                mask = training.mask_of(self.graph, half.place, masks)
                if not op.norm:
                    values[index] = masking.biased(values[half.reads[0]], own['bias'], mask, op.activation)
                    continue
                given = (values[half.reads[0]], own['scale'], own['bias'], mask)
                if self._is_read_once(index):
                    values[index] = (op, given)  # normalised where it is read
                else:
                    y, moments[op.name] = masking.normalise_train(*given, self.axis_name, op.activation)
                    values[index] = y
            elif half.part == 'linear' and isinstance(values[half.reads[0]], tuple):
                before, (raw, scale, bias, mask) = values[half.reads[0]]
                values[index], moments[before.name] = masking.normalise_into(
                    functools.partial(_linear, self, op),
                    own['kernel'],
                    raw,
                    scale,
                    bias,
                    mask,
                    axis_name=self.axis_name,
                    activation=before.activation,
                )
            else:
                x = forms.linear(op, own, *(values[read] for read in half.reads))
                values[index] = x if half.part == 'linear' else forms.finish(half.place, x, _never)
        return values[self.end - 1], moments

    def _is_read_once(self, index: int) -> bool:
        """Say whether one convolution of this segment is all that reads a normalised activation."""
        readers = [i for i, half in enumerate(self.halves) if index in half.reads]
        return len(readers) == 1 and readers[0] < self.end and self.halves[readers[0]].part == 'linear'

    def largest(self, params: dict[str, Any], x: jax.Array) -> tuple[jax.Array, dict]:
        return self(params, x, training.masks_of(self.graph, None))

    def mutated(self, params: dict[str, Any], x: jax.Array, masks: Masks) -> jax.Array:
        return self(params, x, masks)[0]


def _linear(segment: _Segment, op: Operation, x: jax.Array, kernel: jax.Array) -> jax.Array:
    forms = Forms(segment.graph, segment.dtype, segment.implementation, Masks({}, {}))
    return forms.linear(op, {'kernel': kernel}, x)


def _never(op: Operation, x: jax.Array, mask: jax.Array) -> jax.Array:
    raise AssertionError(f'{op.name} is normalised by its own half')


def _first_mutated(
    graph: Graph,
    entries: Sequence[int],
    count: int,
    widths: Int[Array, 'batch sites'],
    axis_name: str | None,
) -> Int[Array, '']:
    """Return the first segment with a site that is not at its greatest width in every example; `count` if none has."""
    mutated = (widths != jnp.asarray(graph.largest)).any(0)
    if axis_name is not None:
        mutated = jax.lax.pmax(mutated.astype(jnp.int32), axis_name) > 0
    return jnp.where(mutated, jnp.array(entries), count).min()
