"""What a network takes besides time: the size of its LiteRT file, and the memory of its activations."""

import numpy as np

from jcw.field import Field
from jcw.graph import Graph
from jcw.latency.entries import Entries
from jcw.latency.table import LatencyTable

BYTES = {'float32': 4, 'bfloat16': 2, 'int8': 1}
"""Of a number."""
PER_CHANNEL = {
    'float32': 0,
    'int8': 27,
}  # bias of 4 bytes for 1, two scales of 4 and two zero points of 8 bytes
PER_OPERATION = {'float32': (295, 100), 'int8': (400, 160)}
"""Names, shapes and options of an operation, and of each further operator of an activation or a gate, at most."""


def file_table(graph: Graph, dtype: str = 'float32') -> LatencyTable:
    """Build the table of bytes of a network's LiteRT file; the file is smaller by a few kB at most.

    Raises:
      ValueError: a dtype that no such file is written in.
    """
    if dtype not in PER_CHANNEL:
        raise ValueError(f'LiteRT files are written in {" and ".join(PER_CHANNEL)}, not {dtype}')
    entries = Entries(graph)
    count = BYTES[dtype] * entries.work[:, 4] + PER_CHANNEL[dtype] * entries.channels
    more = {'hard_swish': 3 if dtype == 'int8' else 1, 'swish': 2}
    further = sum(4 * (op.kind == 'gate') + more.get(op.activation or '', 0) for op in graph.operations)
    each, extra = PER_OPERATION[dtype]
    base = float(each * (len(graph.operations) + 1) + extra * further)
    return LatencyTable(graph, count, base, unit='bytes', provenance={'source': 'counted'})


def peak(graph: Graph, widths: np.ndarray) -> int:
    """Return the most numbers that one operation of a network reads and writes, for one image.

    What a residual keeps alive beside an operation is not counted.
    """
    entries = Entries(graph)
    used = entries.used(graph.to_choices(widths))
    return int(entries.peaks[used[used >= 0]].max())


def peak_within(graph: Graph, most: float) -> Field:
    """Forbid networks of a greater `peak`: potentials of 0 and -inf, to be added to a utility."""
    entries = Entries(graph)
    return entries.to_field(np.where(entries.peaks <= most, 0.0, -np.inf), 0.0)


def least_peak(graph: Graph, allowed: Field) -> int:
    """Return the least `peak` of the configurations that are allowed site by site: their narrowest has it."""
    narrowest = (~np.isneginf(np.asarray(allowed.unary))).argmax(1)
    return peak(graph, graph.to_widths(graph.settled(narrowest)))
