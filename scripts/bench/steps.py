"""Our steps: each as a function of arrays, and its arguments by (last result or None, number of the step)."""

import functools
import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np

from jcw.compilation import for_training
from jcw.latency.table import flops_table
from jcw.nets import segments as sharing
from jcw.nets import training
from jcw.nets.axes import slice_variables
from jcw.train import losses, mutation, optim, state
from jcw.train import steps as training_steps
from jcw.train.augment import normalise

MEAN, STD = (0.5,) * 3, (0.25,) * 3


class Setup:
    """What the steps of one graph share."""

    def __init__(self, graph, batch, dtype, implementation='auto'):
        self.graph, self.dtype = graph, jnp.dtype(dtype)
        rng = np.random.default_rng(0)
        self.images = jax.device_put(rng.integers(0, 256, (batch, *graph.input_shape), np.uint8))
        self.labels = jax.device_put(rng.integers(0, graph.num_classes, batch).astype(np.int32))
        self.how = {'dtype': self.dtype, 'implementation': implementation}
        self.functions_of = functools.partial(training.functions_of, **self.how)
        self.optimiser = optim.sgd(0.1, 1000, warmup_steps=10)
        start = jax.jit(lambda key: state.init_state(key, self.functions_of(graph), self.optimiser))
        self.start = start(jax.random.key(0))


def largest(setup):
    """Give forward and backward of the largest network."""
    return _gradients(setup, setup.functions_of(setup.graph), setup.start.variables)


def smallest(setup):
    """Give forward and backward of the smallest network, by itself."""
    graph = setup.graph
    thin = jax.device_put(slice_variables(setup.start.variables, graph, graph.smallest))
    return _gradients(setup, setup.functions_of(graph.fixed(graph.smallest)), thin)


def _gradients(setup, network, variables):
    def function(variables, images, labels):
        x, targets = normalise(images, MEAN, STD), losses.smooth_targets(labels, setup.graph.num_classes)

        def loss(params):
            logits, moments = network.apply({**variables, 'params': params}, x, None, True)
            return losses.cross_entropy(logits, targets).mean(), moments

        return jax.grad(loss, has_aux=True)(variables['params'])

    return function, lambda last, step: (variables, setup.images, setup.labels)


def update(setup):
    """Give the optimiser's update alone, the state carried on."""

    def function(state, gradients):
        return training_steps.update(state, gradients, state.batch_stats, (), setup.optimiser, None)

    zeros = jax.tree.map(jnp.zeros_like, setup.start.params)
    return function, lambda last, step: (last[0] if last else setup.start, zeros)


def masked(setup):
    """Give a sandwich step in which every example has a site of its own mutated."""
    return _sandwich(setup, setup.functions_of(setup.graph), 'example')


def segments(setup):
    """Give a sandwich step in which all examples have one site mutated, and share what comes before it."""
    return _sandwich(setup, sharing.functions_of(setup.graph, **setup.how), 'site')


def _sandwich(setup, supernet, mutated):
    graph, recipe, key = setup.graph, training_steps.Recipe(MEAN, STD), jax.random.key(1)
    thin, draw = setup.functions_of(graph.fixed(graph.smallest)), mutation.draw_of(graph, mutated)
    function = training_steps.supernet_step(supernet, thin, graph, setup.optimiser, recipe, draw)
    probabilities = mutation.even_probabilities(graph)

    def arguments(last, step):
        # A site has its turn twice in a row, since every other call is timed.
        inputs = probabilities, np.int32(mutation.turn(0, step // 2, graph.num_sites))
        start = last[0] if last else setup.start
        return start, jax.random.fold_in(key, step), setup.images, setup.labels, inputs

    return function, arguments


BUILDERS = {
    'largest': largest,
    'smallest': smallest,
    'update': update,
    'masked': masked,
    'segments': segments,
}


def compiled(setup, form, quick=False):
    """Return a step as a function of nothing, the seconds its compilation took, and the compiled program's text.

    In a `quick` trial the program need not be fast.
    """
    function, arguments = BUILDERS[form](setup)
    begin = time.perf_counter()
    program = (
        jax.jit(function)
        .lower(*arguments(None, 0))
        .compile(compiler_options={'xla_backend_optimization_level': 0} if quick else dict(for_training()))
    )
    seconds = time.perf_counter() - begin
    last, count = [None], itertools.count()

    def step():
        last[0] = jax.block_until_ready(program(*arguments(last[0], next(count))))

    return step, seconds, program.as_text()


def largest_flops(graph, batch):
    """Count operations of the largest network, two for a multiply-add, three times: forward, and both gradients."""
    return 3 * batch * float(flops_table(graph).predict(graph.largest))
