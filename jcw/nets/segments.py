"""The largest network and mutated ones in one pass: segments before the first mutated site are computed once.

Where all examples of a batch keep their greatest widths up to some site, the mutated network is the largest up to
there, and the convolution that writes that site too, before it is masked; batch statistics and gradients included. So
the graph is cut into segments at points where one activation is live, as near before each site's first mask as there
is one. A mutated network's segments are gates: up to the first mutated site they do nothing; there the largest's
activation enters, and from there on they compute. In the gradient, what flows back through them joins the largest's
own where they had parted.

A gate is a loop of one turn or none rather than a conditional: XLA divides the work of a loop's body between a
processor's cores, that of a conditional's branches it does not.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jcw.graph import NORMALISED, Graph, Operation
from jcw.nets import kernels, masking, training
from jcw.nets.axes import Variables
from jcw.nets.training import Forms, Masks, Network


def network(
    graph: Graph,
    *,
    dtype: Any = jnp.float32,
    implementation: kernels.Implementation = 'auto',
    axis_name: str | None = None,
) -> Network:
    """Build the supernet with a `pair` that shares segments; arguments as of `training.network`."""
    whole = training.network(graph, dtype=dtype, implementation=implementation, axis_name=axis_name)
    if implementation != 'auto':
        return Network(whole.init, whole.apply, _pair(graph, dtype, implementation, axis_name))
    # Chosen here, and once: a choice inside a gate would have it keep what either platform's gradient needs.
    cpu, native = (_pair(graph, dtype, each, axis_name) for each in ('cpu', 'native'))
    choose = functools.partial(jax.lax.platform_dependent, cpu=cpu, default=native)
    return Network(whole.init, whole.apply, choose)


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
        logits, moments, mutated = _chain(segments, params, images.astype(dtype), first, masks)
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

    def relevant(self, masks: Masks) -> Masks:
        """Return the masks of the segment's own sites."""
        ops = [self.graph.operations[half.place] for half in self.halves[self.begin : self.end]]
        dropped = {n for half in self.halves[self.begin : self.end] for n in self.graph.drops[half.place]}
        names = {end for op in ops for end in (op.out, op.inner)}
        return Masks(
            {name: mask for name, mask in masks.sites.items() if name in names},
            {name: live for name, live in masks.live.items() if name in dropped},
        )

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


def _chain(
    stages: Sequence[_Segment],
    params: list[dict[str, Any]],
    images: jax.Array,
    first: Int[Array, ''],
    masks: Masks,
) -> tuple[jax.Array, list[dict], jax.Array]:
    """Return the largest network's logits, its segments' moments, and the mutated network's logits.

    A mutated segment runs from `first` on; what enters the first of them is the largest's activation.
    """

    # All traced values are arguments: those that a custom gradient closes over leak under `checkpoint` or `scan`.
    @jax.custom_vjp
    def run(
        params: list[dict[str, Any]], images: jax.Array, *given: Any
    ) -> tuple[jax.Array, list, jax.Array]:
        return forward(params, images, *given)[0]

    def forward(
        params: list[dict[str, Any]], images: jax.Array, first: jax.Array, masks: Masks
    ) -> tuple[tuple, tuple]:
        last = len(stages) - 1
        x, moments, pulls, gates = images, [], [], []
        mutated: Any = None
        for index, (stage, own) in enumerate(zip(stages, params, strict=True)):
            if index > 0:
                mutated = x if mutated is None else once(_enter(first, index, last), _second, mutated, x)
            x, pull, seen = jax.vjp(stage.largest, own, x, has_aux=True)
            moments.append(seen)
            pulls.append(pull)
            if 0 < index < last:
                mutated, gate = _gated_vjp(index, first <= index, stage, own, mutated, stage.relevant(masks))
                gates.append(gate)
        mutated, pull = jax.vjp(functools.partial(stages[last].mutated, masks=masks), params[last], mutated)
        # Under `vmap` over widths JAX would sum the gradient of a result that does not depend on them twice.
        x = x + (0 * first).astype(x.dtype)
        return (x, moments, mutated), (first, pulls, gates, pull)

    def backward(saved: tuple, gradients: tuple) -> tuple:
        last = len(stages) - 1
        dx, _, dmutated = gradients
        first, pulls, gates, pull_mutated = saved
        dparams = []
        for index in reversed(range(len(stages))):
            down, dx = pulls[index](dx)
            if index == last:
                more, dmutated = pull_mutated(dmutated)
                down = jax.tree.map(jnp.add, down, more)
            elif index > 0:
                down, dmutated = _gated_pull(first <= index, gates[index - 1], down, dmutated)
            if index > 0:
                dx = once(_enter(first, index, last), jnp.add, dx, dmutated)
            dparams.append(down)
        return dparams[::-1], dx, None, None

    run.defvjp(forward, backward)
    return run(params, images, first, masks)


