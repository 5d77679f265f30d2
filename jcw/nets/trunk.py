"""The largest network and mutated ones in one pass: layers up to the first mutated one are computed once.

Where all examples of a batch keep their greatest widths up to some layer, the mutated network is the largest up to
there, and that layer's convolution too, before it is masked; batch statistics and gradients included. So the network is
cut into stages in front of each layer's last normalisation, which masks. A mutated network's stages are gates: up to
the first mutated layer they do nothing; after it the largest's activations enter, and from there on they compute. In
the gradient, what flows back through them joins the largest's own where they had parted.

A gate is a loop of one turn or none rather than a conditional: XLA divides the work of a loop's body between a
processor's cores, that of a conditional's branches it does not.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jcw.nets import kernels, masking, mobilenet
from jcw.nets.mobilenet import Network
from jcw.nets.variables import Variables, layer_name
from jcw.space import LayerSpec, SearchSpace


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
    stages = [_Stage(spec, dtype, implementation, axis_name) for spec in (*space.layers, None)]
    head = mobilenet.Head(space.num_classes, parent=None)

    def pair(
        variables: Variables,
        images: Float[Array, 'batch height width channels'],
        widths: Int[Array, 'batch layers'],
    ) -> tuple[Float[Array, 'batch classes'], dict[str, Any], Float[Array, 'batch classes']]:
        masks = [masking.channel_mask(widths[:, i], int(width)) for i, width in enumerate(space.largest)]
        first = _first_mutated(space, widths, axis_name)
        params = _by_stage(space, variables['params'])
        x, moments, mutated = _chain(stages, params, images.astype(dtype), first, masks)

        def classify(x: jax.Array) -> jax.Array:
            features = x.mean((1, 2), dtype=kernels.accumulator(x))
            logits: Any = head.apply({'params': variables['params']['head']}, features)
            return logits

        return classify(x), _by_layer(space, moments), classify(mutated)

    return pair


LAST_NORM = {'conv': 'norm', 'separable': 'pointwise_norm'}  # of a layer, by its kind


def _by_stage(space: SearchSpace, params: dict[str, Any]) -> list[dict[str, Any]]:
    """Return each stage's parameters: `before`, those of the last normalisation of the layer before, and its own."""
    stages: list[dict[str, Any]] = [{}]
    for index, spec in enumerate(space.layers):
        own = dict(params[layer_name(index)])
        last = own.pop(LAST_NORM[spec.kind])
        stages[-1].update(own)
        stages.append({'before': last})
    return stages


