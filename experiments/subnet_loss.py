"""Validation loss of the supernet's subnets."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np

from experiments.config import Config
from experiments.training import calibration_images
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
) -> Iterator[SubnetLoss]:
    """Give what measures subnets, of no weights yet, compiled in a thread: a compilation keeps one core busy.

    It may be called once this ends.
    """
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), axes.shapes(graph))
    measure = SubnetLoss(config, dataset, graph, zeros, validation)
    with ThreadPoolExecutor(1) as pool:
        compiled = pool.submit(measure, graph.smallest)
        yield measure
        compiled.result()


@functools.lru_cache(maxsize=4)
def _program(
    graph: Graph, mean: tuple[float, ...], std: tuple[float, ...]
) -> Callable[..., steps.Evaluation]:
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

    return compilation.to_train(jax.jit(evaluate))
