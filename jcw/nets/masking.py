"""Channel masks, and a normalisation with activation that respects them.

A mask is 1 on the first `width` channels of a site and 0 on the others. It is one for the whole batch, [channels], or
one for each example, [batch channels]. Entries under a 1 are *live*.

- Means and variances are taken over live entries alone.
- The output is multiplied by the mask last. Masked before, dead channels would come back: the normalisation adds a
  bias.

So a masked network computes what a network of the smaller widths does.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jcw.nets import activations, blocks, kernels

Activations = Float[Array, 'batch height width channels']
Mask = Float[Array, 'channels'] | Float[Array, 'batch channels']
PerChannel = Float[Array, 'channels']

EPSILON = 1e-5


class Moments(NamedTuple):
    """Mean and variance of each channel over the live entries of a batch, float32 [channels]."""

    mean: jax.Array
    variance: jax.Array
    live: jax.Array  # number of live entries each was taken over; 0 for a channel that was nowhere live


def channel_mask(
    width: Int[Array, '*batch'], channels: int, dtype=jnp.float32
) -> Float[Array, '*batch channels']:
    """Return 1 for the first `width` of `channels` channels, 0 for the rest."""
    return (jnp.arange(channels) < width[..., None]).astype(dtype)


def normalise_train(
    x: Activations,
    scale: PerChannel,
    bias: PerChannel,
    mask: Mask,
    axis_name: str | None = None,
    activation: str | None = 'relu',
) -> tuple[Activations, Moments]:
    """Return `activation((x - mean) / sqrt(variance + eps) * scale + bias) * mask` and the batch's moments.

    Moments are taken over live entries, and over all devices of `axis_name` where it is given. No gradient flows into
    the moments returned.
    """
    return _normalise(x, scale, bias, mask, axis_name, activation)


def normalise_into(
    function: Callable[[Activations, Array], jax.Array],
    operand: Array,
    x: Activations,
    scale: PerChannel,
    bias: PerChannel,
    mask: Mask,
    axis_name: str | None = None,
    activation: str | None = 'relu',
) -> tuple[jax.Array, Moments]:
    """Return `function(y, operand)` of `y, moments = normalise_train(x, ...)`, and the moments.

    The gradient computes y again from x instead of keeping it, which costs little time and saves memory. It saves
    none where XLA sees forward and backward pass in one piece: it may find the two computations the same, and keep y.
    """
    return _normalise_into(function, axis_name, activation, operand, x, scale, bias, mask)


def normalise_eval(
    x: Activations,
    scale: PerChannel,
    bias: PerChannel,
    mean: PerChannel,
    variance: PerChannel,
    mask: Mask,
    activation: str | None = 'relu',
) -> Activations:
    """Return `activation((x - mean) / sqrt(variance + eps) * scale + bias) * mask` with given moments."""
    return _apply(x, *_affine(scale, bias, mean, variance), mask, activation)


def biased(x: Activations, bias: PerChannel, mask: Mask, activation: str | None = 'relu') -> Activations:
    """Return `activation(x + bias) * mask`, of an operation without normalisation."""
    return _apply(x, jnp.ones((), bias.dtype), bias, mask, activation)


def _affine(
    scale: jax.Array, bias: jax.Array, mean: jax.Array, variance: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return the factor and the shift of the normalisation."""
    factor = scale * jax.lax.rsqrt(variance + EPSILON)
    return factor, bias - mean * factor


def _apply(
    x: jax.Array, factor: jax.Array, shift: jax.Array, mask: jax.Array, activation: str | None
) -> jax.Array:
    y = activations.BY_NAME[activation](x * factor + shift)
    return (y * _spatial(mask)).astype(x.dtype)


def _spatial(mask: jax.Array) -> jax.Array:
    """Give a mask per example its two axes of positions."""
    return mask[:, None, None, :] if mask.ndim == 2 else mask


def _sums(values: tuple[jax.Array, ...], axis_name: str | None) -> tuple[jax.Array, ...]:
    sums = tuple(v.sum((0, 1, 2), dtype=blocks.accumulator(v)) for v in values)
    return sums if axis_name is None else jax.lax.psum(sums, axis_name)


