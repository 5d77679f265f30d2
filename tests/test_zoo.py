"""The published networks, by their published counts and by 16,384 stated ones."""

import hashlib
import itertools

import numpy as np
import pytest

from jcw import zoo
from jcw.builder import build
from jcw.latency.table import flops_table
from jcw.nets.axes import count_parameters

PUBLISHED = {  # parameters, multiply-adds of convolutions and classifier, at 224x224 and 1000 classes
    'mobilenet_v1': (4_231_976, 569e6),
    'mobilenet_v2': (3_504_872, 301e6),
    'resnet18': (11_689_512, 1.81e9),
    'resnet50': (25_557_032, 4.09e9),
    'efficientnet_lite0': (4_652_008, 385e6),
}


@pytest.mark.parametrize('name', PUBLISHED)
def test_a_published_network_has_its_published_counts(name):
    graph = build(zoo.NETWORKS[name], (224, 224, 3), 1000, levels=2)
    parameters, operations = PUBLISHED[name]
    assert count_parameters(graph, graph.base) == parameters
    np.testing.assert_allclose(flops_table(graph).predict(graph.base) / 2, operations, rtol=3e-3)


@pytest.mark.parametrize('name', zoo.NETWORKS)
def test_every_network_of_the_zoo_is_a_graph_whose_blocks_may_be_dropped(name):
    graph = build(zoo.NETWORKS[name], (32, 32, 3), 10, base_multiplier=0.25, levels=3, drop_blocks=True)
    assert (len(graph.blocks) > 0) == (name != 'mobilenet_v1')
    widths = graph.base.copy()
    widths[[site for block in graph.blocks for site in block]] = 0
    assert graph.fixed(widths).num_sites == graph.num_sites - sum(map(len, graph.blocks))


def test_strides_may_be_given_and_are_counted():
    small = build(zoo.mobilenet_v2, (32, 32, 3), 10, levels=2)
    fine = build(lambda g: zoo.mobilenet_v2(g, (1, 1, 1, 2, 2, 1, 2, 1)), (32, 32, 3), 10, levels=2)
    assert (small.sizes[-3], fine.sizes[-3]) == ((1, 1), (4, 4))
    with pytest.raises(ValueError, match='takes 8 strides, got 3'):
        build(lambda g: zoo.mobilenet_v2(g, (1, 1, 1)), (32, 32, 3), 10)


def bench_network(g):
    """Channel-Bench-Macro's MobileNet: two streams, four inverted residuals, a 1x1 convolution."""
    quarters = {name: [width * k // 4 for k in (1, 2, 3, 4)] for name, width in WIDTHS.items()}

    def site(name):
        return g.site(name, WIDTHS[name], quarters[name])

    x = g.conv(g.images, site('stream_1'), kernel=3, stride=2)
    for block in (1, 2):
        x = zoo.inverted_residual(g, x, 'stream_1', site(f'expand_{block}'), activation='relu')
    x = zoo.inverted_residual(g, x, site('stream_2'), site('expand_3'), stride=2, activation='relu')
    x = zoo.inverted_residual(g, x, 'stream_2', site('expand_4'), activation='relu')
    return g.classify(g.conv(x, site('head')))


WIDTHS = {
    'stream_1': 128,
    'expand_1': 768,
    'expand_2': 768,
    'expand_3': 768,
    'stream_2': 256,
    'expand_4': 1536,
    'head': 1024,
}

STATED = {  # sha256 of the stated counts of all 16,384 networks as little-endian int64, the last choice fastest
    'parameters': '018fd64bc5ae54c4d8a58ee25d626acf130e4d52c352ffcaa4cbbe37c05d75b5',
    'multiply-adds': '9f3b6772d6c22ea12edfe72155d1d8c9e45a5bf32a2f522b02f256097d586d02',
}
SOME = {(0,) * 7: (125418, 14285312), (0,) * 6 + (1,): (144874, 15336448), (3,) * 7: (1804170, 211281920)}


def test_every_network_of_a_published_benchmark_has_its_stated_counts():
    """Channel-Bench-Macro's tables state both counts of each."""
    graph = build(bench_network, (32, 32, 3), 10)
    assert graph.site_names == tuple(WIDTHS)
    for choices, counts in SOME.items():
        widths = graph.to_widths(np.array(choices))
        assert (count_parameters(graph, widths), flops_table(graph).predict(widths) / 2) == counts
    every = graph.to_widths(np.array(list(itertools.product(range(4), repeat=7))))
    found = {
        'parameters': count_parameters(graph, every),
        'multiply-adds': flops_table(graph).predict(every) / 2,
    }
    for what, counts in found.items():
        assert hashlib.sha256(np.asarray(counts, '<i8').tobytes()).hexdigest() == STATED[what]