def _enter(first: jax.Array, index: int, last: int) -> jax.Array:
    """Say whether the largest network's activation enters the mutated one's at this segment."""
    return first >= index if index == last else first == index


def _second(_: Any, x: jax.Array) -> jax.Array:
    return x


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Gate:
    """What the gradient of a mutated stage needs; residuals are of any value where it did not run."""

    params: Any
    x: jax.Array
    masks: Masks
    residuals: list[jax.Array]
    tree: Any = dataclasses.field(metadata={'static': True})  # of the gradient's function
    places: tuple[int | None, ...] = dataclasses.field(metadata={'static': True})
    """Where among the three operands each of its leaves is found; None for the next of the residuals."""


def _gated_vjp(
    index: int, run: Bool[Array, ''], stage: _Segment, params: Any, x: jax.Array, masks: Masks
) -> tuple[jax.Array, _Gate]:
    """Return a mutated stage's activations, of any value where it does not run, and what its gradient needs."""
    kept: list[Any] = []

    def with_residuals(_: Any, *operands: Any) -> tuple[jax.Array, list[jax.Array]]:
        params, x, masks = operands
        y, pull = jax.vjp(functools.partial(stage.mutated, masks=masks), params, x)
        leaves, tree = jax.tree.flatten(pull)
        known = [id(leaf) for leaf in jax.tree.leaves(operands)]
        places = [known.index(id(leaf)) if id(leaf) in known else None for leaf in leaves]
        kept[:] = [tree, tuple(places)]
        return y, [leaf for leaf, place in zip(leaves, places, strict=True) if place is None]

    operands = (params, x, masks)
    start = vacant(jax.eval_shape(with_residuals, None, *operands), index)
    y, residuals = once(run, with_residuals, start, *operands)
    return y, _Gate(*operands, residuals, *kept)


def _gated_pull(run: Bool[Array, ''], gate: _Gate, dparams: Any, dy: jax.Array) -> tuple[Any, jax.Array]:
    """Add a mutated stage's gradient to that of the parameters; return it and that of the stage's input.

    The input makes room for its gradient: no other memory is set aside for it.
    """

    def add(start: tuple, params: Any, masks: Masks, residuals: list[jax.Array], dy: jax.Array) -> tuple:
        dparams, x = start
        known, own = jax.tree.leaves((params, x, masks)), iter(residuals)
        leaves = [next(own) if place is None else known[place] for place in gate.places]
        more, dx = jax.tree.unflatten(gate.tree, leaves)(dy)
        return jax.tree.map(jnp.add, dparams, more), dx

    return once(run, add, (dparams, gate.x), gate.params, gate.masks, gate.residuals, dy)


def once(run: Bool[Array, ''], function: Callable, start: Any, *operands: Any) -> Any:
    """Return `function(start, *operands)` where `run`, else `start`; only that is computed."""

    def turn(carry: tuple) -> tuple:
        return jnp.zeros_like(run), function(carry[1], *carry[2]), carry[2]

    return jax.lax.while_loop(lambda carry: carry[0], turn, (run, start, operands))[1]


def vacant(shapes: Any, number: int) -> Any:
    """Return arrays to be overwritten, of different values: of equal ones XLA would make one, and copies of it."""
    leaves, tree = jax.tree.flatten(shapes)
    filled = [jnp.full(leaf.shape, number * len(leaves) + i, leaf.dtype) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(tree, filled)
