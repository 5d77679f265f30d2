"""A trained network is what a supernet begins with, whoever trained it; what does not fit is refused by name."""

import dataclasses
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from experiments import start, train_base, train_subnet, train_supernet
from experiments.config import Config, SpaceConfig, SubnetConfig, SupernetConfig
from experiments.presets import DIGITS
from experiments.run_folder import Usage
from experiments.space import graph_of, made_by
from experiments.training import load_data
from jcw.nets import axes
from jcw.nets.training import functions_of
from jcw.train import reading
from tests.closeness import assert_close

OWN = """
import flax.linen as nn
import jax
import jax.numpy as jnp


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(8, (3, 3), 2, name='stem')(x))
        y = nn.relu(nn.Conv(16, (1, 1), name='inner')(x))
        x = x + nn.Conv(8, (3, 3), name='outer')(y)
        return nn.Dense(10)(nn.relu(x).mean((1, 2)))


IMAGES = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32)


def make():
    return Net().apply, Net().init(jax.random.key(3), jnp.zeros(IMAGES.shape)), IMAGES
"""
BUILT = """
from jcw.zoo import inverted_residual


def net(g):
    x = g.conv(g.images, g.site('stream', 8), kernel=3, stride=2)
    x = inverted_residual(g, x, 'stream', g.site('inner', 16), gate=g.site('gate', 8))
    return g.dense(g.dense(g.mean(x), g.site('hidden', 8), activation='relu'), g.num_classes)
"""
TWO_STEPS = {'epochs': 0.1, 'batch': 64, 'learning_rate': 0.4}
SUBNET = SubnetConfig(**TWO_STEPS, warmup_epochs=0, label_smoothing=0, mixup=0)


def config_of(folder: Path, text: str, function: str, **supernet) -> Config:
    path = folder / 'my_model.py'
    path.write_text(text)
    space = SpaceConfig(network=f'{path}:{function}', levels=3, min_multiplier=0.5, divisor=4)
    settings = SupernetConfig(**TWO_STEPS, recalibration_images=64, **supernet)
    return dataclasses.replace(DIGITS, run=folder / 'run', space=space, supernet=settings, subnet=SUBNET)


