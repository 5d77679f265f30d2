"""Two networks over shared segments, the second behind gates: it is the first one up to a segment chosen at run time.

A gate is a loop of one turn or none rather than a conditional: XLA divides the work of a loop's body between a
processor's cores, that of a conditional's branches it does not.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


@runtime_checkable
class Segment(Protocol):
    """A stretch of a network that reads one activation and gives one."""

    def largest(self, params: Any, x: jax.Array) -> tuple[jax.Array, Any]:
        """Return the largest network's activation and what else is known of it, which no gradient reaches."""

    def mutated(self, params: Any, x: jax.Array, masks: Any) -> jax.Array:
        """Return the mutated network's activation."""


def chain(
    segments: Sequence[Segment], params: Sequence[Any], images: jax.Array, first: Int[Array, ''], masks: Any
) -> tuple[jax.Array, list[Any], jax.Array]:
    """Return the largest network's result, what its segments tell beside it, and the mutated network's result.

    A mutated segment is computed from the `first` on, whose input is the largest's activation; of those before it only
    the largest's are. The last segment always is, and the first of all never.
    """
    first = jnp.minimum(first, len(segments) - 1)
    x, seen = segments[0].largest(params[0], images)
    told = [seen]
    mutated: Any = None  # is the largest's activation where the second segment begins
    for index, (segment, own) in enumerate(zip(segments[1:], params[1:], strict=True), 1):
        x, mutated, seen = _both(segment, index)(own, x, mutated, first, masks)
        told.append(seen)
    return x, told, mutated


def _both(segment: Segment, index: int) -> Callable[..., tuple[jax.Array, jax.Array, Any]]:
    """Return `both(params, x, mutated, first, masks)`: the segment in both networks.

    The gradient that flows back through the mutated network joins the largest's own where they had parted.
    """

    # All traced values are arguments: those that a custom gradient closes over leak under `checkpoint` or `scan`.
    @jax.custom_vjp
    def both(*given: Any) -> tuple[jax.Array, jax.Array, Any]:
        return forward(*given)[0]

    def forward(
        params: Any, x: jax.Array, mutated: jax.Array | None, first: Int[Array, ''], masks: Any
    ) -> tuple[tuple, tuple]:
        entered = x if index == 1 else once(first == index, lambda _: x, mutated)
        y, pull, seen = jax.vjp(segment.largest, params, x, has_aux=True)
        z, pull_mutated = gated_vjp(first <= index, segment.mutated, index, params, entered, masks)
        # Under `vmap` over widths JAX would sum the gradient of a result that does not depend on them twice.
        y = y + (0 * first).astype(y.dtype)
        return (y, z, seen), (first, entered, pull, pull_mutated)

    def backward(saved: tuple, gradients: tuple) -> tuple:
        first, entered, pull, pull_mutated = saved
        dy, dz, _ = gradients
        dparams, dx = pull(dy)

        def add(given: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
            more, dentered = pull_mutated(dz)
            return jax.tree.map(jnp.add, given[0], more), dentered

        # What entered makes room for its gradient: no other memory is set aside for it.
        dparams, dentered = once(first <= index, add, (dparams, entered))
        dx = once(first == index, lambda dx: dx + dentered, dx)
        return dparams, dx, None if index == 1 else dentered, None, None

    both.defvjp(forward, backward)
    return both


def gated_vjp(
    run: Bool[Array, ''],
    function: Callable[..., jax.Array],
    number: int,
    params: Any,
    x: jax.Array,
    masks: Any,
) -> tuple[jax.Array, Callable[[jax.Array], tuple]]:
    """Return `function(params, x, masks)` and its gradient by the first two, both of any value unless `run`.

    Of what the gradient needs, the gate sets memory aside only for what is not among the operands.
    """
    operands = (params, x, masks)
    pull: Any = None
    places: dict[int, int] = {}  # of the operands' leaves, by identity

    def with_residuals(_: Any, params: Any, x: jax.Array, masks: Any) -> tuple[jax.Array, list[jax.Array]]:
        nonlocal pull, places
        y, pull = jax.vjp(lambda *given: function(*given, masks), params, x)
        places = {id(leaf): place for place, leaf in enumerate(jax.tree.leaves((params, x, masks)))}
        return y, [leaf for leaf in jax.tree.leaves(pull) if id(leaf) not in places]

    start = _vacant(jax.eval_shape(with_residuals, None, *operands), number)
    y, residuals = once(run, with_residuals, start, *operands)
    known, kept = jax.tree.leaves(operands), iter(residuals)
    return y, jax.tree.map(lambda leaf: known[places[id(leaf)]] if id(leaf) in places else next(kept), pull)


def once(run: Bool[Array, ''], function: Callable[..., Any], start: Any, *operands: Any) -> Any:
    """Return `function(start, *operands)` where `run`, else `start`; only that is computed."""

    def turn(carry: tuple) -> tuple:
        return jnp.zeros_like(run), function(carry[1], *carry[2]), carry[2]

    return jax.lax.while_loop(lambda carry: carry[0], turn, (run, start, operands))[1]


def _vacant(shapes: Any, number: int) -> Any:
    """Return arrays to be overwritten, of different values: of equal ones XLA would make one, and copies of it."""
    leaves, tree = jax.tree.flatten(shapes)
    filled = [jnp.full(leaf.shape, number * len(leaves) + i, leaf.dtype) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(tree, filled)
