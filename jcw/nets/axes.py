"""A network's variables by the names of their axes: shapes, initial values and slices are each one map over them.

Variables are `{'params': {operation: {leaf: array}}, 'batch_stats': {operation: {leaf: array}}}`. An axis is named by
the site whose width it has, or is a number; kernels are `(k, k, in, out)`, of depthwise convolutions `(k, k, out)`,
what belongs to a normalisation `(out,)`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jcw.graph import NORMALISED, Graph, Operation, Width

Variables = dict[str, Any]
"""`{'params': ..., 'batch_stats': ...}`, nested dictionaries of arrays."""
Axes = tuple[Width, ...]


def kernels_of(graph: Graph, op: Operation) -> dict[str, Axes]:
    """Return the axes of an operation's kernels, and of the biases that no normalisation stands for, by leaf."""
    k, out = op.kernel, op.out
    read = graph.operations[op.reads[0]].out if op.reads else 0
    if op.kind == 'conv':
        return {'kernel': (k, k, read, out)}
    if op.kind == 'depthwise':
        return {'kernel': (k, k, out)}
    if op.kind == 'dense':
        return {'kernel': (read, out), 'bias': (out,)}
    if op.kind == 'gate':
        assert op.inner is not None
        inner = op.inner
        return {
            'reduce_kernel': (out, inner),
            'reduce_bias': (inner,),
            'expand_kernel': (inner, out),
            'expand_bias': (out,),
        }
    return {}


def axes_of(graph: Graph) -> dict[str, dict[str, dict[str, Axes]]]:
    """Return the tree of a graph's variables, a tuple of axes for each leaf."""
    params: dict[str, dict[str, Axes]] = {}
    stats: dict[str, dict[str, Axes]] = {}
    for op in graph.operations:
        own = kernels_of(graph, op)
        if op.kind in NORMALISED:
            own['bias'] = (op.out,)
            if op.norm:
                own['scale'] = (op.out,)
                stats[op.name] = {'mean': (op.out,), 'variance': (op.out,)}
        if own:
            params[op.name] = own
    return {'params': params, 'batch_stats': stats}


def map_axes(function: Callable[..., Any], graph: Graph, *trees: Any) -> Any:
    """Apply `function(axes, *leaves)` to every leaf of trees that have the graph's operations, or more of them.

    Raises:
      ValueError: a tree lacks a leaf.
    """

    def walk(axes: Any, nodes: tuple, path: str) -> Any:
        if isinstance(axes, tuple):
            return function(axes, *nodes)
        for node in nodes:
            missing = [name for name in axes if name not in node]
            if missing:
                raise ValueError(f'the variables have no {path}{missing[0]}: they are of another network')
        return {
            name: walk(part, tuple(node[name] for node in nodes), f'{path}{name}/')
            for name, part in axes.items()
        }

    axes = axes_of(graph)
    chosen = {name: axes[name] for name in axes if not trees or name in trees[0]}
    return walk(chosen, trees, '')


def shapes(graph: Graph, widths: Sequence[int] | np.ndarray | None = None) -> Variables:
    """Return the tree of variables at given widths (default: the largest) as float32 `jax.ShapeDtypeStruct`s."""
    at = graph.largest if widths is None else widths
    return map_axes(lambda axes: jax.ShapeDtypeStruct(sizes(graph, axes, at), np.float32), graph)


def sizes(graph: Graph, axes: Axes, widths: Sequence[int] | np.ndarray) -> tuple[int, ...]:
    """Return the lengths of axes in a configuration."""
    return tuple(graph.width(axis, widths) for axis in axes)


def count_parameters(graph: Graph, widths: Any) -> Any:
    """Count kernels, biases, and scales and biases of normalisation, [... sites] -> int64 [...]."""
    widths = np.asarray(widths, np.int64)
    leaves = axes_of(graph)['params']
    total = np.zeros(widths.shape[:-1], np.int64)
    for op, drops in zip(graph.operations, graph.drops, strict=True):
        stays = np.prod([widths[..., graph.site_index[name]] > 0 for name in drops], axis=0)
        for axes in leaves.get(op.name, {}).values():
            ends = [widths[..., graph.site_index[a]] if isinstance(a, str) else a for a in axes]
            total += (stays * math.prod(ends)).astype(np.int64)
    return total[()]


