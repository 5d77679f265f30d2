"""Small networks as their users write them: Linen, NNX and plain functions."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

IMAGES = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)


class ConvNet(nn.Module):
    """The network of Flax's first example: mean pools, a flatten, dense layers."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(8, (3, 3))(x))
        x = nn.avg_pool(x, (2, 2), strides=(2, 2))
        x = nn.relu(nn.Conv(16, (3, 3))(x))
        x = nn.avg_pool(x, (2, 2), strides=(2, 2))
        x = x.reshape((x.shape[0], -1))
        x = nn.relu(nn.Dense(16)(x))
        return nn.Dense(5)(x)


class ResNetBlock(nn.Module):
    filters: int
    strides: int = 1
    first: bool = False

    @nn.compact
    def __call__(self, x):
        norm = partial(nn.BatchNorm, use_running_average=True, epsilon=1e-3)
        residual = x
        y = nn.Conv(self.filters, (3, 3), self.strides, use_bias=False)(x)
        y = nn.relu(norm()(y))
        y = norm(scale_init=nn.initializers.zeros)(nn.Conv(self.filters, (3, 3), use_bias=False)(y))
        if residual.shape != y.shape:
            residual = nn.Conv(self.filters, (1, 1), self.strides, use_bias=False, name='conv_proj')(residual)
            residual = norm(name='norm_proj')(residual)
        return nn.relu(residual + y)


class BottleneckBlock(nn.Module):
    filters: int
    strides: int = 1

    @nn.compact
    def __call__(self, x):
        norm = partial(nn.BatchNorm, use_running_average=True)
        residual = x
        y = nn.relu(norm()(nn.Conv(self.filters, (1, 1), use_bias=False)(x)))
        y = nn.relu(norm()(nn.Conv(self.filters, (3, 3), self.strides, use_bias=False)(y)))
        y = norm()(nn.Conv(self.filters * 4, (1, 1), use_bias=False)(y))
        if residual.shape != y.shape:
            residual = norm()(nn.Conv(self.filters * 4, (1, 1), self.strides, use_bias=False)(residual))
        return nn.relu(residual + y)


class ResNet(nn.Module):
    """The network of Flax's ImageNet example: explicit padding in the stem, a max pool, blocks."""

    block: type = ResNetBlock

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (7, 7), (2, 2), padding=[(3, 3), (3, 3)], use_bias=False, name='conv_init')(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True, name='bn_init')(x))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding='SAME')
        for stage in range(2):
            for block in range(2):
                x = self.block(8 * 2**stage, 2 if stage and not block else 1)(x)
        return nn.Dense(5)(jnp.mean(x, axis=(1, 2)))


class InvertedResidual(nn.Module):
    out: int
    expand: int
    strides: int = 1
    gate: bool = False

    @nn.compact
    def __call__(self, x):
        norm = partial(nn.BatchNorm, use_running_average=True)
        inner = x.shape[-1] * self.expand
        y = nn.relu6(norm()(nn.Conv(inner, (1, 1), use_bias=False)(x)))
        y = nn.Conv(inner, (3, 3), self.strides, feature_group_count=inner, use_bias=False)(y)
        y = nn.hard_swish(norm()(y)) if self.gate else nn.relu6(norm()(y))
        if self.gate:
            s = jnp.mean(y, axis=(1, 2), keepdims=True)
            s = nn.silu(nn.Conv(8, (1, 1))(s))
            y = y * nn.sigmoid(nn.Conv(inner, (1, 1))(s))
        y = norm()(nn.Conv(self.out, (1, 1), use_bias=False)(y))
        return x + y if x.shape == y.shape else y


class MobileNetV2(nn.Module):
    gate: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.relu6(nn.BatchNorm(use_running_average=True)(nn.Conv(8, (3, 3), 2, use_bias=False)(x)))
        for out, strides in ((8, 1), (16, 2), (16, 1)):
            x = InvertedResidual(out, 2, strides, self.gate)(x)
        x = nn.relu6(nn.BatchNorm(use_running_average=True)(nn.Conv(16, (1, 1), use_bias=False)(x)))
        return nn.Dense(5)(x.mean((1, 2)))


