"""Bring your own network: a JAX function and its variables become a graph, whatever it is written with.

    graph, variables = trace(model.apply, variables, example)

The function's program is read operation by operation. What a graph has no words for is refused, never guessed, and
what is returned was compared with the function.
"""

from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import partial_eval

from jcw.graph import Graph
from jcw.nets.axes import Variables
from jcw.trace.expressions import Expression
from jcw.trace.importance import by_importance
from jcw.trace.known import Known
from jcw.trace.parts import Part, parts_of
from jcw.trace.products import WrongLayout, logits_of, result_of
from jcw.trace.shapes import RULES
from jcw.trace.sites import Multipliers, graph_of
from jcw.trace.values import Value
from jcw.trace.verify import check, to_base
from jcw.trace.walk import Walk
from jcw.trace.weights import variables_of

__all__ = ['trace', 'by_importance']

CHANGES = ('ModifyScopeVariableError', 'TraceContextError')
"""What Flax raises where variables are changed that may not be."""
LAYOUTS = {'NHWC': ('n', 'h', 'w', 'c'), 'NCHW': ('n', 'c', 'h', 'w')}


def trace(
    apply: Callable[[Any, Any], Any],
    variables: Any,
    example: Any,
    *,
    min_multiplier: float = 0.2,
    max_multiplier: float = 1.0,
    levels: int = 14,
    divisor: int = 8,
    freeze: Collection[str] = (),
) -> tuple[Graph, Variables]:
    """Read a network's function as a graph over sites, and its variables as the graph's.

    The graph takes images as NHWC, whichever way round the function does. Sites are named by the modules they come
    from, where those have names.

    Args:
      apply: (variables, images) -> logits [batch classes] or [batch 1 1 classes], in evaluation mode; it is traced in
        float32.
      variables: any pytree of arrays.
      example: images, batch first, NHWC or NCHW: an array, or a `jax.ShapeDtypeStruct`.
      min_multiplier: see `jcw.graph.build`, as the next three.
      max_multiplier: beyond 1 there are wider choices than the network has; variables are those of its own widths.
      levels: number of even steps between the two.
      divisor: widths are multiples of it, or the network's own.
      freeze: names of sites that keep their width.

    Returns:
      The graph, whose base widths are the network's own, and its variables at these widths.

    Raises:
      ValueError: the network cannot be written as a graph, naming primitive, shapes and line; none of its widths
        can vary; or the graph gives other outputs than the function.
    """
    multipliers = Multipliers(min_multiplier, max_multiplier, levels, divisor)
    _check_multipliers(multipliers)
    _check_variables(variables)
    freeze = (freeze,) if isinstance(freeze, str) else freeze
    images = _images(example)
    jaxpr = _jaxpr(apply, variables, images)
    leaves = [Known(_concrete(leaf)) for leaf in jax.tree.leaves(variables)]

    def read(layout: str, seen: jax.Array | None = None) -> list[Part]:
        return _read(jaxpr, leaves, images.shape, LAYOUTS[layout], seen)

    layout, parts = _either_layout(read, images.shape)
    order = [LAYOUTS[layout].index(role) for role in 'nhwc']
    ours = jnp.asarray(np.transpose(images, order), jnp.float32)
    height, width, channels = ours.shape[1:]
    graph = graph_of(parts, (height, width, channels), multipliers, freeze)
    own = variables_of(graph, parts)
    with jax.default_matmul_precision('highest'):
        (expected,) = jax.tree.leaves(jax.jit(apply)(variables, images))
    expected = jnp.reshape(expected, (len(images), -1))
    check(to_base(graph), own, ours, expected, images, lambda seen: read(layout, seen))
    return graph, own


def _read(
    jaxpr: Any, leaves: list[Known], shape: tuple[int, ...], roles: tuple[str, ...], seen: jax.Array | None
) -> list[Part]:
    """Read the program; with images `seen`, run it on them, too."""
    walk = Walk(RULES, seen is not None)
    sizes = dict(zip(roles, shape, strict=True))
    node = walk.nodes.append('images', channels=sizes['c'], size=(sizes['h'], sizes['w']), where='the images')
    value = result_of(node, sizes['n'], [(role,) for role in roles])
    if seen is not None:
        node.seen = seen, value.axes
        value = value._replace(seen=seen, expression=Expression(node=node, seen=node.seen))
    (logits,) = walk.run(jaxpr.jaxpr, [Known(c) for c in jaxpr.consts], [*leaves, value])
    if not isinstance(logits, Value):
        raise ValueError('the function traced gives the same outputs for any images')
    return parts_of(logits_of(walk, logits))