def initial(key: jax.Array, graph: Graph) -> Variables:
    """Draw kernels from He et al.'s normal (2015), the classifier's at 0.01; ones for scales and variances.

    One draw serves all kernels, of a length that networks of different widths share: nothing is compiled for one.
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(shapes(graph))
    ends = np.cumsum([leaf.size if leaf.ndim > 1 else 0 for _, leaf in leaves])
    normal: Any = jax.random.normal(key, (1 << int(ends[-1] - 1).bit_length(),))
    normal = normal if isinstance(normal, jax.core.Tracer) else np.asarray(normal)
    head = graph.operations[-1].name

    def fill(path: tuple, leaf: jax.ShapeDtypeStruct, end: int) -> Any:
        if len(leaf.shape) == 1:
            return (np.ones if path[-1].key in ('scale', 'variance') else np.zeros)(leaf.shape, leaf.dtype)
        fan_in = leaf.size // leaf.shape[-1]
        deviation = 0.01 if path[1].key == head else (2 / fan_in) ** 0.5
        return deviation * normal[end - leaf.size : end].reshape(leaf.shape)

    filled = [fill(path, leaf, int(end)) for (path, leaf), end in zip(leaves, ends, strict=True)]
    return jax.tree.unflatten(tree, jax.device_put(filled))


def slice_variables(variables: Variables, graph: Graph, widths: Sequence[int] | np.ndarray) -> Variables:
    """Keep the first channels of every site, and no dropped block; differentiable, and exact for `graph.fixed(widths)`.

    Raises:
      ValueError: a width exceeds the variables', or there is not one per site.
    """
    fixed = graph.fixed(widths)

    def take(axes: Axes, leaf: Any) -> Any:
        wanted = sizes(fixed, axes, fixed.largest)
        if len(wanted) != leaf.ndim or any(a > b for a, b in zip(wanted, leaf.shape, strict=True)):
            raise ValueError(f'variables of shape {leaf.shape} cannot give {wanted} of {axes}')
        return leaf[tuple(slice(size) for size in wanted)]

    return map_axes(take, fixed, variables)


def widened(key: jax.Array, variables: Variables, graph: Graph) -> Variables:
    """Give variables of smaller widths the graph's largest, by freshly drawn channels after their own.

    Old channels read no new one, so that they are what they were in a network of any width.

    Raises:
      ValueError: they exceed the largest widths, or are of another network.
    """

    def put(axes: Axes, fresh: jax.Array, own: Any) -> jax.Array:
        if own.ndim != fresh.ndim or any(a > b for a, b in zip(own.shape, fresh.shape, strict=True)):
            raise ValueError(f'variables of shape {own.shape} do not fit into {fresh.shape} of {axes}')
        unread = fresh.at[..., : own.shape[-1]].set(0)
        return jax.lax.dynamic_update_slice(unread, jnp.asarray(own, fresh.dtype), (0,) * own.ndim)

    return map_axes(put, graph, initial(key, graph), variables)


def add_slices(params: Any, thin: Any) -> Any:
    """Add to parameters, or their gradient, those of a network sliced from them, each in its place."""

    def add(whole: jax.Array, part: jax.Array) -> jax.Array:
        own = whole[tuple(slice(size) for size in part.shape)] + part
        return jax.lax.dynamic_update_slice(whole, own, (0,) * whole.ndim)

    return {
        name: {leaf: add(value, thin[name][leaf]) for leaf, value in own.items()} if name in thin else own
        for name, own in params.items()
    }


def permuted(variables: Variables, graph: Graph, orders: dict[str, np.ndarray]) -> Variables:
    """Reorder the channels of sites, everywhere they occur; outputs stay what they were.

    Args:
      variables: of the graph.
      graph: whose axes they have.
      orders: by site, which of the old channels comes first, second, ...
    """

    def reorder(axes: Axes, leaf: Any) -> Any:
        for place, axis in enumerate(axes):
            if axis in orders:
                leaf = jnp.take(leaf, orders[axis], axis=place)
        return leaf

    return map_axes(reorder, graph, variables)
