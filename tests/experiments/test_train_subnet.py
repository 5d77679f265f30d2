"""Training of a found network: from scratch or from the supernet's weights, with an average of the weights."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import train_subnet, train_supernet
from experiments.config import SubnetConfig
from experiments.presets import DIGITS
from experiments.training import load_data
from jcw.nets.axes import slice_variables
from jcw.nets.training import functions_of
from jcw.train import optim, steps
from jcw.train.checkpoint import Checkpoints
from jcw.train.state import init_state
from tests.tiny_graph import chain

GRAPH = chain(
    [('conv', 8, 3, 2), ('separable', 8, 3, 2)], (8, 8, 1), 10, min_multiplier=0.5, levels=3, divisor=4
)
WIDTHS = (4, 8)
SUPERNET = dataclasses.replace(DIGITS.supernet, epochs=0.1, batch=128, warmup_epochs=0)
SHORT = SubnetConfig(epochs=0.05, batch=128, warmup_epochs=0, label_smoothing=0, mixup=0)


def train(tmp_path, subnet: SubnetConfig):
    config = dataclasses.replace(DIGITS, run=tmp_path, subnet=subnet, supernet=SUPERNET)
    dataset = load_data(config)
    folder = tmp_path / 'subnet'
    accuracy = train_subnet.train(config, dataset, GRAPH, WIDTHS, folder, 'Training')
    return config, dataset, (train_subnet.variables_of(config, dataset, GRAPH, WIDTHS, folder), accuracy)


@pytest.fixture(scope='module')
def averaged(tmp_path_factory):
    return train(
        tmp_path_factory.mktemp('run'), dataclasses.replace(SHORT, epochs=0.5, learning_rate=0.4, ema=0.8)
    )


def test_the_average_of_the_weights_takes_their_place(averaged):
    config, _, (variables, _) = averaged
    subnet = config.subnet
    optimiser = optim.with_average(optim.sgd(1.0, 5, momentum=subnet.momentum), subnet.ema)
    like = init_state(jax.random.key(0), functions_of(GRAPH.fixed(WIDTHS)), optimiser)
    with Checkpoints(config.run / 'subnet' / 'checkpoints') as checkpoints:
        state, _ = checkpoints.restore(like)
    same = jax.tree.map(np.array_equal, variables['params'], state.opt_state.average)
    assert all(jax.tree.leaves(same))
    # Of kernels alone: a scale that the next normalisation divides out hardly moves in five steps.
    last = jax.tree.map(np.array_equal, variables['params'], state.params)
    assert not any(operation['kernel'] for operation in last.values())


def test_accuracies_are_those_of_the_average_with_batch_statistics_of_its_own(averaged):
    config, dataset, (variables, accuracy) = averaged
    net, mean, std = functions_of(GRAPH.fixed(WIDTHS)), dataset.mean, dataset.std
    batch = config.subnet.batch
    count = config.supernet.recalibration_images // batch * batch
    images = jnp.asarray(dataset.train.take(slice(count)).images.reshape(-1, batch, *GRAPH.input_shape))
    anew = steps.recalibrate(net, variables, None, images, mean, std)
    for own, expected in zip(jax.tree.leaves(variables), jax.tree.leaves(anew), strict=True):
        np.testing.assert_allclose(own, expected, atol=1e-5)
    for name, part in [('validation', dataset.validation), ('test', dataset.test)]:
        images, labels = map(jnp.asarray, part)
        result = steps.evaluate(net, variables, None, images, labels, mean, std)
        assert accuracy[f'{name}_accuracy'] == pytest.approx(float(result.accuracy), abs=1e-6)


def test_what_is_known_of_a_trained_network_needs_none_of_its_checkpoints(averaged, tmp_path):
    config, dataset, (_, accuracy) = averaged
    kept = shutil.copytree(
        config.run / 'subnet', tmp_path / 'subnet', ignore=shutil.ignore_patterns('checkpoints')
    )
    assert train_subnet.train(config, dataset, GRAPH, WIDTHS, kept, 'Training') == accuracy
    with pytest.raises(ValueError, match='holds no checkpoint'):
        train_subnet.variables_of(config, dataset, GRAPH, WIDTHS, kept)


def test_from_the_supernet_training_starts_at_its_sliced_weights(tmp_path):
    subnet = dataclasses.replace(SHORT, learning_rate=1e-9, epochs=0.1, from_supernet=True)
    config, dataset, (trained, _) = train(tmp_path, subnet)
    supernet = train_supernet.train(config, dataset, GRAPH)
    sliced = slice_variables(supernet.variables, GRAPH, WIDTHS)
    for own, expected in zip(
        jax.tree.leaves(trained['params']), jax.tree.leaves(sliced['params']), strict=True
    ):
        np.testing.assert_allclose(own, expected, atol=1e-6)
