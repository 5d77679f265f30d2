"""The graph of a run comes from the zoo, or from a function of the user's own, in any of three forms."""

import dataclasses

import pytest

from experiments.config import Config, SpaceConfig
from experiments.run_folder import Usage, claim
from experiments.space import graph_of, settings_of
from jcw import data

FILE = """
import jax
import jax.numpy as jnp

from jcw.builder import build


def appended(g):
    return g.classify(g.conv(g.images, g.site('stem', 16), kernel=3))


def graph():
    return build(appended, (8, 8, 1), 10)


def apply(variables, images):
    spec = ('NHWC', 'HWIO', 'NHWC')
    maps = jax.lax.conv_general_dilated(images, variables['stem'], (1, 1), 'SAME', dimension_numbers=spec)
    return jax.nn.relu(maps).mean((1, 2)) @ variables['head']


def network():
    variables = {'stem': jnp.ones((3, 3, 1, 16)), 'head': jnp.eye(16, 10)}
    return apply, variables, jnp.zeros((2, 8, 8, 1))


def other_images():
    return build(appended, (16, 16, 3), 10)


def nothing():
    return None
"""


@pytest.fixture
def made(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text(FILE)

    def graph(function, **settings):
        config = dataclasses.replace(Config(), space=SpaceConfig(network=f'{path}:{function}', **settings))
        graph = graph_of(config, data.load('digits'))
        assert len(settings_of(config, graph)['graph']) == 64
        return graph

    return graph


@pytest.mark.parametrize('function', ['appended', 'graph', 'network'])
def test_a_function_of_ones_own_gives_the_graph(made, function):
    graph = made(function)
    assert [op.kind for op in graph.operations] == ['images', 'conv', 'mean', 'dense']
    assert graph.base.tolist() == [16]


def test_a_changed_file_is_said_to_be_another_network(tmp_path):
    path = tmp_path / 'mine.py'
    config = dataclasses.replace(Config(), space=SpaceConfig(network=f'{path}:appended'))

    def started():
        return claim(tmp_path / 'run', space=settings_of(config, graph_of(config, data.load('digits'))))

    path.write_text(FILE)
    (started() / 'result.json').touch()
    path.write_text(FILE.replace("'stem', 16", "'stem', 24"))
    with pytest.raises(Usage, match=r'settings: space.graph, another network: its file has changed, or'):
        started()


def test_a_traced_network_takes_the_widths_of_the_settings(made):
    assert made('network', divisor=4, max_multiplier=1.0, levels=3).sites[0].choices == (4, 8, 16)


@pytest.mark.parametrize(
    ('function', 'settings', 'message'),
    [
        (
            'other_images',
            {},
            r'is for images of \(16, 16, 3\) and 10 classes, the data has \(8, 8, 1\) and 10',
        ),
        ('nothing', {}, r'must return a graph or \(apply, variables, example\), got NoneType'),
        ('graph', {'base_multiplier': 0.5}, 'decides strides and base widths'),
    ],
)
def test_what_does_not_fit_the_run_is_refused(made, function, settings, message):
    with pytest.raises(ValueError, match=message):
        made(function, **settings)