def _by_layer(space: SearchSpace, moments: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the stages' moments as a network's batch statistics."""
    layers = {}
    for index, spec in enumerate(space.layers):
        own = {name: value for name, value in moments[index].items() if name != 'before'}
        own[LAST_NORM[spec.kind]] = moments[index + 1]['before']
        layers[layer_name(index)] = {
            name: {'mean': m.mean, 'variance': m.variance} for name, m in own.items()
        }
    return layers


class _Stage(NamedTuple):
    """What lies between two layers' last normalisations: the former of them, then a layer less the latter."""

    spec: LayerSpec | None  # none comes after the last normalisation
    dtype: Any
    implementation: kernels.Implementation
    axis_name: str | None

    def __call__(
        self, params: dict[str, Any], x: jax.Array, mask: jax.Array
    ) -> tuple[jax.Array, dict[str, masking.Moments]]:
        """Return the stage's activations and its normalisations' moments; the mask is of its input's channels."""
        if self.spec is None:
            norm = params['before']
            y, last = masking.normalise_train(x, norm['scale'], norm['bias'], mask, self.axis_name)
            return y, {'before': last}
        stride = self.spec.stride
        if self.spec.kind == 'conv':
            dense = functools.partial(kernels.dense, stride=stride)
            return self._convolve(dense, 'kernel', 'before', params, x, mask)
        depthwise = functools.partial(kernels.depthwise, stride=stride)
        x, moments = self._convolve(depthwise, 'depthwise', 'before', params, x, mask)
        y, more = self._convolve(kernels.pointwise, 'pointwise', 'depthwise_norm', params, x, mask)
        return y, {**moments, **more}

    def _convolve(
        self,
        convolution: Callable,
        kernel: str,
        norm: str,
        params: dict[str, Any],
        x: jax.Array,
        mask: jax.Array,
    ) -> tuple[jax.Array, dict[str, masking.Moments]]:
        """Normalise, except for images, and convolve."""

        def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
            y: jax.Array = convolution(x, kernel.astype(self.dtype), implementation=self.implementation)
            return y

        if norm not in params:
            return convolve(x, params[kernel]), {}
        given = (x, params[norm]['scale'], params[norm]['bias'], mask)
        y, moments = masking.normalise_into(convolve, params[kernel], *given, self.axis_name)
        return y, {norm: moments}

    def largest(self, params: dict[str, Any], x: jax.Array) -> tuple[jax.Array, dict]:
        return self(params, x, jnp.ones(x.shape[-1]))

    def mutated(self, params: dict[str, Any], x: jax.Array, mask: jax.Array) -> jax.Array:
        return self(params, x, mask)[0]


def _first_mutated(
    space: SearchSpace, widths: Int[Array, 'batch layers'], axis_name: str | None
) -> Int[Array, '']:
    """Return the first layer that is not at its greatest width in every example; `layers` if there is none."""
    mutated = (widths != jnp.asarray(space.largest)).any(0)
    if axis_name is not None:
        mutated = jax.lax.pmax(mutated.astype(jnp.int32), axis_name) > 0
    return jnp.where(mutated.any(), mutated.argmax(), space.num_layers)


def _chain(
    stages: Sequence[_Stage],
    params: list[dict[str, Any]],
    images: jax.Array,
    first: Int[Array, ''],
    masks: list[Float[Array, 'batch _']],
) -> tuple[jax.Array, list[dict], jax.Array]:
    """Return the largest network's activations, its stages' moments, and the mutated network's activations.

    The masks are the layers', so of the inputs of all stages but the first. The mutated network needs none of the first stage, and all of the last,
    where it is the largest if no layer is mutated.
    """
    last = len(stages) - 1

    # All traced values are arguments: those that a custom gradient closes over leak under `checkpoint` or `scan`.
    @jax.custom_vjp
    def run(
        params: list[dict[str, Any]], images: jax.Array, *given: Any
    ) -> tuple[jax.Array, list, jax.Array]:
        return forward(params, images, *given)[0]

    def forward(
        params: list[dict[str, Any]], images: jax.Array, first: jax.Array, masks: list[jax.Array]
    ) -> tuple[tuple, tuple]:
        x, moments, pulls, gates = images, [], [], []
        mutated: Any = None
        for index, (stage, own) in enumerate(zip(stages, params, strict=True)):
            if index > 0:
                mutated = x if mutated is None else once(_enter(first, index, last), _second, mutated, x)
            x, pull, seen = jax.vjp(stage.largest, own, x, has_aux=True)
            moments.append(seen)
            pulls.append(pull)
            if 0 < index < last:
                mutated, gate = _gated_vjp(index, first < index, stage, own, mutated, masks[index - 1])
                gates.append(gate)
        mutated, pull = jax.vjp(
            functools.partial(stages[last].mutated, mask=masks[-1]), params[last], mutated
        )
        # Under `vmap` over widths JAX would sum the gradient of a result that does not depend on them twice.
        x = x + (0 * first).astype(x.dtype)
        return (x, moments, mutated), (first, pulls, gates, pull)

    def backward(saved: tuple, gradients: tuple) -> tuple:
        dx, _, dmutated = gradients
        first, pulls, gates, pull_mutated = saved
        dparams = []
        for index in reversed(range(len(stages))):
            down, dx = pulls[index](dx)
            if index == last:
                more, dmutated = pull_mutated(dmutated)
                down = jax.tree.map(jnp.add, down, more)
            elif index > 0:
                down, dmutated = _gated_pull(first < index, gates[index - 1], down, dmutated)
            if index > 0:
                dx = once(_enter(first, index, last), jnp.add, dx, dmutated)
            dparams.append(down)
        return dparams[::-1], dx, None, None

    run.defvjp(forward, backward)
    return run(params, images, first, masks)


def _enter(first: jax.Array, index: int, last: int) -> jax.Array:
    """Say whether the largest network's activations enter the mutated one's at this stage."""
    return first >= index - 1 if index == last else first == index - 1


def _second(_: Any, x: jax.Array) -> jax.Array:
    return x


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Gate:
    """What the gradient of a mutated stage needs; residuals are of any value where it did not run."""

    params: Any
    x: jax.Array
    mask: jax.Array
    residuals: list[jax.Array]
    tree: Any = dataclasses.field(metadata={'static': True})  # of the gradient's function
    places: tuple[int | None, ...] = dataclasses.field(metadata={'static': True})
    """Where among the three operands each of its leaves is found; None for the next of the residuals."""


def _gated_vjp(
    index: int, run: Bool[Array, ''], stage: _Stage, params: Any, x: jax.Array, mask: jax.Array
) -> tuple[jax.Array, _Gate]:
    """Return a mutated stage's activations, of any value where it does not run, and what its gradient needs."""
    kept: list[Any] = []

    def with_residuals(_: Any, *operands: Any) -> tuple[jax.Array, list[jax.Array]]:
        params, x, mask = operands
        y, pull = jax.vjp(functools.partial(stage.mutated, mask=mask), params, x)
        leaves, tree = jax.tree.flatten(pull)
        known = [id(leaf) for leaf in jax.tree.leaves(operands)]
        places = [known.index(id(leaf)) if id(leaf) in known else None for leaf in leaves]
        kept[:] = [tree, tuple(places)]
        return y, [leaf for leaf, place in zip(leaves, places, strict=True) if place is None]

    operands = (params, x, mask)
    start = vacant(jax.eval_shape(with_residuals, None, *operands), index)
    y, residuals = once(run, with_residuals, start, *operands)
    return y, _Gate(*operands, residuals, *kept)


def _gated_pull(run: Bool[Array, ''], gate: _Gate, dparams: Any, dy: jax.Array) -> tuple[Any, jax.Array]:
    """Add a mutated stage's gradient to that of the parameters; return it and that of the stage's input.

    The input makes room for its gradient: no other memory is set aside for it.
    """

    def add(start: tuple, params: Any, mask: jax.Array, residuals: list[jax.Array], dy: jax.Array) -> tuple:
        dparams, x = start
        known, own = jax.tree.leaves((params, x, mask)), iter(residuals)
        leaves = [next(own) if place is None else known[place] for place in gate.places]
        more, dx = jax.tree.unflatten(gate.tree, leaves)(dy)
        return jax.tree.map(jnp.add, dparams, more), dx

    return once(run, add, (dparams, gate.x), gate.params, gate.mask, gate.residuals, dy)


def once(run: Bool[Array, ''], function: Callable, start: Any, *operands: Any) -> Any:
    """Return `function(start, *operands)` where `run`, else `start`; only that is computed."""

    def turn(carry: tuple) -> tuple:
        return jnp.zeros_like(run), function(carry[1], *carry[2]), carry[2]

    return jax.lax.while_loop(lambda carry: carry[0], turn, (run, start, operands))[1]


def vacant(shapes: Any, number: int) -> Any:
    """Return arrays to be overwritten, of different values: of equal ones XLA would make one, and copies of it."""
    leaves, tree = jax.tree.flatten(shapes)
    filled = [jnp.full(leaf.shape, number * len(leaves) + i, leaf.dtype) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(tree, filled)
