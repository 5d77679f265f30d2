"""The largest network and mutated ones in one pass: layers before the first mutated one are computed once.

Where all examples of a batch keep their greatest widths up to some layer, the mutated network is the largest up to
there, batch statistics and gradients included. From there on its layers run on their own; before, they are gates that
let the largest's activations through.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jcw.nets import kernels, masking, mobilenet
from jcw.nets.mobilenet import Network
from jcw.nets.variables import Variables, layer_name
from jcw.space import SearchSpace


def network(
    space: SearchSpace,
    *,
    dtype: Any = jnp.float32,
    implementation: kernels.Implementation = 'auto',
    axis_name: str | None = None,
) -> Network:
    """Build the supernet with a `pair` that shares the trunk; arguments as of `mobilenet.network`."""
    whole = mobilenet.network(space, dtype=dtype, implementation=implementation, axis_name=axis_name)
    blocks = [
        mobilenet.layer_of(spec)(spec, int(width), dtype, implementation, axis_name, parent=None)
        for spec, width in zip(space.layers, space.largest, strict=True)
    ]
    head = mobilenet.Head(space.num_classes, parent=None)

    def pair(
        variables: Variables,
        images: Float[Array, 'batch height width channels'],
        widths: Int[Array, 'batch layers'],
    ) -> tuple[Float[Array, 'batch classes'], dict[str, Any], Float[Array, 'batch classes']]:
        first = _first_mutated(space, widths, axis_name)
        x = mutated = images.astype(dtype)
        live = mask = jnp.ones(x.shape[-1])
        masks = jnp.ones((len(x), x.shape[-1]))
        moments = {}
        for index, block in enumerate(blocks):
            name = layer_name(index)
            own = {group: variables[group][name] for group in ('params', 'batch_stats')}

            def run(own: Any, *args: jax.Array, block: Any = block) -> tuple[jax.Array, Any]:
                y, state = block.apply(own, *args, train=True, mutable=['batch_stats'])
                return y, state['batch_stats']

            live, mask = mask, jnp.ones(block.width)
            in_masks, masks = masks, masking.channel_mask(widths[:, index], block.width)
            x, moments[name] = run(own, x, live, mask)
            mutated = gate(
                index >= first,
                lambda *args, run=run: run(*args)[0],
                x,
                own,
                mutated,
                in_masks,
                masks,
            )

        def classify(x: jax.Array) -> jax.Array:
            features = x.mean((1, 2), dtype=kernels.accumulator(x))
            return head.apply({'params': variables['params']['head']}, features)

        return classify(x), moments, classify(mutated)

    return Network(whole.init, whole.apply, pair)


def _first_mutated(
    space: SearchSpace, widths: Int[Array, 'batch layers'], axis_name: str | None
) -> Int[Array, '']:
    """Return the first layer that is not at its greatest width in every example; `layers` if there is none."""
    mutated = (widths != jnp.asarray(space.largest)).any(0)
    if axis_name is not None:
        mutated = jax.lax.pmax(mutated.astype(jnp.int32), axis_name) > 0
    return jnp.where(mutated.any(), mutated.argmax(), space.num_layers)


def gate(
    run: Bool[Array, ''], function: Callable[..., jax.Array], otherwise: jax.Array, *operands: Any
) -> jax.Array:
    """Return `function(*operands)` where `run`, else `otherwise`; only that is computed, in the gradient too.

    It is a loop of one turn or none rather than a conditional: XLA divides the work of a loop's body between a
    processor's cores, that of a conditional's branches it does not.
    """

    def once(function: Callable, start: Any, *operands: Any) -> Any:
        def turn(carry: tuple) -> tuple:
            return jnp.zeros_like(run), function(*carry[2]), carry[2]

        return jax.lax.while_loop(lambda carry: carry[0], turn, (run, start, operands))[1]

    @jax.custom_vjp
    def choose(otherwise: jax.Array, *operands: Any) -> jax.Array:
        return once(function, otherwise, *operands)

    def forward(otherwise: jax.Array, *operands: Any) -> tuple[jax.Array, tuple]:
        kept: list[Any] = []

        def with_residuals(*operands: Any) -> tuple[jax.Array, list[jax.Array]]:
            y, pull = jax.vjp(function, *operands)
            given = jax.tree.leaves(operands)
            leaves, tree = jax.tree.flatten(pull)
            places = [next((i for i, g in enumerate(given) if g is leaf), None) for leaf in leaves]
            kept[:] = [tree, places]
            return y, [leaf for leaf, place in zip(leaves, places, strict=True) if place is None]

        _, shapes = jax.eval_shape(with_residuals, *operands)
        empty = [jnp.zeros(s.shape, s.dtype) for s in shapes]
        y, residuals = once(with_residuals, (otherwise, empty), *operands)
        pulls.append(tuple(kept))
        return y, (operands, residuals)

    def backward(saved: tuple, gradient: jax.Array) -> tuple:
        operands, residuals = saved
        tree, places = pulls[-1]

        def pull(gradient: jax.Array, operands: Any, residuals: list[jax.Array]) -> tuple:
            given, own = jax.tree.leaves(operands), iter(residuals)
            leaves = [next(own) if place is None else given[place] for place in places]
            return jnp.zeros_like(gradient), jax.tree.unflatten(tree, leaves)(gradient)

        start = (gradient, jax.tree.map(jnp.zeros_like, operands))
        otherwise, found = once(pull, start, gradient, operands, residuals)
        return otherwise, *found

    pulls: list[tuple] = []
    choose.defvjp(forward, backward)
    return choose(otherwise, *operands)
