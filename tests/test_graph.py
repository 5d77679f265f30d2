"""A graph is checked when it is made; widths, sizes and dropped blocks follow from it."""

import dataclasses
import json

import numpy as np
import pytest

from jcw.builder import build
from jcw.graph import Graph, Operation
from jcw.zoo import inverted_residual
from tests.tiny_graph import GRAPH, RESIDUAL, random_choices, random_graph


def made(net, **settings):
    return build(net, (8, 8, 3), 10, **settings)


def test_choices_and_widths_are_inverses():
    for graph in (GRAPH, RESIDUAL):
        choices = random_choices(0, 50, graph=graph)
        np.testing.assert_array_equal(graph.to_choices(graph.to_widths(choices)), choices)


def test_sites_come_in_the_order_of_the_operations_that_use_them():
    def net(g):
        late, early = g.site('late', 16), g.site('early', 8)
        return g.classify(g.conv(g.conv(g.images, early), late))

    assert made(net).site_names == ('early', 'late')


def test_widths_are_even_multiples_of_the_base_which_is_always_among_them():
    graph = made(lambda g: g.classify(g.conv(g.images, g.site('a', 32))), levels=3, base_multiplier=2)
    assert graph.sites[0].choices == (16, 56, 64, 96)
    assert graph.base.tolist() == [64]


def test_a_graph_comes_back_from_json():
    for graph in (GRAPH, RESIDUAL, random_graph(0)):
        assert Graph.from_json(json.loads(json.dumps(graph.to_json()))) == graph
        assert hash(Graph.from_json(graph.to_json())) == hash(graph)


def test_scopes_are_the_pairs_of_sites_that_one_operation_joins():
    names = {tuple(RESIDUAL.site_names[i] for i in scope) for scope in RESIDUAL.scopes}
    assert names == {
        ('stream', 'expand'),
        ('stream', 'first'),
        ('stream', 'wide'),
        ('first', 'second'),
        ('second', 'wide'),
        ('wide', 'inner'),
    }


def test_blocks_that_a_residual_goes_round_may_be_dropped():
    zero = {site.name for site in RESIDUAL.sites if site.choices[0] == 0}
    assert zero == {'expand', 'first', 'second', 'inner'}
    blocks = {tuple(RESIDUAL.site_names[i] for i in block) for block in RESIDUAL.blocks}
    assert blocks == {('expand',), ('first', 'second'), ('inner',)}


def test_a_block_that_one_of_its_sites_drops_is_dropped_by_all():
    first = RESIDUAL.site_index['first']
    choices = RESIDUAL.num_choices - 1
    choices[first] = 0
    settled = RESIDUAL.settled(choices)
    assert settled[RESIDUAL.site_index['second']] == 0
    assert settled[RESIDUAL.site_index['inner']] == choices[RESIDUAL.site_index['inner']]


def test_the_base_and_the_smallest_network_drop_nothing():
    assert RESIDUAL.base.min() > 0
    assert RESIDUAL.smallest.min() > 0


def test_sizes_divide_by_strides_rounded_up():
    assert GRAPH.sizes[0] == (8, 7)
    assert GRAPH.sizes[-3] == (2, 2)
    assert GRAPH.sizes[-1] == (1, 1)


def conv(g, x=0, **settings):
    return g.conv(g.images if x == 0 else x, g.site(f'site_{x}', 16), **settings)


def remembers_three(g):
    """Every pair of four sites meets in one convolution: three must be remembered to choose the fourth."""
    sites = [g.site(f's{i}', 8) for i in range(4)]
    x = g.conv(g.images, sites[0])
    for i in range(4):
        for j in range(i + 1, 4):
            x = g.conv(g.conv(g.conv(x, sites[i]), sites[j]), sites[i])
    return g.classify(x)


