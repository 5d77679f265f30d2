"""A stranger's residual networks through every stage, blocks of them dropped, as a user runs them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.config import Config, SpaceConfig
from experiments.space import fitting, graph_of, settings_of
from jcw import data
from jcw.accuracy.table import AccuracyTable

ROOT = Path(__file__).parents[2]
STAGES = (
    *('measure_latency', 'fit_latency', 'train_supernet', 'fit_accuracy'),
    *('search_widths', 'repair_widths', 'train_subnet', 'export'),
)
INVERTED = """
from jcw.zoo import inverted_residual


def net(g):
    x = g.conv(g.images, g.site('stream', 16), kernel=3, stride=2)
    x = inverted_residual(g, x, 'stream', g.site('inner', 32))
    return g.classify(g.conv(x, g.site('head', 32)))
"""
DENSE = """
from jcw.zoo import basic_block


def net(g):
    x = g.conv(g.images, g.site('stream', 16), kernel=3)
    x = basic_block(g, x, 'stream', g.site('inner', 16), 1)
    return g.classify(basic_block(g, x, g.site('wide', 32), g.site('inner_wide', 32), 2))
"""


def settings(path: Path, run: Path) -> list[str]:
    return [
        *('digits', '--run', str(run), '--space.network', f'{path}:net', '--space.levels', '6'),
        *(
            '--space.drop-blocks',
            '--latency.networks',
            '40',
            '--latency.batch',
            '4',
            '--supernet.epochs',
            '2',
        ),
        *(
            '--subnet.epochs',
            '4',
            '--subnet.warmup-epochs',
            '1',
            '--subnet.seeds',
            '0',
            '--accuracy.measure',
            'accuracy',
            '--accuracy.trainings',
            '4',
            '--accuracy.epochs',
            '0.5',
        ),
        *('--search.budget', '0.9', '--search.greedy-images', '50', '--repair.rounds', '2'),
    ]


@pytest.mark.slow
@pytest.mark.parametrize('network', [INVERTED, DENSE], ids=['inverted residuals', 'dense convolutions'])
def test_a_network_in_a_file_goes_through_all_stages_to_a_deployed_one(tmp_path, network):
    path, run = tmp_path / 'net.py', tmp_path / 'run'
    path.write_text(network)
    for stage in STAGES:
        done = subprocess.run(
            [sys.executable, '-m', f'experiments.{stage}', *settings(path, run)],
            cwd=ROOT,
            env={**os.environ, 'JAX_NUM_CPU_DEVICES': '1'},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, f'{stage}: {done.stdout}{done.stderr}'
    from jcw import deploy

    deployed = deploy.load(run / 'network' / '0.9')
    test = data.load('digits').test
    accuracy = float((np.asarray(deployed(test.images)).argmax(-1) == test.labels).mean())
    said = deployed.description['accuracy']['test_accuracy']
    assert accuracy == pytest.approx(said, abs=0.5 / len(test))
    fitted = AccuracyTable.load(run / 'accuracy' / '0.9' / 'table.json')
    assert len(fitted.evidence.choices) == 4
    assert json.loads((run / 'search' / '0.9' / 'result.json').read_text())['unit'] == '%'
    path.write_text(network.replace("'stream', 16", "'stream', 24"))
    done = subprocess.run(
        [sys.executable, '-m', 'experiments.train_supernet', *settings(path, run)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 1
    assert 'holds results of other settings: space.graph' in done.stderr


def digits(side: int = 8) -> data.Dataset:
    images = data.Examples(np.zeros((4, side, side, 3), np.uint8), np.arange(4, dtype=np.int32))
    return data.Dataset('four', images, images, images, ('a', 'b', 'c', 'd'), (0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize(
    ('network', 'message'),
    [
        ('mobilenet_v9', "no network 'mobilenet_v9'; take FILE.py:function or one of mobilenet_v1"),
        ('nowhere.py:net', 'there is no file nowhere.py'),
        ('{file}:other', "has no function 'other'"),
        ('{broken}:net', 'cannot be run: SyntaxError'),
    ],
)
def test_networks_that_are_not_there_are_named(tmp_path, network, message):
    (tmp_path / 'net.py').write_text(INVERTED)
    (tmp_path / 'broken.py').write_text('def net(:')
    name = network.format(file=tmp_path / 'net.py', broken=tmp_path / 'broken.py')
    with pytest.raises(ValueError, match=message):
        graph_of(Config(space=SpaceConfig(network=name)), digits())


def test_strides_for_a_function_of_ones_own_are_refused(tmp_path):
    (tmp_path / 'net.py').write_text(INVERTED)
    config = Config(space=SpaceConfig(network=f'{tmp_path / "net.py"}:net', strides=(1, 2)))
    with pytest.raises(ValueError, match='takes none, its function decides them'):
        graph_of(config, digits())


def test_published_strides_fit_the_image():
    assert fitting((2, 1, 2, 2, 2, 1, 2, 1), 224) == (2, 1, 2, 2, 2, 1, 2, 1)
    assert fitting((2, 1, 2, 2, 2, 1, 2, 1), 32) == (1, 1, 1, 2, 2, 1, 2, 1)
    assert fitting((2, 1, 2, 2, 2, 1, 2, 1), 8) == (1, 1, 1, 1, 1, 1, 2, 1)
    assert fitting((1, 1, 2, 2), 32) == (1, 1, 2, 2)


def test_a_changed_file_is_another_run(tmp_path):
    path = tmp_path / 'net.py'
    config = Config(space=SpaceConfig(network=f'{path}:net'))
    path.write_text(INVERTED)
    before = settings_of(config, graph_of(config, digits()))
    path.write_text(INVERTED.replace("'stream', 16", "'stream', 24"))
    after = settings_of(config, graph_of(config, digits()))
    assert before['graph'] != after['graph']
