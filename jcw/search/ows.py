"""One-shot width search: from width statistics to the field, and from the field to a configuration."""

import numpy as np

from jcw import constraints
from jcw.accuracy.table import AccuracyTable
from jcw.field import Field, add, independent
from jcw.graph import Graph
from jcw.search import stats


def to_field(unary: stats.Unary, graph: Graph) -> Field:
    """Return the field of a graph's unaries: accuracy needs no pairwise terms.

    Choices never drawn stay at -inf, so that they cannot win. Where all sites of a block are 0 together, that it is
    dropped counts once.

    Raises:
      ValueError: an effect that is NaN or infinite, or a site none of whose choices was ever drawn.
    """
    stats.check_means(unary)
    missing = np.flatnonzero(~np.isfinite(unary.mean).any(1))
    if missing.size:
        name = graph.site_names[missing[0]]
        raise ValueError(f'no width of site {name!r} was ever drawn: train the supernet longer')
    if unary.mean.shape != graph.width_table.shape:
        raise ValueError(f'unaries {unary.mean.shape} do not fit the graph {graph.width_table.shape}')
    mean = np.array(unary.mean)
    for block in graph.blocks:
        mean[list(block[1:]), 0] = 0
    return add(independent(mean), constraints.whole_blocks(graph.present, graph.blocks))


def fitted(table: AccuracyTable, graph: Graph) -> Field:
    """Return the field of the effects fitted to short trainings, blocks dropped whole or not at all.

    Raises:
      ValueError: the table is of other sites or widths than the graph.
    """
    if (table.sites, table.widths) != (graph.site_names, graph.width_choices):
        raise ValueError(f'the accuracy table is of sites {table.sites} and their widths, not of this graph')
    return add(independent(table.unary()), flat(graph))


def flat(graph: Graph) -> Field:
    """Return the field to which all configurations are alike."""
    return constraints.whole_blocks(graph.present, graph.blocks)
