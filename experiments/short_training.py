"""Short trainings of single networks, all by one compiled program: widths are arguments, not shapes."""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np

from experiments.config import Config
from experiments.training import batches, calibration_images, optimiser_of
from jcw import data
from jcw.accuracy.samples import Sample
from jcw.graph import Graph
from jcw.nets import axes
from jcw.nets.axes import Variables
from jcw.nets.training import network
from jcw.train import parallel, steps
from jcw.train.augment import Augmentation
from jcw.train.state import start_from

MOST_VALIDATED = 10_000  # images; more would tell networks apart no better than seeds let them


class ShortTraining:
    """Trains networks of one graph by the final recipe, shortened, and tells their validation.

    A network is the supernet's arrays masked to its widths: its gradients, and so its training, are those of the sliced
    network, at the price of computing all channels. What is saved is a compilation for each network.
    """

    def __init__(self, config: Config, dataset: data.Dataset, graph: Graph, start: Variables | None) -> None:
        epochs = config.subnet.epochs * config.accuracy.epochs
        warmup = config.subnet.warmup_epochs * config.accuracy.epochs
        self._settings = dataclasses.replace(config.subnet, epochs=epochs, warmup_epochs=warmup)
        self._config, self._dataset, self._graph, self._start = config, dataset, graph, start
        self._optimiser, self.num_steps = optimiser_of(self._settings, len(dataset.train))
        net = network(graph, axis_name=parallel.AXIS)
        recipe = steps.Recipe(
            dataset.mean,
            dataset.std,
            Augmentation(config.data.crop_padding, config.data.flip, config.subnet.mixup),
            config.subnet.label_smoothing,
        )
        self._step = parallel.data_parallel(
            steps.plain_step(
                net, graph, self._optimiser, recipe, parallel.AXIS, accumulate=config.subnet.accumulate
            ),
            batch_args=(False, False, True, True, False),
            batch_outputs=(False, False),
        )
        plain = network(graph)
        held = dataset.validation.take(slice(MOST_VALIDATED))
        self._held = jax.device_put((held.images, held.labels))
        self._images = jax.device_put(calibration_images(config, dataset, config.subnet.batch))

        def begin(key: jax.Array, widths: jax.Array):
            fresh = plain.init(key)
            fresh['params'] = axes.drawn_for(fresh['params'], graph, widths)
            return start_from(fresh if start is None else start, self._optimiser)

        def validate(variables: Variables, widths: jax.Array, images: jax.Array, labels: jax.Array):
            fitted = steps.recalibrate(plain, variables, widths, self._images, dataset.mean, dataset.std)
            return steps.evaluate(plain, fitted, widths, images, labels, dataset.mean, dataset.std)

        self._begin, self._validate = jax.jit(begin), jax.jit(validate)

    def __call__(self, widths: np.ndarray, seed: int) -> Sample:
        """Train one network from its own start and tell its validation."""
        began = time.perf_counter()
        at = jnp.asarray(widths, jnp.int32)
        key = jax.random.fold_in(jax.random.key(self._config.seed + 6), seed)
        state = self._begin(key, at)
        config = dataclasses.replace(self._config, seed=self._config.seed + seed)
        with batches(config, self._dataset, self._settings.batch) as batch_of:
            for index in range(self.num_steps):
                state, _ = self._step(state, jax.random.fold_in(key, index), *batch_of(index), at)
        variables = jax.device_get(state.variables)
        found = self._validate(variables, at, *self._held)
        accuracy, loss = 100 * float(found.accuracy), float(found.loss)
        seconds = time.perf_counter() - began
        if not np.isfinite(loss):
            return Sample(tuple(map(int, widths)), seed, seconds=seconds, failure='its loss is not finite')
        return Sample(tuple(map(int, widths)), seed, accuracy, loss, seconds)
