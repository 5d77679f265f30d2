"""Whether a graph with its variables is the function it was traced from, and at which operation it first is not."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jcw.graph import Graph
from jcw.nets import training
from jcw.nets.axes import Variables, slice_variables
from jcw.trace.parts import Part

TOLERANCE = 1e-5  # of the greatest number
GUESSED = 1e-3
"""The same of an operation's numbers, where outputs agree: rounding makes less, a wrong operation more."""
CONFIGURATIONS = 2
IN_FLOAT32 = 'functions or variables in less than float32 cannot be traced: trace it in float32'


def to_base(graph: Graph) -> Graph:
    """Return the graph without widths beyond the base, of which there are no variables."""
    sites = [
        dataclasses.replace(site, choices=tuple(w for w in site.choices if w <= site.base))
        for site in graph.sites
    ]
    return dataclasses.replace(graph, sites=tuple(sites))


def check(
    graph: Graph,
    variables: Variables,
    images: jax.Array,
    expected: jax.Array,
    originals: np.ndarray,
    seen: Callable[[jax.Array], list[Part]],
) -> None:
    """Compare operations and outputs; then, in random configurations, the masked network with the sliced one.

    Args:
      graph: without widths beyond the base.
      variables: of it.
      images: NHWC.
      expected: what the function traced gives for them.
      originals: the same images as the function takes them.
      seen: reads it again, running it on these, for the parts with the arrays they have there.

    Raises:
      ValueError: they differ; names the first operation that does.
    """
    run = jax.jit(training.functions_of(graph, implementation='native').apply)
    with jax.default_matmul_precision('highest'):
        found = run(variables, images)[0]
        error = difference(found, expected)
        # Outputs do not tell what is behind a scale of 0, nor, where they are all alike, anything else.
        told_apart = np.ptp(np.asarray(expected), axis=0).max() > TOLERANCE * np.abs(expected).max()
        tolerance = GUESSED if error <= TOLERANCE and told_apart else TOLERANCE
        _compare_operations(graph, variables, (images, originals), seen, tolerance)
        if not error <= TOLERANCE:
            raise ValueError(
                f'the graph differs from the function by {error:.1e} of its outputs, and no operation alone: '
                f'{IN_FLOAT32}'
            )
        draws, arrays = np.random.default_rng(0), jax.device_get(variables)
        for _ in range(CONFIGURATIONS):
            widths = graph.to_widths(draws.integers(0, graph.num_choices))
            masked = run(variables, images, jnp.asarray(widths))[0]
            alone = training.functions_of(graph.fixed(widths), implementation='native').apply
            sliced = jax.jit(alone)(slice_variables(arrays, graph, widths), images)[0]
            error = difference(masked, sliced)
            if not error <= TOLERANCE:
                raise ValueError(
                    f'masked and sliced networks of widths {widths.tolist()} differ by {error:.1e}'
                )


def difference(found: Any, expected: Any) -> float:
    """Return the greatest difference, relative to the greatest number expected; 0 where both are 0."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if found.shape != expected.shape:
        return np.inf
    scale = np.abs(expected).max()
    error = float(np.abs(found - expected).max())
    return error / scale if scale > 0 else error


def _compare_operations(
    graph: Graph,
    variables: Variables,
    images: tuple[jax.Array, np.ndarray],
    seen: Callable[[jax.Array], list[Part]],
    tolerance: float,
) -> None:
    parts: list[Part] = []

    def both(variables: Variables, ours: jax.Array, originals: jax.Array) -> tuple:
        parts.extend(seen(originals))
        arrays = [None if part.last.seen is None else part.last.seen[0] for part in parts]
        return training.values(graph, variables, ours), arrays

    found = zip(*jax.jit(both)(variables, *images), strict=True)
    for op, part, (value, array) in zip(graph.operations, parts, found, strict=True):
        if array is None:
            continue
        _, axes = part.last.seen
        error = difference(value, _as_ours(array, axes, value.shape))
        if not error <= tolerance:
            raise ValueError(
                f'operation {op.name!r} gives other numbers than {part.last.where}: they differ by {error:.1e} of '
                f'the greatest; {IN_FLOAT32}'
            )


def _as_ours(array: Any, axes: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Bring an array to NHWC, or [batch channels]."""
    order = [role for roles in axes for role in roles]
    lengths = dict(zip(('n', 'h', 'w', 'c') if len(shape) == 4 else ('n', 'c'), shape, strict=True))
    split = np.asarray(array).reshape([lengths[role] for role in order])
    wanted = sorted(range(len(order)), key=lambda place: 'nhwc'.index(order[place]))
    return split.transpose(wanted).reshape(shape)
