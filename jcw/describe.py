"""A network as a table: what it is made of, which widths are searched, what is tied to what, what is frozen and why."""

from jcw.graph import Graph, Operation

HEADS = ('operation', 'reads', 'size', 'width', 'site', 'notes')


def describe(graph: Graph) -> str:
    """Return a graph as text: a row for each operation, then a row for each site with all that it ties together."""
    rows: list[tuple[str, ...]] = [HEADS, *(_row(graph, place) for place in range(len(graph.operations)))]
    sites: list[tuple[str, ...]] = [('site', 'base', 'widths', 'ties')]
    for site in graph.sites:
        tied = [op.name for op in graph.operations if site.name in (op.out, op.inner)]
        sites.append((site.name, str(site.base), ' '.join(map(str, site.choices)), ', '.join(tied)))
    return f'{_table(rows)}\n\n{_table(sites)}'


def _row(graph: Graph, place: int) -> tuple[str, ...]:
    op = graph.operations[place]
    height, width = graph.sizes[place]
    outs = [op.out] if op.inner is None else [op.out, op.inner]
    bases = {site.name: site.base for site in graph.sites}
    return (
        _title(op),
        ' '.join(graph.operations[read].name for read in op.reads),
        f'{height}x{width}',
        ' / '.join(str(bases.get(str(out), out)) for out in outs),
        ' / '.join(out if isinstance(out, str) else '-' for out in outs),
        op.note,
    )


def _title(op: Operation) -> str:
    kernel = f' {op.kernel}x{op.kernel}' if op.kind in ('conv', 'depthwise', 'max_pool') else ''
    stride = f'/{op.stride}' if op.stride > 1 else ''
    pads = f'pads {op.pads[0]} {op.pads[1]}' if op.pads else ''
    norm = '' if op.norm else 'bias'
    return ' '.join(filter(None, (f'{op.name}{kernel}{stride}', pads, norm, op.activation)))


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        '  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    lines.insert(1, '  '.join('-' * width for width in widths[:-1]) + '  ' + '-' * len(rows[0][-1]))
    return '\n'.join(lines)
