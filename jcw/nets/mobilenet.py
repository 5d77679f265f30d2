"""The one definition of the network: a chain of convolutional layers at the greatest widths, masked to any widths."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jcw.nets import kernels, masking
from jcw.space import LayerSpec, SearchSpace

Variables = dict[str, Any]
"""`{'params': ..., 'batch_stats': ...}`, nested dictionaries of arrays."""

Widths = Int[Array, 'layers'] | Int[Array, 'batch layers']


class Network(NamedTuple):
    """A network as two pure functions.

    Attributes:
      init: key -> variables.
      apply: (variables, images [batch height width channels], widths [layers] or [batch layers] or None, train)
        -> (logits [batch classes], batch_stats). In training the second result holds the batch's own moments (not a
        running average); in evaluation those of the variables, which it normalises by.
    """

    init: Callable[[jax.Array], Variables]
    apply: Callable[..., tuple[jax.Array, dict[str, Any]]]


def network(
    space: SearchSpace,
    widths: Sequence[int] | np.ndarray | None = None,
    *,
    dtype: Any = jnp.float32,
    implementation: kernels.Implementation = 'auto',
    axis_name: str | None = None,
) -> Network:
    """Build a network of the given physical widths (default: the space's largest, the supernet).

    Args:
      space: layers, input shape and number of classes.
      widths: one per layer; what memory is laid out for. The widths given to `apply` mask it further.
      dtype: of activations and products; parameters and statistics stay float32.
      implementation: of the convolutions, see `jcw.nets.kernels`.
      axis_name: mapped axis over whose devices batch statistics are taken; None for each device's own.
    """
    physical = tuple(int(w) for w in (space.largest if widths is None else widths))
    if len(physical) != space.num_layers:
        raise ValueError(f'expected {space.num_layers} widths, got {len(physical)}')
    module = MobileNet(space, physical, dtype, implementation, axis_name)

    def init(key: jax.Array) -> Variables:
        return module.init(key, jnp.zeros((1, *space.input_shape), dtype))

    def apply(
        variables: Variables,
        images: Float[Array, 'batch height width channels'],
        widths: Widths | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, 'batch classes'], dict[str, Any]]:
        if not train:
            return module.apply(variables, images, widths), variables['batch_stats']
        logits, moments = module.apply(variables, images, widths, train=True, mutable=['batch_stats'])
        return logits, moments['batch_stats']

    return Network(init, apply)


class MobileNet(nn.Module):
    """The chain: layers of `space`, global average pooling, classifier."""

    space: SearchSpace
    widths: tuple[int, ...]
    dtype: Any = jnp.float32
    implementation: kernels.Implementation = 'auto'
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, widths: jax.Array | None = None, *, train: bool = False) -> jax.Array:
        if widths is None:
            widths = jnp.array(self.widths)
        x = images.astype(self.dtype)
        mask = jnp.ones(x.shape[-1])
        for index, (spec, width) in enumerate(zip(self.space.layers, self.widths, strict=True)):
            in_mask, mask = mask, masking.channel_mask(widths[..., index], width)
            layer = Convolution if spec.kind == 'conv' else Separable
            block = layer(spec, width, self.dtype, self.implementation, self.axis_name, name=layer_name(index))
            x = block(x, in_mask, mask, train=train)
        return Head(self.space.num_classes, name='head')(x.mean((1, 2), dtype=kernels.accumulator(x)))


def layer_name(index: int) -> str:
    """Return the key of a layer in `params` and `batch_stats`."""
    return f'layer_{index:02d}'


class Normalisation(nn.Module):
    """Batch normalisation, ReLU and mask; in training it writes the batch's moments to `batch_stats`."""

    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, *, train: bool) -> jax.Array:
        channels = (x.shape[-1],)
        scale = self.param('scale', nn.initializers.ones, channels)
        bias = self.param('bias', nn.initializers.zeros, channels)
        mean = self.variable('batch_stats', 'mean', jnp.zeros, channels)
        variance = self.variable('batch_stats', 'variance', jnp.ones, channels)
        if not train or self.is_initializing():
            return masking.normalise_eval(x, scale, bias, mean.value, variance.value, mask)
        y, moments = masking.normalise_train(x, scale, bias, mask, self.axis_name)
        mean.value, variance.value = moments.mean, moments.variance
        return y


class Convolution(nn.Module):
    """A dense convolution, normalised."""

    spec: LayerSpec
    width: int
    dtype: Any
    implementation: kernels.Implementation
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, in_mask: jax.Array, mask: jax.Array, *, train: bool) -> jax.Array:
        size = self.spec.kernel
        kernel = self.param('kernel', nn.initializers.he_normal(), (size, size, x.shape[-1], self.width))
        x = kernels.dense(x, kernel.astype(self.dtype), self.spec.stride, self.implementation)
        return Normalisation(self.axis_name, name='norm')(x, mask, train=train)


class Separable(nn.Module):
    """A depthwise convolution and a pointwise one, each normalised."""

    spec: LayerSpec
    width: int
    dtype: Any
    implementation: kernels.Implementation
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, in_mask: jax.Array, mask: jax.Array, *, train: bool) -> jax.Array:
        size, channels = self.spec.kernel, x.shape[-1]
        per_channel = nn.initializers.variance_scaling(2.0, 'fan_in', 'normal', in_axis=(0, 1), out_axis=2)
        kernel = self.param('depthwise', per_channel, (size, size, channels))
        x = kernels.depthwise(x, kernel.astype(self.dtype), self.spec.stride, self.implementation)
        x = Normalisation(self.axis_name, name='depthwise_norm')(x, in_mask, train=train)
        kernel = self.param('pointwise', nn.initializers.he_normal(), (channels, self.width))
        x = kernels.pointwise(x, kernel.astype(self.dtype), self.implementation)
        return Normalisation(self.axis_name, name='pointwise_norm')(x, mask, train=train)


class Head(nn.Module):
    """The classifier."""

    num_classes: int

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        kernel = self.param('kernel', nn.initializers.normal(0.01), (features.shape[-1], self.num_classes))
        bias = self.param('bias', nn.initializers.zeros, (self.num_classes,))
        return features @ kernel + bias
