"""The switched form: widths are traced, yet only live channels are computed, by `lax.switch` over widths.

A branch for every (input width, output width) of every layer would take minutes to compile. So each layer has a few
extents, the last its greatest width; a branch computes the least extent that holds the widths asked for, and masks do
the rest: results are those of the masked form at any widths. A matrix product switches over pairs of extents,
normalisation and the depthwise convolution after it over one.

Every example of a group takes the same branch, whose extent is that of its widest example.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jcw.nets import kernels, masking, mobilenet
from jcw.nets.mobilenet import Network, Widths
from jcw.nets.variables import Variables, layer_name
from jcw.space import SearchSpace

EXTENTS = 4  # per layer: 16 branches for a product


def network(
    space: SearchSpace,
    *,
    extents: int = EXTENTS,
    group: int | None = None,
    dtype: Any = jnp.float32,
    implementation: kernels.Implementation = 'auto',
    axis_name: str | None = None,
) -> Network:
    """Build the supernet in switched form; its variables are those of `mobilenet.network(space)`.

    Args:
      space: layers, input shape and number of classes.
      extents: how many widths of each layer have a branch; more waste less and compile longer.
      group: successive examples that share branches and, in training, batch statistics; None for all of them. The
        statistics returned are the mean over groups.
      dtype: of activations and products.
      implementation: of the convolutions, see `jcw.nets.kernels`.
      axis_name: mapped axis over whose devices batch statistics are taken, where all examples form one group.

    Raises:
      ValueError: `extents` or `group` below 1, or groups that would take statistics over devices.
    """
    if extents < 1 or (group is not None and group < 1):
        raise ValueError(f'extents and group must be positive, got {extents} and {group}')
    if group is not None and axis_name is not None:
        raise ValueError('a group is a batch of its own on one device: give either group or axis_name')
    branches = tuple(layer_extents(choices, extents) for choices in space.width_choices)
    chain = _Chain(space, branches, dtype, implementation, axis_name)

    def apply(
        variables: Variables,
        images: Float[Array, 'batch height width channels'],
        widths: Widths | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, 'batch classes'], dict[str, Any]]:
        chosen = jnp.asarray(space.largest) if widths is None else jnp.asarray(widths)
        if group is None or group == len(images):
            logits, moments = chain.run(variables, images, chosen, train)
        else:
            logits, moments = _in_groups(chain, group, variables, images, chosen, train)
        return logits, moments if train else variables['batch_stats']

    return Network(mobilenet.network(space).init, apply)


def layer_extents(choices: Sequence[int], count: int) -> tuple[int, ...]:
    """Return up to `count` of the widths, evenly placed, the last among them."""
    steps = min(count, len(choices))
    return tuple(choices[-(-len(choices) * (k + 1) // steps) - 1] for k in range(steps))


def switch(index: Int[Array, ''], branches: Sequence[Callable], *operands: Any) -> Any:
    """Apply one of several functions, and in the gradient one of their gradients.

    Differentiated as it is, `lax.switch` would store the residuals of every branch; here only the operands are kept,
    and the branch taken is run again, less what its gradient does not need (the product, of a product).
    """

    @jax.custom_vjp
    def run(index: jax.Array, *operands: Any) -> Any:
        return jax.lax.switch(index, branches, *operands)

    def forward(index: jax.Array, *operands: Any) -> tuple[Any, tuple]:
        return run(index, *operands), (index, operands)

    def backward(residuals: tuple, gradient: Any) -> tuple:
        index, operands = residuals
        # Without the barrier XLA would see the forward pass again and store its results after all.
        gradient, operands = jax.lax.optimization_barrier((gradient, operands))
        pulls = [lambda g, *args, f=f: jax.vjp(f, *args)[1](g) for f in branches]
        return None, *jax.lax.switch(index, pulls, gradient, *operands)

    run.defvjp(forward, backward)
    return run(index, *operands)


def _in_groups(
    chain: '_Chain', size: int, variables: Variables, images: jax.Array, widths: jax.Array, train: bool
) -> tuple[jax.Array, dict[str, Any]]:
    if len(images) % size:
        raise ValueError(f'a batch of {len(images)} does not divide into groups of {size}')
    count = len(images) // size
    groups = images.reshape(count, size, *images.shape[1:])
    each = jnp.broadcast_to(widths, (len(images), widths.shape[-1])).reshape(count, size, -1)
    logits, moments = jax.lax.map(
        lambda group: chain.run(variables, group[0], group[1], train), (groups, each)
    )
    return logits.reshape(len(images), -1), jax.tree.map(lambda leaf: leaf.mean(0), moments)


class _Chain(NamedTuple):
    """The layers, and for each the extents of its branches."""

    space: SearchSpace
    extents: tuple[tuple[int, ...], ...]
    dtype: Any
    implementation: kernels.Implementation
    axis_name: str | None

    def run(
        self, variables: Variables, images: jax.Array, widths: jax.Array, train: bool
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Return logits and, in training, the moments of every normalisation.

        Products alternate with stages: all that happens to a layer's output before the next product.
        """
        params, stats = variables['params'], variables['batch_stats']
        moments: dict[str, Any] = {layer_name(i): {} for i in range(self.space.num_layers)}
        extents: tuple[int, ...] = (images.shape[-1],)
        index = jnp.zeros((), jnp.int32)
        mask, x = jnp.ones(images.shape[-1]), images.astype(self.dtype)
        for i in range(-1, self.space.num_layers):
            if i >= 0:
                pairs = [self._product(i, a, b) for a in extents for b in self.extents[i]]
                pair = index * len(self.extents[i]) + self._branch(i, widths)
                x = switch(pair, pairs, x, params[layer_name(i)][_kernel_name(self.space, i)])
                extents, index = self.extents[i], self._branch(i, widths)
                mask = masking.channel_mask(widths[..., i], extents[-1])
            norms = _stage_norms(self.space, i)
            if norms:
                scales, seen = ([tree[layer][name] for layer, name in norms] for tree in (params, stats))
                kernel = params[layer_name(i + 1)]['depthwise'] if norms[-1][1] == 'depthwise_norm' else None
                stage = [self._stage(i, extent, train) for extent in extents]
                x, found = switch(index, stage, x, kernel, scales, seen, mask)
                for (layer, name), values in zip(norms, found, strict=True):
                    moments[layer][name] = values
        features = x.mean((1, 2), dtype=kernels.accumulator(x))
        return features @ params['head']['kernel'] + params['head']['bias'], moments

    def _branch(self, layer: int, widths: jax.Array) -> jax.Array:
        """Return the index of the least extent that holds the widths of a layer, on all devices that share moments."""
        widest = widths[..., layer].max()
        if self.axis_name is not None:
            widest = jax.lax.pmax(widest, self.axis_name)
        return (widest > jnp.array(self.extents[layer][:-1], jnp.int32)).sum(dtype=jnp.int32)

    def _product(self, layer: int, inputs: int, outputs: int) -> Callable:
        spec = self.space.layers[layer]

        def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
            kernel = kernel[..., :inputs, :outputs].astype(self.dtype)
            if spec.kind == 'conv':
                y = kernels.dense(x[..., :inputs], kernel, spec.stride, self.implementation)
            else:
                y = kernels.pointwise(x[..., :inputs], kernel, self.implementation)
            return _widen(y, self.extents[layer][-1])

        return product

    def _stage(self, layer: int, extent: int, train: bool) -> Callable:
        """Return what follows the product of a layer (-1: what precedes the first), on the first `extent` channels."""

        def normalise(x: jax.Array, scale: Any, stats: Any, mask: jax.Array) -> tuple[jax.Array, Any]:
            if not train:
                y = masking.normalise_eval(x, **scale, **stats, mask=mask)
                return y, stats
            y, moments = masking.normalise_train(x, **scale, mask=mask, axis_name=self.axis_name)
            return y, {'mean': moments.mean, 'variance': moments.variance}

        def stage(x: jax.Array, kernel: Any, scales: list, stats: list, mask: jax.Array) -> tuple:
            greatest = x.shape[-1]
            x, kernel, scales, stats, mask = jax.tree.map(
                lambda leaf: leaf[..., :extent], (x, kernel, scales, stats, mask)
            )
            found = []
            if layer >= 0:
                x, seen = normalise(x, scales[0], stats[0], mask)
                found.append(seen)
            if kernel is not None:
                stride = self.space.layers[layer + 1].stride
                x = kernels.depthwise(x, kernel.astype(self.dtype), stride, self.implementation)
                x, seen = normalise(x, scales[-1], stats[-1], mask)
                found.append(seen)
            return jax.tree.map(lambda leaf: _widen(leaf, greatest), (x, found))

        return stage


def _kernel_name(space: SearchSpace, layer: int) -> str:
    return 'kernel' if space.layers[layer].kind == 'conv' else 'pointwise'


def _stage_norms(space: SearchSpace, layer: int) -> list[tuple[str, str]]:
    """Return where the normalisations after a layer's product stand: its own, and that of the next depthwise."""
    norms = []
    if layer >= 0:
        norms.append((layer_name(layer), 'norm' if space.layers[layer].kind == 'conv' else 'pointwise_norm'))
    if layer + 1 < space.num_layers and space.layers[layer + 1].kind == 'separable':
        norms.append((layer_name(layer + 1), 'depthwise_norm'))
    return norms


def _widen(x: jax.Array, channels: int) -> jax.Array:
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, channels - x.shape[-1])])
