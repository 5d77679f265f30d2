"""What a graph must look like; each message names the operation or the site."""

import itertools
from typing import TYPE_CHECKING

from jcw.operations import ACTIVATIONS, KINDS, MAPS, NORMALISED, OPENINGS, WRITES, Operation

if TYPE_CHECKING:
    from jcw.graph import Graph


def check(graph: 'Graph') -> None:
    """Raise `ValueError` unless a graph can be expressed."""
    if len(graph.input_shape) != 3 or min(graph.input_shape) < 1:
        raise ValueError(f'input_shape must be three positive numbers, got {graph.input_shape}')
    _check_sites(graph)
    _check_operations(graph)
    _check_dropped(graph)


def _check_sites(graph: 'Graph') -> None:
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


def _check_operations(graph: 'Graph') -> None:
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


def _check_operation(graph: 'Graph', place: int, known: set[str]) -> None:
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
    if not all(isinstance(v, int) and v > 0 for v in (op.kernel, op.stride)):
        raise ValueError(
            f'operation {name!r} needs a positive kernel and stride, got {op.kernel} and {op.stride}'
        )
    windowed = op.kind in ('conv', 'depthwise', 'max_pool')
    if not windowed and (op.kernel, op.stride, op.pads) != (1, 1, None):
        raise ValueError(f'operation {name!r} takes no kernel, no stride and no padding')
    if not isinstance(op.norm, bool) or not (op.norm or op.kind in NORMALISED):
        raise ValueError(f'operation {name!r}: norm is True or, of a convolution, False, got {op.norm!r}')
    _check_pads(graph, place)
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


def _check_pads(graph: 'Graph', place: int) -> None:
    op, name, pads = graph.operations[place], graph.operations[place].name, graph.operations[place].pads
    if pads is None:
        return
    pairs = (
        isinstance(pads, tuple) and len(pads) == 2 and all(isinstance(p, tuple) and len(p) == 2 for p in pads)
    )
    if not pairs or not all(isinstance(n, int) and n >= 0 for pair in pads for n in pair):
        raise ValueError(f'operation {name!r} needs pads ((before, after), (before, after)), got {pads!r}')
    if op.kind == 'max_pool' and 2 * max(map(max, pads)) > op.kernel:
        raise ValueError(f'operation {name!r} has pads {pads} of more than half its window, {op.kernel}')
    if min(graph.sizes[place]) < 1:
        raise ValueError(
            f'operation {name!r} has a kernel of {op.kernel}, more than its map has with padding {pads}'
        )


def _check_dropped(graph: 'Graph') -> None:
    for name in sorted(graph.drops[-1]):
        raise ValueError(f'site {name!r} may be 0, but nothing goes round it: its block cannot be dropped')