def _either_layout(read: Callable[[str], list[Part]], shape: tuple[int, ...]) -> tuple[str, list[Part]]:
    """Read images as NHWC and, where that does not fit, as NCHW; first the way in which they have fewer channels."""
    first, second = ('NHWC', 'NCHW') if shape[3] <= shape[1] else ('NCHW', 'NHWC')
    try:
        return first, read(first)
    except ValueError as error:
        try:
            return second, read(second)
        except ValueError as other:
            # What a reading with the right axes says is worth more than that the axes are wrong.
            wrong = isinstance(error, WrongLayout) and not isinstance(other, WrongLayout)
            raise (other if wrong else error) from None


def _images(example: Any) -> np.ndarray:
    """Draw images of an example's shape and type, two at least."""
    shape = tuple(getattr(example, 'shape', np.shape(example)))
    if not all(isinstance(size, int) for size in shape):
        raise ValueError(
            f'the example needs numbers for its shape, got {shape}: trace it at the size it is to run at'
        )
    if len(shape) != 4 or min(shape) < 1:
        raise ValueError(
            f'the example must be images [batch height width channels] or NCHW, got shape {shape}'
        )
    dtype = np.dtype(getattr(example, 'dtype', np.float32))
    shape, draws = (max(shape[0], 2), *shape[1:]), np.random.default_rng(0)
    if np.issubdtype(dtype, np.integer):
        return draws.integers(0, 256, shape).astype(dtype)
    return draws.standard_normal(shape).astype(dtype)


def _jaxpr(apply: Callable, variables: Any, images: np.ndarray) -> Any:
    try:
        jaxpr, out = jax.make_jaxpr(apply, return_shape=True)(variables, images)
    except (jax.errors.JAXTypeError, jax.errors.JAXIndexError) as error:
        raise ValueError(
            'the function cannot be traced, shapes or branches depend on its numbers: '
            f'{str(error).strip().splitlines()[0]}'
        ) from error
    except Exception as error:  # whatever the user's library raises
        training = (
            'it changes variables as it runs, as statistics in training, or has them from outside: trace it in '
            'evaluation mode, with all of its variables as arguments'
        )
        said = (str(error).strip().splitlines() or [''])[0]
        why = training if type(error).__name__ in CHANGES else f'{type(error).__name__}: {said}'
        raise ValueError(
            f'the function does not run on these variables and images {list(images.shape)}: {why}'
        ) from error
    leaves = jax.tree.leaves(out)
    shape: tuple[int, ...] = leaves[0].shape if len(leaves) == 1 else ()
    if len(shape) < 2 or shape[0] != images.shape[0] or sum(size > 1 for size in shape[1:]) > 1:
        shapes = ', '.join(str(leaf.shape) for leaf in leaves)
        raise ValueError(
            f'the function must return logits [{images.shape[0]} classes] and nothing else, got {shapes}: in '
            'evaluation mode no statistics are returned'
        )
    # What nothing comes of, such as a second output that was left out, need not be understood.
    live, _ = partial_eval.dce_jaxpr(jaxpr.jaxpr, [True] * len(jaxpr.jaxpr.outvars), instantiate=True)
    return jaxpr.replace(jaxpr=live)


def _concrete(leaf: Any) -> Any:
    key = isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended)
    return leaf if key else np.asarray(leaf)


def _check_variables(variables: Any) -> None:
    for path, leaf in jax.tree_util.tree_flatten_with_path(variables)[0]:
        name = jax.tree_util.keystr(path)
        if isinstance(leaf, jax.ShapeDtypeStruct):
            raise ValueError(
                f'variables{name} is a shape without numbers: trace a network that was initialised'
            )
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic | bool | int | float | complex):
            raise ValueError(
                f'variables{name} is no array but {type(leaf).__name__}: part what is none from the variables first, '
                'as with eqx.partition(model, eqx.is_array)'
            )
        if (
            jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
            and not np.isfinite(np.asarray(leaf, np.float32)).all()
        ):
            raise ValueError(f'variables{name} holds NaN or infinite numbers: nothing could be compared')


def _check_multipliers(multipliers: Multipliers) -> None:
    low, high, levels, divisor = multipliers
    if levels < 1 or divisor < 1 or not 0 < low <= high < np.inf:
        raise ValueError(
            'need 0 < min_multiplier <= max_multiplier and positive levels and divisor, '
            f'got {low}, {high}, {levels} and {divisor}'
        )
