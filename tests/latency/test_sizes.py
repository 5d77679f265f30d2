"""File sizes against the files, peaks against every operation."""

import itertools

import numpy as np
import pytest

from jcw import deploy, zoo
from jcw.builder import build
from jcw.field import add, scores
from jcw.latency import sizes
from jcw.search import ows
from tests.tiny_graph import GRAPH, RESIDUAL, mobilenet_v1

EVERY = {
    id(graph): np.array(list(itertools.product(*(range(n) for n in graph.num_choices))))
    for graph in (GRAPH, RESIDUAL)
}


@pytest.mark.parametrize('name', ['mobilenet_v1', 'mobilenet_v2', 'mobilenet_v3'])
@pytest.mark.parametrize('dtype', ['float32', 'int8'])
def test_a_files_size_is_known_from_its_widths(name, dtype):
    graph = build(zoo.NETWORKS[name], (32, 32, 3), 10, base_multiplier=0.5, levels=6)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    table = sizes.file_table(graph, dtype)
    for widths in (graph.smallest, graph.largest):
        model = deploy.litert_model(graph, widths)
        size = len(deploy.litert_int8(model, images) if dtype == 'int8' else model)
        assert size <= float(table.predict(widths)) <= size + 160 * len(graph.operations)


def test_a_type_that_no_file_is_written_in_is_refused():
    with pytest.raises(ValueError, match='float32 and int8, not bfloat16'):
        sizes.file_table(GRAPH, 'bfloat16')


def test_a_peak_is_what_the_greatest_operation_reads_and_writes():
    graph = mobilenet_v1((32, 32, 3), 10)
    widths = graph.base
    maps, channels = [graph.sizes[0][0] ** 2 * 3], []
    for place, op in enumerate(graph.operations[1:], 1):
        maps.append(int(np.prod(graph.sizes[place])) * graph.width(op.out, widths))
        channels.append(sum(maps[read] for read in op.reads) + maps[place])
    assert sizes.peak(graph, widths) == max(channels)


@pytest.mark.parametrize('graph', [GRAPH, RESIDUAL])
def test_what_is_left_has_no_greater_peak_and_all_that_has_none_is_left(graph):
    flat = ows.flat(graph)
    every = EVERY[id(graph)]
    every = every[np.isfinite(scores(flat, every))]
    peaks = np.array([sizes.peak(graph, widths) for widths in graph.to_widths(every)])
    for limit in np.quantile(peaks, [0.1, 0.5, 0.9]):
        left = np.isfinite(scores(add(flat, sizes.peak_within(graph, limit)), every))
        np.testing.assert_array_equal(left, peaks <= limit)
    assert sizes.least_peak(graph, flat) == peaks.min()
