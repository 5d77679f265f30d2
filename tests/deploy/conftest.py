"""A network trained for a moment on the digits, and its export, made once for all tests of deployment."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jcw import data, deploy, zoo
from jcw.builder import build
from jcw.graph import Graph
from jcw.nets.axes import Variables
from jcw.nets.training import functions_of
from jcw.train import optim, steps
from jcw.train.state import init_state


def _net(g):
    x = g.conv(g.images, g.site('stem', 8, (4, 8, 12)), kernel=3)
    x = zoo.inverted_residual(g, x, 'stem', g.site('inner', 16, (8, 16)))
    x = g.conv(g.depthwise(x, stride=2), g.site('middle', 16, (8, 16)))
    return g.classify(g.conv(g.depthwise(x, kernel=5, stride=2), g.site('last', 16, (8, 12, 16))))


GRAPH = build(_net, (8, 8, 1), 10)
WIDTHS = (8, 16, 16, 12)
STEPS = 160


class Trained(NamedTuple):
    """The supernet's variables, statistics recalibrated for `WIDTHS`, and what it was trained on."""

    graph: Graph
    widths: tuple[int, ...]
    variables: Variables
    digits: data.Dataset
    logits: np.ndarray  # of the test images, by the network as it was trained

    def export(self, folder: Path, **options) -> Path:
        mean, std = self.digits.mean, self.digits.std
        return deploy.export(folder, self.variables, self.graph, self.widths, mean=mean, std=std, **options)


@pytest.fixture(scope='session')
def trained() -> Trained:
    digits = data.load('digits')
    net, optimiser = functions_of(GRAPH), optim.sgd(0.2, STEPS)
    step = jax.jit(steps.plain_step(net, GRAPH, optimiser, steps.Recipe(digits.mean, digits.std)))
    state = init_state(jax.random.key(0), net, optimiser)
    for index in range(STEPS):
        rows = data.batch_rows(index, len(digits.train), 64, 0)
        state, _ = step(state, jax.random.key(index), *digits.train.take(rows))
    batches = digits.train.take(slice(512)).images.reshape(4, 128, *GRAPH.input_shape)
    variables = jax.jit(
        lambda v, images: steps.recalibrate(net, v, jnp.array(WIDTHS), images, digits.mean, digits.std)
    )(state.variables, batches)
    images = steps.normalise(jnp.asarray(digits.test.images), digits.mean, digits.std)
    logits, _ = jax.jit(net.apply)(variables, images, jnp.array(WIDTHS))
    return Trained(GRAPH, WIDTHS, variables, digits, np.asarray(logits))


@pytest.fixture(scope='session')
def exported(trained, tmp_path_factory) -> Path:
    """Export once; tests that change files copy it first."""
    return trained.export(
        tmp_path_factory.mktemp('exported') / 'network',
        class_names=trained.digits.class_names,
        details={'accuracy': {'test_accuracy': 0.5}, 'latency': {'budget_ms': 1.0}},
        onnx=True,
    )