REFUSED = {
    'a concatenation': (lambda g: g.concatenate(conv(g), g.images), 'concatenation of .*conv, images cannot'),
    'widths that differ': (
        lambda g: g.classify(g.add(conv(g), g.conv(1, g.site('other', 16)))),
        "'003_add' of width 'site_0' must read that width, got '001_conv' of 'site_0' and '002_conv' of 'other'",
    ),
    'sizes that differ': (
        lambda g: g.classify(g.add(conv(g), g.conv(1, 'site_0', stride=2))),
        r"'003_add' adds maps of different sizes: '001_conv' of \(8, 8\) and '002_conv' of \(4, 4\)",
    ),
    'an unused operation': (lambda g: (conv(g), g.classify(g.conv(g.images, 4)))[1], "'001_conv' is unused"),
    'an unused site': (
        lambda g: (g.site('idle', 8), g.classify(conv(g)))[1],
        "site 'idle' is declared and never used",
    ),
    'a site of no choice': (
        lambda g: g.classify(g.conv(g.images, g.site('none', 8, ()))),
        "site 'none' has no choice",
    ),
    'widths that do not rise': (
        lambda g: g.classify(g.conv(g.images, g.site('back', 8, (8, 4)))),
        "widths of site 'back' must be strictly increasing",
    ),
    'a site that was not declared': (
        lambda g: g.classify(g.conv(g.images, 'ghost')),
        "'001_conv' has the width 'ghost', which is no site",
    ),
    'a name taken twice': (
        lambda g: g.classify(g.conv(g.conv(g.images, g.site('a', 8)), g.site('a', 8))),
        "site 'a' is declared twice",
    ),
    'what is not there yet': (
        lambda g: g.classify(g.conv(7, 8)),
        "'001_conv' reads 7, which is no operation",
    ),
    'no kernel': (lambda g: g.classify(conv(g, kernel=0)), "'001_conv' needs a positive kernel"),
    'negative pads': (lambda g: g.classify(conv(g, pads=((-1, 0), (0, 0)))), "'001_conv' needs pads"),
    'a kernel beyond its map': (
        lambda g: g.classify(conv(g, kernel=99, pads=((0, 0), (1, 1)))),
        "'001_conv' has a kernel of 99, more than its map has",
    ),
    'a pool of padding': (
        lambda g: g.classify(g.max_pool(conv(g), kernel=3, stride=1, pads=((2, 0), (0, 0)))),
        'of more than half its window, 3',
    ),
    'an unknown activation': (lambda g: g.classify(conv(g, activation='tanh')), 'activation must be one of'),
    'a dense layer of maps': (lambda g: g.dense(conv(g), 10), 'a dense layer follows the mean'),
    'logits that are not last': (lambda g: (conv(g), g.classify(1), g.conv(1, 8))[0], 'must return its last'),
    'no site at all': (lambda g: g.classify(g.conv(g.images, 8)), 'the network has no site'),
    'a width of 0 with nothing round it': (
        lambda g: g.classify(g.conv(g.images, g.site('stem', 8, (0, 8)))),
        "site 'stem' may be 0, but nothing goes round it",
    ),
    'three remembered sites': (remembers_three, r's\d.*s\d.*s\d'),
}


@pytest.mark.parametrize('what', REFUSED)
def test_what_cannot_be_expressed_is_refused_by_name(what):
    net, message = REFUSED[what]
    with pytest.raises(ValueError, match=message):
        made(net)


def test_a_cycle_is_refused():
    operations = list(GRAPH.operations)
    operations[1] = dataclasses.replace(operations[1], reads=(3,))
    with pytest.raises(ValueError, match=r"'001_conv' reads \(3,\): only operations before it"):
        dataclasses.replace(GRAPH, operations=tuple(operations))


@pytest.mark.parametrize(
    'broken',
    [{}, {'sites': 3}, {'sites': [], 'operations': [{'name': 'a'}], 'input_shape': [1, 1, 1]}],
)
def test_what_is_no_graph_is_refused_when_read(broken):
    with pytest.raises(ValueError, match='not the description of a graph'):
        Graph.from_json(broken)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'levels': 0}, 'levels and divisor must be positive'),
        ({'min_multiplier': 2.0}, 'min_multiplier <= max_multiplier'),
        ({'base_multiplier': float('nan')}, 'positive base_multiplier'),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        made(lambda g: g.classify(conv(g)), **settings)


def test_widths_that_are_not_choices_are_named_with_their_site():
    with pytest.raises(ValueError, match=r"width 7 of site 'first' is not one of \(2, 5, 8\)"):
        GRAPH.to_choices([2, 7, 3, 4])
    with pytest.raises(ValueError, match='expected 4 widths'):
        GRAPH.fixed([2, 2])
    with pytest.raises(ValueError, match="site 'stem' must have a positive width, got 0"):
        GRAPH.fixed([0, 2, 3, 4])


def test_a_fixed_graph_has_one_configuration():
    fixed = RESIDUAL.fixed(RESIDUAL.base)
    assert fixed.num_configurations == 1
    np.testing.assert_array_equal(fixed.largest, RESIDUAL.base)


def test_the_width_zero_of_a_stream_is_refused_even_inside_a_block():
    def net(g):
        x = g.conv(g.images, g.site('stream', 8, (0, 8)))
        return g.classify(inverted_residual(g, x, 'stream', g.site('expand', 8)))

    with pytest.raises(ValueError, match="site 'stream' may be 0"):
        made(net)


def test_an_operation_says_what_it_is():
    assert Operation('a', 'conv', (0,), 'stem').stride == 1