def _live(x: jax.Array, mask: jax.Array, axis_name: str | None) -> jax.Array:
    batch, height, width, _ = x.shape
    examples = mask.sum(0) if mask.ndim == 2 else batch * mask
    entries = examples * (height * width)
    return entries if axis_name is None else jax.lax.psum(entries, axis_name)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _normalise(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mask: jax.Array,
    axis_name: str | None,
    activation: str | None,
) -> tuple[jax.Array, Moments]:
    live = _live(x, mask, axis_name)
    masked = x * _spatial(mask) if mask.ndim == 2 else x
    total, squares = _sums((masked, jnp.square(masked.astype(blocks.accumulator(x)))), axis_name)
    count = jnp.maximum(live, 1) if mask.ndim == 2 else jnp.maximum(live.max(), 1)
    mean = total / count
    variance = jnp.maximum(squares / count - jnp.square(mean), 0)
    return _apply(x, *_affine(scale, bias, mean, variance), mask, activation), Moments(mean, variance, live)


def _normalise_forward(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mask: jax.Array,
    axis_name: str | None,
    activation: str | None,
) -> tuple[tuple[jax.Array, Moments], tuple]:
    y, moments = _normalise(x, scale, bias, mask, axis_name, activation)
    return (y, moments), (x, scale, bias, mask, moments)


def _normalise_backward(
    axis_name: str | None, activation: str | None, residuals: tuple, gradients: tuple
) -> tuple:
    """Differentiate by hand: `dx = scale / std * (g - (sum g + xhat * sum(g * xhat)) / live)`.

    g is the gradient before the activation and xhat the normalised input; both are computed from x, so that y is
    neither kept nor read. The sums run over all devices. The gradients of scale and bias are each device's own part.
    """
    x, scale, bias, mask, moments = residuals
    inverse = jax.lax.rsqrt(moments.variance + EPSILON)
    factor, shift = _affine(scale, bias, moments.mean, moments.variance)

    def active(x: jax.Array, g: jax.Array) -> jax.Array:
        before = x * factor + shift
        slope: jax.Array = jax.jvp(activations.BY_NAME[activation], (before,), (g.astype(before.dtype),))[1]
        return slope

    def parts(x: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        g = active(x, g)
        return g, g * ((x - moments.mean) * inverse)

    masked = gradients[0] * _spatial(mask) if mask.ndim == 2 else gradients[0]
    own = kernels.position_sums(parts, x, masked)
    dbias, dscale = own if mask.ndim == 2 else (total * mask for total in own)
    total, projected = (dbias, dscale) if axis_name is None else jax.lax.psum((dbias, dscale), axis_name)
    live = jnp.maximum(moments.live, 1)
    slope = -inverse * projected / live
    offset = -total / live
    dx = factor * (active(x, gradients[0]) + slope * (x - moments.mean) + offset) * _spatial(mask)
    return dx.astype(x.dtype), dscale.astype(scale.dtype), dbias.astype(scale.dtype), jnp.zeros_like(mask)


_normalise.defvjp(_normalise_forward, _normalise_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _normalise_into(
    function: Callable, axis_name: str | None, activation: str | None, operand: jax.Array, *given: jax.Array
) -> tuple[jax.Array, Moments]:
    y, moments = _normalise(*given, axis_name, activation)
    return function(y, operand), moments


def _normalise_into_forward(
    function: Callable, axis_name: str | None, activation: str | None, operand: jax.Array, *given: jax.Array
) -> tuple[tuple[jax.Array, Moments], tuple]:
    y, moments = _normalise_into(function, axis_name, activation, operand, *given)
    return (y, moments), (operand, *given, moments)


def _normalise_into_backward(
    function: Callable, axis_name: str | None, activation: str | None, residuals: tuple, gradients: tuple
) -> tuple:
    operand, x, scale, bias, mask, moments = residuals
    y = _apply(x, *_affine(scale, bias, moments.mean, moments.variance), mask, activation)
    _, pull = jax.vjp(function, y, operand)
    dy, doperand = pull(gradients[0])
    return doperand, *_normalise_backward(axis_name, activation, (x, scale, bias, mask, moments), (dy, None))


_normalise_into.defvjp(_normalise_into_forward, _normalise_into_backward)
