"""A space small enough to compile in seconds, with every kind of layer, both strides and ragged choices."""

import jax
import jax.numpy as jnp
import numpy as np

from jcw.nets import mobilenet
from jcw.space import LayerSpec, SearchSpace

SPACE = SearchSpace(
    layers=(
        LayerSpec('conv', 6, stride=1),
        LayerSpec('separable', 8, stride=2),
        LayerSpec('separable', 8, stride=1),
        LayerSpec('separable', 12, stride=2),
    ),
    input_shape=(8, 7, 3),
    num_classes=5,
    width_choices=((2, 4, 6), (2, 5, 8), (3, 8), (4, 8, 12)),
)


def random_choices(seed: int, *shape: int) -> np.ndarray:
    """Draw configurations, int32 [*shape layers]."""
    draws = np.random.default_rng(seed).random((*shape, SPACE.num_layers))
    return (draws * SPACE.num_choices).astype(np.int32)


def random_variables(seed: int, dtype=np.float32, spread: float = 0.3):
    """Return variables off their initial values: biases and scales of normalisation, too.

    Drawn by NumPy: a generator compiled for each shape would take longer than the test.
    """
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(mobilenet.network(SPACE).init, jax.random.key(0))

    def draw(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        values = rng.standard_normal(leaf.shape)
        values = np.abs(values) * spread + 0.2 if leaf.ndim == 1 else values * spread
        return jnp.asarray(values.astype(dtype))

    return jax.tree.map(draw, shapes)


def random_images(seed: int, batch: int, dtype=np.float32) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal((batch, *SPACE.input_shape)).astype(dtype))