def starting(config: Config, path: Path | str, **settings) -> Config:
    return dataclasses.replace(
        config, supernet=dataclasses.replace(config.supernet, start=str(path), **settings)
    )


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Return settings, and the graph of a network that `train_base` trained under them."""
    config = config_of(tmp_path_factory.mktemp('built'), BUILT, 'net')
    train_base.main(config)
    return config, graph_of(config, load_data(config))


@pytest.fixture
def own(tmp_path):
    return config_of(tmp_path, OWN, 'make')


def variables_of(config: Config, graph):
    """Return the variables that the supernet begins with."""
    state, *_ = train_supernet.start_of(config, graph, optax.sgd(0.1))
    return state.variables


def outputs(graph, variables, widths=None):
    images = jnp.asarray(np.random.default_rng(0).standard_normal((4, *graph.input_shape)), jnp.float32)
    return jax.jit(functions_of(graph).apply)(
        variables, images, None if widths is None else jnp.asarray(widths)
    )[0]


def test_a_supernet_that_begins_with_a_trained_network_gives_its_outputs_at_all_widths_from_its_own(trained):
    config, graph = trained
    base = graph.fixed(graph.base)
    own = reading.as_tree(reading.read(config.run / 'base'), axes.shapes(base))
    begun = variables_of(starting(config, config.run / 'base'), graph)
    assert (graph.largest > graph.base).all()
    assert jax.tree.map(jnp.shape, begun) == jax.tree.map(lambda leaf: leaf.shape, axes.shapes(graph))
    expected = outputs(base, own)
    assert_close(outputs(graph, begun, graph.base), expected)
    assert_close(outputs(graph, begun), expected)
    fresh = axes.initial(jax.random.key(config.seed), graph)
    assert not np.allclose(outputs(graph, fresh, graph.base), expected)


def test_new_channels_are_drawn_and_learn(trained):
    config, graph = trained
    begun = variables_of(starting(config, config.run / 'base'), graph)
    images, labels = jnp.ones((2, *graph.input_shape)), jnp.arange(2)

    def loss(params):
        logits, _ = functions_of(graph).apply({**begun, 'params': params}, images, train=True)
        return -jax.nn.log_softmax(logits)[jnp.arange(2), labels].mean()

    gradient = jax.grad(loss)(begun['params'])
    last = graph.operations[-1].name
    assert np.abs(gradient[last]['kernel'][graph.base[graph.site_index['hidden']] :]).max() > 0


def test_channels_come_in_the_order_of_their_importance(trained):
    from jcw.trace.importance import importance

    config, graph = trained
    found = start.trained_network(starting(config, config.run / 'base'), graph).variables
    for site, scores in importance(found, graph.fixed(graph.base)).items():
        assert (np.diff(scores) <= 1e-6 * scores.max()).all(), site


def test_a_network_traced_brings_its_own_variables(own):
    config = starting(own, 'own')
    graph = graph_of(config, load_data(config))
    apply, variables, _ = made_by(config.space.network)
    images = jnp.asarray(np.random.default_rng(0).standard_normal((4, 8, 8, 1)), jnp.float32)
    assert_close(outputs(graph, variables_of(config, graph), graph.base), apply(variables, images))


SAVED = {
    'the variables': lambda path, v: _save(path, v),
    'a train state': lambda path, v: _save(path, {'step': jnp.array(7), 'opt_state': [v['params']], **v}),
    'the last step of a manager': lambda path, v: _save_step(path, v),
}


def _save(path, tree):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, tree)


def _save_step(path, variables):
    with ocp.CheckpointManager(path) as manager:
        for step, scale in ((9, 0.0), (10, 1.0)):
            tree = jax.tree.map(lambda leaf, scale=scale: scale * leaf, variables)
            manager.save(step, args=ocp.args.StandardSave(tree))


@pytest.mark.parametrize('form', SAVED)
def test_checkpoints_of_a_traced_functions_variables_are_read(own, tmp_path, form):
    graph = graph_of(own, load_data(own))
    apply, variables, _ = made_by(own.space.network)
    others = jax.tree.map(lambda leaf: leaf + 0.1, variables)
    SAVED[form](tmp_path / 'saved', others)
    images = jnp.asarray(np.random.default_rng(0).standard_normal((4, 8, 8, 1)), jnp.float32)
    begun = variables_of(starting(own, tmp_path / 'saved'), graph)
    assert_close(outputs(graph, begun, graph.base), apply(others, images))


def test_the_state_of_an_nnx_network_is_read_pure_or_not(tmp_path):
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.stem, self.norm = nnx.Conv(1, 8, (3, 3), rngs=rngs), nnx.BatchNorm(8, rngs=rngs)
            self.dropout = nnx.Dropout(0.5, rngs=rngs)

    state, other = (nnx.split(Net(nnx.Rngs(seed)))[1] for seed in (0, 1))
    _save(tmp_path / 'state', other)
    _save(tmp_path / 'pure', nnx.to_pure_dict(other))
    for name in ('state', 'pure'):
        found = reading.read(tmp_path / name)
        assert reading.fits(found, state) == []
        read = reading.as_tree(found, state)
        assert_close(read['stem']['kernel'][...], other['stem']['kernel'][...])


def refusal(config: Config, path: Path | str, graph) -> str:
    with pytest.raises(Usage) as refused:
        start.trained_network(starting(config, path), graph)
    return str(refused.value)


def test_checkpoints_that_do_not_fit_are_refused_by_path_and_parameter(own, tmp_path):
    graph = graph_of(own, load_data(own))
    variables = made_by(own.space.network)[1]
    stem = variables['params']['stem']
    cases = {
        'wider': (
            {**stem, 'kernel': jnp.zeros((3, 3, 1, 12))},
            'stem/kernel is [3, 3, 1, 12] instead of [3, 3, 1, 8]',
        ),
        'less': ({'kernel': stem['kernel']}, 'params/stem/bias is absent instead of [8]'),
        'more': ({**stem, 'scale': jnp.zeros(8)}, 'params/stem/scale is [8] instead of absent'),
        'nan': ({**stem, 'bias': jnp.full(8, jnp.nan)}, 'params/stem/bias has entries that are not finite'),
    }
    for name, (changed, message) in cases.items():
        _save(tmp_path / name, {'params': {**variables['params'], 'stem': changed}})
        said = refusal(own, tmp_path / name, graph)
        assert message in said
        assert str(tmp_path / name) in said
    assert 'holds no orbax checkpoint' in refusal(own, tmp_path / 'nowhere', graph)
    assert 'holds no orbax checkpoint' in refusal(own, tmp_path / 'my_model.py', graph)


def test_a_network_that_brings_no_variables_is_not_started_from_its_own(trained):
    config, graph = trained
    assert 'has no variables of its own' in refusal(config, 'own', graph)


def test_damaged_checkpoints_are_refused(trained, tmp_path):
    config, graph = trained
    folder = tmp_path / 'base'
    shutil.copytree(config.run / 'base', folder)
    largest = max((p for p in folder.rglob('*') if p.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 8
    largest.write_bytes(bytes(content))
    said = refusal(config, folder, graph)
    assert 'is damaged' in said
    assert str(folder) in said


def test_the_same_checkpoint_elsewhere_is_the_same_run_and_another_is_not(trained, tmp_path):
    config, graph = trained
    path = tmp_path / 'moved'
    shutil.copytree(config.run / 'base', path)
    first = starting(dataclasses.replace(config, run=tmp_path / 'run'), config.run / 'base')
    dataset = load_data(config)
    train_supernet.train(first, dataset, graph)
    train_supernet.train(starting(first, path), dataset, graph)
    _save(tmp_path / 'other', axes.initial(jax.random.key(1), graph.fixed(graph.base)))
    with pytest.raises(Usage, match=r'holds results of other settings: supernet\.start was sha256'):
        train_supernet.train(starting(first, tmp_path / 'other'), dataset, graph)
    with pytest.raises(Usage, match=r'supernet\.start was sha256 .*, now None'):
        train_supernet.train(config_started_from_nothing(first), dataset, graph)


def config_started_from_nothing(config: Config) -> Config:
    return dataclasses.replace(config, supernet=dataclasses.replace(config.supernet, start=None))


def test_a_found_network_begins_with_the_largest_channels_of_the_trained_one(trained, tmp_path):
    config, graph = trained
    still = dataclasses.replace(SUBNET, learning_rate=1e-9, from_start=True)
    config = starting(dataclasses.replace(config, run=tmp_path, subnet=still), config.run / 'base')
    widths = (*graph.smallest.tolist(),)
    network = config, load_data(config), graph, widths, tmp_path / 'small'
    train_subnet.train(*network, 'Training')
    found = train_subnet.variables_of(*network)
    begun = axes.slice_variables(start.trained_network(config, graph).variables, graph, widths)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found['params'], begun['params'])
    both = dataclasses.replace(config, subnet=dataclasses.replace(still, from_supernet=True))
    with pytest.raises(Usage, match='one of them, or neither'):
        train_subnet.train(both, load_data(config), graph, widths, tmp_path / 'small', 'Training')
