"""Graphs small enough to compile in seconds: a chain with ragged choices, random ones of every kind of operation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jcw import zoo
from jcw.builder import Builder, build
from jcw.graph import Graph
from jcw.nets import axes
from jcw.operations import OPENINGS
from jcw.zoo import basic_block, bottleneck, inverted_residual


def _chain(g: Builder) -> int:
    x = g.conv(g.images, g.site('stem', 6, (2, 4, 6)), kernel=3)
    x = g.conv(g.depthwise(x, stride=2), g.site('first', 8, (2, 5, 8)))
    x = g.conv(g.depthwise(x), g.site('second', 8, (3, 8)))
    x = g.conv(g.depthwise(x, stride=2), g.site('third', 12, (4, 8, 12)))
    return g.classify(x)


GRAPH = build(_chain, (8, 7, 3), 5)


def _residual(g: Builder) -> int:
    x = g.conv(g.images, g.site('stream', 6, (2, 4, 6)), kernel=3)
    x = inverted_residual(g, x, 'stream', g.site('expand', 8, (4, 8)), activation='relu6')
    x = bottleneck(
        g, x, g.site('wide', 8, (3, 5, 8)), g.site('first', 4, (2, 4)), g.site('second', 4, (2, 4)), 2
    )
    x = basic_block(g, x, 'wide', g.site('inner', 6, (3, 6)), 1)
    return g.classify(x)


RESIDUAL = build(_residual, (8, 7, 3), 5, drop_blocks=True)
"""Every kind of residual block, each of which may be dropped."""


def chain(layers, input_shape, num_classes, **settings) -> Graph:
    """Build a chain of `(kind, width, kernel, stride)`: 'conv', or 'separable' for a depthwise one before it."""

    def net(g: Builder) -> int:
        x = g.images
        for number, (kind, width, kernel, stride) in enumerate(layers):
            if kind == 'separable':
                x, kernel, stride = g.depthwise(x, kernel=kernel, stride=stride), 1, 1
            x = g.conv(x, g.site(f'site_{number}', width), kernel=kernel, stride=stride)
        return g.classify(x)

    return build(net, input_shape, num_classes, **settings)


def mobilenet_v1(input_shape, num_classes, strides=None, **settings) -> Graph:
    network = functools.partial(zoo.mobilenet_v1, strides=strides) if strides else zoo.mobilenet_v1
    return build(network, input_shape, num_classes, **settings)


def random_graph(seed: int) -> Graph:
    """Draw blocks, widths, kernels, strides, paddings, activations, and where there is no normalisation."""
    rng = np.random.default_rng(seed)

    def net(g: Builder) -> int:
        def window(*kernels: int) -> dict:
            kernel = int(rng.choice(kernels))
            before, after = kernel // 2, kernel - 1 - kernel // 2
            pads = [None, ((before, after), (before, after)), ((before, after), (after, before))][
                rng.integers(3)
            ]
            return {'kernel': kernel, 'stride': int(rng.integers(1, 3)), 'pads': pads}

        def convolved(*kernels: int) -> dict:
            return {**window(*kernels), 'norm': bool(rng.random() < 0.7)}

        def site() -> str:
            number[0] += 1
            widths = sorted(rng.choice(np.arange(2, 9), rng.integers(1, 4), replace=False).tolist())
            return g.site(f'site_{number[0]}', widths[-1], widths)

        number = [0]
        x = g.conv(g.images, site(), **convolved(1, 2, 3))
        x = g.conv(x, site(), kernel=2, pads=((0, 0), (0, 1)))
        for _ in range(rng.integers(2, 5)):
            activation = str(rng.choice(['relu', 'relu6', 'hard_swish', 'swish']))
            kernel, stride = int(rng.choice([3, 5])), int(rng.integers(1, 3))
            stay = stride == 1 and rng.random() < 0.7
            kind = rng.integers(7)
            out = (g.width(x) if stay else site()) if kind in (1, 2, 3) else ''
            if kind == 0:
                x = g.conv(g.depthwise(x, activation=activation, **convolved(2, 3, 5)), site())
            elif kind == 1:
                gate = site() if rng.random() < 0.7 else 3
                x = inverted_residual(
                    g, x, out, site(), kernel=kernel, stride=stride, activation=activation, gate=gate
                )
            elif kind == 2:
                x = basic_block(g, x, out, site(), stride)
            elif kind == 3:
                x = bottleneck(g, x, out, site(), site(), stride)
            elif kind == 4:
                x = g.max_pool(x, **window(2, 3))
            elif kind == 5:
                x = g.conv(x, 5, activation=activation, **convolved(1, 2, 3))
            else:
                x = g.gate(x, site(), activation=activation, opening=str(rng.choice(OPENINGS)))
        if rng.random() < 0.5:
            features = g.dense(g.mean(x), site(), activation='hard_swish')
            return g.dense(features, g.num_classes)
        return g.classify(x)

    return build(net, (8, 7, 3), 5, drop_blocks=bool(rng.random() < 0.7))


def random_choices(seed: int, *shape: int, graph: Graph = GRAPH) -> np.ndarray:
    """Draw configurations, int32 [*shape sites]."""
    draws = np.random.default_rng(seed).random((*shape, graph.num_sites))
    return graph.settled((draws * graph.num_choices).astype(np.int32))


def random_variables(seed: int, dtype=np.float32, spread: float = 0.3, graph: Graph = GRAPH):
    """Return variables off their initial values: biases and scales of normalisation, too.

    Drawn by NumPy: a generator compiled for each shape would take longer than the test.
    """
    rng = np.random.default_rng(seed)

    def draw(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        values = rng.standard_normal(leaf.shape)
        values = np.abs(values) * spread + 0.2 if len(leaf.shape) == 1 else values * spread
        return jnp.asarray(values.astype(dtype))

    return jax.tree.map(draw, axes.shapes(graph))


def random_images(seed: int, batch: int, dtype=np.float32, graph: Graph = GRAPH) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal((batch, *graph.input_shape)).astype(dtype))
