"""The one definition of the network: a chain of convolutional layers at the greatest widths, masked to any widths."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jcw.nets import kernels, masking
from jcw.nets.variables import Variables, layer_name
from jcw.space import LayerSpec, SearchSpace

Widths = Int[Array, 'layers'] | Int[Array, 'batch layers']


class Network(NamedTuple):
    """A network as two pure functions.

    Attributes:
      init: key -> variables.
      apply: (variables, images [batch height width channels], widths [layers] or [batch layers] or None, train)
        -> (logits [batch classes], batch_stats). In training the second result holds the batch's own moments (not a
        running average); in evaluation those of the variables, which it normalises by.
      pair: in training, (variables, images, widths [batch layers]) -> (logits of the largest network, its moments,
        logits of the mutated one), where the two are not to be computed apart.
    """

    init: Callable[[jax.Array], Variables]
    apply: Callable[..., tuple[jax.Array, dict[str, Any]]]
    pair: Callable[..., tuple[jax.Array, dict[str, Any], jax.Array]] | None = None


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
        shapes = jax.eval_shape(module.init, key, jnp.zeros((1, *space.input_shape), dtype))
        return {'params': _draw(key, shapes['params']), 'batch_stats': _draw(key, shapes['batch_stats'])}

    def apply(
        variables: Variables,
        images: Float[Array, 'batch height width channels'],
        widths: Widths | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, 'batch classes'], dict[str, Any]]:
        if not train:
            logits: Any = module.apply(variables, images, widths)
            return logits, variables['batch_stats']
        result: Any = module.apply(variables, images, widths, train=True, mutable=['batch_stats'])
        logits, moments = result
        return logits, moments['batch_stats']

    return Network(init, apply)


def _draw(key: jax.Array, shapes: Any) -> Any:
    """Draw kernels from He et al.'s normal (2015), the classifier's at 0.01; ones for scales and variances.

    One draw serves all kernels: a generator for each would take longer to compile than the network.
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(shapes)
    ends = np.cumsum([leaf.size if leaf.ndim > 1 else 0 for _, leaf in leaves])
    normal = jax.random.normal(key, (int(ends[-1]),))

    def fill(path: tuple, leaf: jax.ShapeDtypeStruct, end: int) -> jax.Array:
        name = path[-1].key
        if leaf.ndim == 1:
            return (jnp.ones if name in ('scale', 'variance') else jnp.zeros)(leaf.shape, leaf.dtype)
        fan_in = leaf.size // leaf.shape[-1]
        deviation = 0.01 if path[0].key == 'head' else (2 / fan_in) ** 0.5
        return deviation * normal[end - leaf.size : end].reshape(leaf.shape).astype(leaf.dtype)

    filled = [fill(path, leaf, int(end)) for (path, leaf), end in zip(leaves, ends, strict=True)]
    return jax.tree.unflatten(tree, filled)


class MobileNet(nn.Module):
    """The chain: layers of `space`, global average pooling, classifier.

    Its initialisers give shapes only; `network` draws the values.
    """

    space: SearchSpace
    widths: tuple[int, ...]
    dtype: Any = jnp.float32
    implementation: kernels.Implementation = 'auto'
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, images: jax.Array, widths: jax.Array | None = None, *, train: bool = False
    ) -> jax.Array:
        if widths is None:
            widths = jnp.array(self.widths)
        x = images.astype(self.dtype)
        mask = jnp.ones(x.shape[-1])
        for index, (spec, width) in enumerate(zip(self.space.layers, self.widths, strict=True)):
            in_mask, mask = mask, masking.channel_mask(widths[..., index], width)
            block = layer_of(spec)(
                spec, width, self.dtype, self.implementation, self.axis_name, name=layer_name(index)
            )
            x = block(x, in_mask, mask, train=train)
        return Head(self.space.num_classes, name='head')(x.mean((1, 2), dtype=kernels.accumulator(x)))


class Normalisation(nn.Module):
    """Batch normalisation, ReLU and mask; in training it writes the batch's moments to `batch_stats`."""

    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, *, train: bool) -> jax.Array:
        channels = (x.shape[-1],)
        scale = self.param('scale', nn.initializers.zeros, channels)
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
        kernel = self.param('kernel', nn.initializers.zeros, (size, size, x.shape[-1], self.width))
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
        kernel = self.param('depthwise', nn.initializers.zeros, (size, size, channels))
        x = kernels.depthwise(x, kernel.astype(self.dtype), self.spec.stride, self.implementation)
        x = Normalisation(self.axis_name, name='depthwise_norm')(x, in_mask, train=train)
        kernel = self.param('pointwise', nn.initializers.zeros, (channels, self.width))
        x = kernels.pointwise(x, kernel.astype(self.dtype), self.implementation)
        return Normalisation(self.axis_name, name='pointwise_norm')(x, mask, train=train)


def layer_of(spec: LayerSpec) -> type[Convolution | Separable]:
    """Return the kind of layer that is specified."""
    return Convolution if spec.kind == 'conv' else Separable


class Head(nn.Module):
    """The classifier."""

    num_classes: int

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        kernel = self.param('kernel', nn.initializers.zeros, (features.shape[-1], self.num_classes))
        bias = self.param('bias', nn.initializers.zeros, (self.num_classes,))
        return features @ kernel + bias