class PreActivated(nn.Module):
    """Normalisation and activation before the convolutions, images normalised inside, rematerialised blocks."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (3, 3))((x - jnp.array([0.4, 0.5, 0.6])) / jnp.array([0.2, 0.3, 0.2]))

        @nn.remat
        class Block(nn.Module):
            @nn.compact
            def __call__(self, x):
                norm = partial(nn.BatchNorm, use_running_average=True)
                y = nn.Conv(16, (3, 3))(nn.swish(norm()(x)))
                return x + nn.Conv(8, (3, 3))(nn.swish(norm()(y)))

        for _ in range(2):
            x = Block()(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
        return nn.Dense(5)(x.mean(axis=1).mean(axis=1))


class OddWindows(nn.Module):
    """Padding by itself, dilation, kernels that are not square, a global maximum, 1x1 convolutions after it."""

    @nn.compact
    def __call__(self, x):
        x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
        x = nn.Conv(8, (3, 3), 2, padding='VALID', use_bias=False)(x)
        x = jnp.minimum(nn.relu(nn.BatchNorm(use_running_average=True)(x)), 6)
        x = jnp.transpose(nn.Conv(16, (1, 1))(x), (0, 3, 1, 2))
        x = jnp.transpose(x / (1 + jnp.exp(-x)), (0, 2, 3, 1))
        x = nn.Conv(16, (3, 3), feature_group_count=16, kernel_dilation=2)(x)
        x = nn.relu(nn.Conv(16, (3, 1))(nn.Conv(16, (1, 3))(x)))
        x = jnp.max(x, axis=(1, 2), keepdims=True)
        x = nn.hard_swish(nn.Conv(12, (1, 1))(x))
        return nn.Conv(5, (1, 1))(x).reshape(x.shape[0], -1)


class Shortcuts(nn.Module):
    """Padding of both sides at strides, a mean pool and zero channels in shortcuts, hard gates of dense layers."""

    @nn.compact
    def __call__(self, x):
        norm = partial(nn.BatchNorm, use_running_average=True)
        sides = [(1, 1), (1, 1)]
        x = nn.relu(norm()(nn.Conv(8, (3, 3), 2, padding=sides)(x)))
        x = nn.max_pool(x, (3, 3), (2, 2), sides)
        y = nn.relu(norm()(nn.Conv(16, (3, 3), 2, padding=sides)(x)))
        s = nn.hard_sigmoid(nn.Dense(16)(nn.relu(nn.Dense(4)(y.mean((1, 2))))))
        x = nn.relu(y * s[:, None, None] + nn.Conv(16, (1, 1))(nn.avg_pool(x, (2, 2), (2, 2))))
        y = norm()(nn.Conv(24, (3, 3), 2, padding=sides)(x))
        x = nn.relu(y + jnp.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (4, 4))))
        x = nn.avg_pool(x, x.shape[1:3]).reshape(x.shape[0], -1)
        return nn.Dense(5)(nn.relu(norm()(x)))


class LeNet(nn.Module):
    """Convolutions without padding, kernels of an even side, outputs that are maps of one position."""

    @nn.compact
    def __call__(self, x):
        x = nn.max_pool(nn.relu(nn.Conv(8, (5, 5), padding='VALID')(x)), (2, 2), (2, 2))
        x = nn.relu(nn.Conv(16, (4, 4), 2, padding=[(1, 2), (0, 1)])(x))
        x = nn.leaky_relu(nn.Conv(16, (3, 3), padding='VALID')(x), 0.0)
        return nn.Conv(5, x.shape[1:3], padding='VALID')(x)


def linen(model, images=IMAGES):
    """Return a Linen model's function and variables off their initial values."""
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    return model.apply, drawn(variables), images


