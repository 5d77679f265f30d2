"""The largest network and mutated ones in one pass: layers before the first mutated one are computed once.

Where all examples of a batch keep their greatest widths up to some layer, the mutated network is the largest up to
there, batch statistics and gradients included. So its layers are gates: before that layer they do nothing; at it the
largest's activations enter; from there on they compute. In the gradient, what flows back through them joins the
largest's own where they had parted.

A gate is a loop of one turn or none rather than a conditional: XLA divides the work of a loop's body between a
processor's cores, that of a conditional's branches it does not.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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
    if implementation != 'auto':
        return Network(whole.init, whole.apply, _pair(space, dtype, implementation, axis_name))
    # Chosen here, and once: a choice inside a gate would have it keep what either platform's gradient needs.
    cpu, native = (_pair(space, dtype, each, axis_name) for each in ('cpu', 'native'))
    choose = functools.partial(jax.lax.platform_dependent, cpu=cpu, default=native)
    return Network(whole.init, whole.apply, choose)


def _pair(
    space: SearchSpace, dtype: Any, implementation: kernels.Implementation, axis_name: str | None
) -> Callable[..., tuple[jax.Array, dict[str, Any], jax.Array]]:
    blocks = [
        mobilenet.layer_of(spec)(spec, int(width), dtype, implementation, axis_name, parent=None)
        for spec, width in zip(space.layers, space.largest, strict=True)
    ]
    inputs = (space.input_shape[-1], *(block.width for block in blocks[:-1]))
    layers = [_Layer(block, width, block.width) for block, width in zip(blocks, inputs, strict=True)]
    head = mobilenet.Head(space.num_classes, parent=None)

    def pair(
        variables: Variables,
        images: Float[Array, 'batch height width channels'],
        widths: Int[Array, 'batch layers'],
    ) -> tuple[Float[Array, 'batch classes'], dict[str, Any], Float[Array, 'batch classes']]:
        names = [layer_name(index) for index in range(space.num_layers)]
        given = []
        before = jnp.ones((len(images), images.shape[-1]))
        for index, (name, block) in enumerate(zip(names, blocks, strict=True)):
            after = masking.channel_mask(widths[:, index], block.width)
            given.append(_Given(variables['batch_stats'][name], before, after))
            before = after
        params = [variables['params'][name] for name in names]
        first = _first_mutated(space, widths, axis_name)
        x, moments, mutated = _chain(layers, params, images.astype(dtype), first, given)

        def classify(x: jax.Array) -> jax.Array:
            features = x.mean((1, 2), dtype=kernels.accumulator(x))
            logits: Any = head.apply({'params': variables['params']['head']}, features)
            return logits

        return classify(x), dict(zip(names, moments, strict=True)), classify(mutated)

    return pair


class _Given(NamedTuple):
    """What a layer takes besides its parameters and activations."""

    stats: Any
    in_masks: Float[Array, 'batch inputs']  # of the mutated networks
    masks: Float[Array, 'batch outputs']


class _Layer(NamedTuple):
    """A layer as functions of arrays."""

    block: Any
    inputs: int
    outputs: int

    def largest(self, params: Any, x: jax.Array, given: _Given) -> tuple[jax.Array, Any]:
        return self._apply(params, x, given.stats, jnp.ones(self.inputs), jnp.ones(self.outputs))

    def mutated(self, params: Any, x: jax.Array, given: _Given) -> jax.Array:
        return self._apply(params, x, *given)[0]

    def _apply(self, params: Any, x: jax.Array, stats: Any, *masks: jax.Array) -> tuple[jax.Array, Any]:
        variables = {'params': params, 'batch_stats': stats}
        y, state = self.block.apply(variables, x, *masks, train=True, mutable=['batch_stats'])
        return y, state['batch_stats']


def _first_mutated(
    space: SearchSpace, widths: Int[Array, 'batch layers'], axis_name: str | None
) -> Int[Array, '']:
    """Return the first layer that is not at its greatest width in every example; `layers` if there is none."""
    mutated = (widths != jnp.asarray(space.largest)).any(0)
    if axis_name is not None:
        mutated = jax.lax.pmax(mutated.astype(jnp.int32), axis_name) > 0
    return jnp.where(mutated.any(), mutated.argmax(), space.num_layers)


def _chain(
    layers: Sequence[_Layer],
    params: list[Any],
    images: jax.Array,
    first: Int[Array, ''],
    given: list[_Given],
) -> tuple[jax.Array, list[Any], jax.Array]:
    """Return the largest network's activations, its moments, and the mutated network's activations."""

    # All traced values are arguments: those that a custom gradient closes over leak under `checkpoint` or `scan`.
    @jax.custom_vjp
    def run(params: list[Any], images: jax.Array, *given: Any) -> tuple[jax.Array, list[Any], jax.Array]:
        return forward(params, images, *given)[0]

    def forward(
        params: list[Any], images: jax.Array, first: jax.Array, given: list[_Given]
    ) -> tuple[tuple, tuple]:
        x, mutated = images, vacant(images, 0)
        moments, largest, gates = [], [], []
        for index, (layer, own) in enumerate(zip(layers, params, strict=True)):
            mutated = once(first == index, lambda _, x: x, mutated, x)
            x, pull, seen = jax.vjp(
                functools.partial(layer.largest, given=given[index]), own, x, has_aux=True
            )
            moments.append(seen)
            largest.append(pull)
            mutated, gate = _gated_vjp(index, first <= index, layer, own, mutated, given[index])
            gates.append(gate)
        mutated = once(first == len(layers), lambda _, x: x, mutated, x)
        # Under `vmap` over widths JAX would sum the gradient of a result that does not depend on them twice.
        x = x + (0 * first).astype(x.dtype)
        return (x, moments, mutated), (first, largest, gates)

    def backward(saved: tuple, gradients: tuple) -> tuple:
        dx, _, dmutated = gradients
        first, largest, gates = saved
        dx = once(first == len(layers), jnp.add, dx, dmutated)
        dparams = []
        for index in reversed(range(len(layers))):
            down, dx = largest[index](dx)
            down, dmutated = _gated_pull(index, first <= index, gates[index], down, dmutated)
            dx = once(first == index, jnp.add, dx, dmutated)
            dparams.append(down)
        return dparams[::-1], dx, None, None

    run.defvjp(forward, backward)
    return run(params, images, first, given)


def _gated_vjp(
    index: int, run: Bool[Array, ''], layer: _Layer, params: Any, x: jax.Array, given: _Given
) -> tuple[jax.Array, Callable]:
    """Return a mutated layer's output and its gradient's function, both of any value where it does not run."""
    kept: list[Any] = []

    def with_residuals(_: Any, *operands: Any) -> tuple[jax.Array, list[jax.Array]]:
        params, x, given = operands
        y, pull = jax.vjp(functools.partial(layer.mutated, given=given), params, x)
        leaves, tree = jax.tree.flatten(pull)
        known = [id(leaf) for leaf in jax.tree.leaves(operands)]
        places = [known.index(id(leaf)) if id(leaf) in known else None for leaf in leaves]
        kept[:] = [tree, places]
        return y, [leaf for leaf, place in zip(leaves, places, strict=True) if place is None]

    operands = (params, x, given)
    start = vacant(jax.eval_shape(with_residuals, None, *operands), index)
    y, residuals = once(run, with_residuals, start, *operands)
    tree, places = kept
    known, own = jax.tree.leaves(operands), iter(residuals)
    return y, jax.tree.unflatten(tree, [next(own) if place is None else known[place] for place in places])


def _gated_pull(
    index: int, run: Bool[Array, ''], pull: Callable, dparams: Any, dy: jax.Array
) -> tuple[Any, jax.Array]:
    """Add a mutated layer's gradient to that of the parameters; return it and that of the layer's input."""

    def add(start: tuple, pull: Any, dy: jax.Array) -> tuple[Any, jax.Array]:
        more, dx = pull(dy)
        return jax.tree.map(jnp.add, start[0], more), dx

    _, dx = jax.eval_shape(pull, dy)
    return once(run, add, (dparams, vacant(dx, -1 - index)), pull, dy)


def once(run: Bool[Array, ''], function: Callable, start: Any, *operands: Any) -> Any:
    """Return `function(start, *operands)` where `run`, else `start`; only that is computed."""

    def turn(carry: tuple) -> tuple:
        return jnp.zeros_like(run), function(carry[1], *carry[2]), carry[2]

    return jax.lax.while_loop(lambda carry: carry[0], turn, (run, start, operands))[1]


def vacant(shapes: Any, number: int) -> Any:
    """Return arrays to be overwritten, all of different values: of equal ones XLA would make one, and copies of it."""
    leaves, tree = jax.tree.flatten(shapes)
    filled = [jnp.full(leaf.shape, number * len(leaves) + i, leaf.dtype) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(tree, filled)
