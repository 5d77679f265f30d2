"""How training is started: what is refused, and what settings become."""

import dataclasses

import numpy as np
import pytest

from experiments import launch, stage, train_supernet, training
from experiments.config import Config, LaunchConfig, SupernetConfig
from experiments.run_folder import Usage
from jcw import data
from jcw.train.loop import Diverged, Interrupted
from tests.tiny_graph import GRAPH


def launched(**settings):
    return Config(launch=LaunchConfig(**settings))


def supernet(**settings):
    return Config(supernet=SupernetConfig(**settings))


def test_a_coordinator_without_numbers_is_refused():
    with pytest.raises(ValueError, match=r'launch\.coordinator needs launch\.num_processes'):
        launch.start(launched(coordinator='host:1234'))


def test_a_stage_of_one_process_refuses_to_be_one_of_several(capsys):
    with pytest.raises(SystemExit) as stopped:
        stage.run_stage(lambda config: None, launched(distributed=True))
    assert stopped.value.code == 1
    assert 'this stage runs in one process' in capsys.readouterr().err


@pytest.mark.parametrize(('end', 'code'), [(Interrupted('saved'), 0), (Diverged('loss is nan'), 1)])
def test_an_interruption_is_no_failure_and_a_divergence_is(tmp_path, capsys, end, code):
    def main(config):
        raise end

    with pytest.raises(SystemExit) as stopped:
        stage.run_stage(main, Config(run=tmp_path))
    assert stopped.value.code == code
    assert capsys.readouterr().err == f'{type(end).__name__}: {end}\n'


def test_alone_a_process_is_the_first_and_waits_for_none():
    assert launch.is_first()
    launch.meet('nobody else')
    launch.stop()


@pytest.mark.parametrize(('epoch', 'chosen', 'expected'), [(20, None, 100), (500, None, 500), (500, 7, 7)])
def test_checkpoints_are_written_every_epoch_but_not_too_often(epoch, chosen, expected):
    settings = launch.loop_settings(launched(save_every=chosen), epoch)
    assert settings['save_every'] == expected


def test_a_batch_that_does_not_divide_is_refused_before_anything_compiles():
    config = supernet(batch=72, accumulate=4)
    with pytest.raises(Usage, match=r'supernet.batch 72 does not divide into 16 parts, on 4 devices'):
        train_supernet._step(config, None, GRAPH, None, 10, None)


def test_batches_of_one_process_are_whole():
    images = np.arange(40, dtype=np.uint8).reshape(10, 2, 2, 1)
    part = data.Examples(images, np.arange(10, dtype=np.int32))
    dataset = data.Dataset('made up', part, part, part, ('0',), (0.5,), (0.5,))
    config = dataclasses.replace(Config(), seed=3)
    with training.batches(config, dataset, 4) as batch_of:
        np.testing.assert_array_equal(batch_of(1).labels, data.batch_rows(1, 10, 4, seed=3))
