"""Validation loss of the supernet's subnets."""

import contextlib
import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait

import jax
import jax.numpy as jnp
import numpy as np

from experiments.config import Config
from experiments.training import calibration_batches, calibration_images
from jcw import compilation, data
from jcw.graph import Graph
from jcw.nets import axes, kernels, switched
from jcw.nets.axes import Variables
from jcw.train import steps


class SubnetLoss:
    """Validation loss of any subnet of a supernet, batch statistics re-estimated; compiles once.

    In switched form, so that a narrow subnet is evaluated faster than a wide one. Without `recalibrated`, running
    averages of the largest network's statistics serve for all.
    """

    def __init__(
        self,
        config: Config,
        dataset: data.Dataset,
        graph: Graph,
        variables: Variables,
        validation: int,
        *,
        recalibrated: bool = True,
    ) -> None:
        self.variables = variables
        images = calibration_images(config, dataset, config.supernet.batch) if recalibrated else None
        held = dataset.validation.take(slice(validation))
        self._arguments = jax.device_put((images, held.images, held.labels))
        self._measure = _program(graph, dataset.mean, dataset.std)

    def __call__(self, widths: np.ndarray) -> steps.Evaluation:
        return jax.device_get(self._measure(self.variables, jnp.asarray(widths, jnp.int32), *self._arguments))


@contextlib.contextmanager
def compiled_meanwhile(
    config: Config, dataset: data.Dataset, graph: Graph, validation: int
) -> Iterator[None]:
    """Compile what measures subnets in a thread: a compilation keeps one core busy.

    What goes wrong there shows when subnets are measured. Several processes of one run must do the same things in the
    same order, so there nothing is compiled.
    """
    alone = jax.process_count() == 1
    with ThreadPoolExecutor(1) as pool:
        coming = [pool.submit(_compile, config, dataset, graph, validation)] if alone else []
        yield
        wait(coming)


def _compile(config: Config, dataset: data.Dataset, graph: Graph, validation: int) -> None:
    """Compile the program that `SubnetLoss` calls, before there are variables, and without reading its images."""
    images, labels = dataset.validation.take(slice(1))
    held = len(range(len(dataset.validation))[:validation])
    batches = calibration_batches(config, dataset, config.supernet.batch)
    place = jax.device_put(np.zeros(0)).sharding

    def like(array: np.ndarray, *first: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((*first, *array.shape[1:]), array.dtype, sharding=place)

    _program(graph, dataset.mean, dataset.std).program(
        axes.shapes(graph),
        jnp.asarray(graph.smallest, jnp.int32),
        like(images, *batches),
        like(images, held),
        like(labels, held),
    )


@functools.lru_cache(maxsize=4)
def _program(graph: Graph, mean: tuple[float, ...], std: tuple[float, ...]) -> compilation.ToTrain:
    """Return what evaluates one subnet; compiled once for a space and numbers of images, whoever asks."""
    net = switched.functions_of(graph, implementation=kernels.here())

    def evaluate(
        variables: Variables,
        widths: jax.Array,
        images: jax.Array | None,
        held_images: jax.Array,
        held_labels: jax.Array,
    ) -> steps.Evaluation:
        if images is not None:
            variables = steps.recalibrate(net, variables, widths, images, mean, std)
        return steps.evaluate(net, variables, widths, held_images, held_labels, mean, std)

    return compilation.ToTrain(jax.jit(evaluate))