def drawn(shapes, seed=0):
    """Draw variables, those of one axis positive."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        values = rng.standard_normal(leaf.shape)
        fan_in = max(int(np.prod(leaf.shape[:-1])), 1)
        return jnp.asarray(
            np.abs(values) * 0.3 + 0.3 if len(leaf.shape) < 2 else values * fan_in**-0.5, jnp.float32
        )

    return jax.tree.map(draw, shapes)


class NNXNet(nnx.Module):
    """NNX's own layers in an order of their own: a max pool, a strided shortcut, a flatten."""

    def __init__(self, rngs):
        self.stem = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.deep = nnx.Conv(8, 16, (3, 3), strides=2, rngs=rngs)
        self.deep_norm = nnx.BatchNorm(16, rngs=rngs)
        self.shortcut = nnx.Conv(8, 16, (1, 1), rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.hidden = nnx.Linear(64, 16, rngs=rngs)
        self.logits = nnx.Linear(16, 5, rngs=rngs)

    def __call__(self, x):
        x = nnx.max_pool(nnx.relu(self.norm(self.stem(x))), (2, 2), strides=(2, 2))
        x = nnx.relu(self.deep_norm(self.deep(x)) + self.shortcut(x[:, ::2, ::2]))
        x = self.dropout(x.reshape(x.shape[0], -1))
        return self.logits(nnx.relu(self.hidden(x)))


def nnx_network():
    model = NNXNet(nnx.Rngs(0))
    model.eval()
    definition, state = nnx.split(model)
    return lambda state, x: nnx.merge(definition, state)(x), state, IMAGES


def plain_nchw(padding=((1, 1), (1, 1))):
    """Convolutions of channels before positions, as networks that came from elsewhere have, and bare arithmetic."""

    def apply(variables, x):
        conv = partial(jax.lax.conv_general_dilated, dimension_numbers=('NCHW', 'OIHW', 'NCHW'))
        for name, stride, groups in (('a', 1, 1), ('b', 2, 8), ('c', 1, 1)):
            v = variables[name]
            x = conv(x, v['w'], (stride, stride), padding, feature_group_count=groups)
            column = (slice(None), None, None)
            root = jnp.sqrt(v['var'] + 1e-3)
            x = x * (v['gamma'] / root)[column] + (v['beta'] - v['gamma'] * v['mean'] / root)[column]
            x = jnp.where(x > 0, x, 0.0)
        x = jax.lax.reduce_window(
            x, -jnp.inf, jax.lax.max, (1, 1, 3, 3), (1, 1, 2, 2), ((0, 0), (0, 0), (1, 1), (1, 1))
        )
        return jnp.einsum('nchw,kc->nk', x, variables['head']) / (x.shape[2] * x.shape[3])

    shapes = {
        name: {
            'w': jax.ShapeDtypeStruct(shape, jnp.float32),
            **{
                leaf: jax.ShapeDtypeStruct(shape[:1], jnp.float32)
                for leaf in ('gamma', 'beta', 'mean', 'var')
            },
        }
        for name, shape in {'a': (8, 3, 3, 3), 'b': (8, 1, 3, 3), 'c': (16, 8, 3, 3)}.items()
    }
    variables = drawn({**shapes, 'head': jax.ShapeDtypeStruct((5, 16), jnp.float32)})
    return apply, variables, jax.ShapeDtypeStruct((2, 3, 8, 8), jnp.float32)


NETWORKS = {
    'a ConvNet with dense layers': lambda: linen(ConvNet()),
    'a ResNet of basic blocks': lambda: linen(ResNet(), jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)),
    'a ResNet of bottlenecks': lambda: linen(
        ResNet(BottleneckBlock), jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
    ),
    'a MobileNet v2': lambda: linen(MobileNetV2()),
    'a MobileNet with gates': lambda: linen(MobileNetV2(gate=True)),
    'a network with normalisation first': lambda: linen(PreActivated()),
    'windows of every kind': lambda: linen(OddWindows()),
    'shortcuts of every kind': lambda: linen(Shortcuts(), jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)),
    'a LeNet without padding': lambda: linen(LeNet(), jax.ShapeDtypeStruct((2, 20, 22, 3), jnp.float32)),
    'an NNX network': nnx_network,
    'a plain function of NCHW': plain_nchw,
}
