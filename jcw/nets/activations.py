"""Activations by name. Each maps 0 to 0, so that what is masked stays masked."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def identity(x: jax.Array) -> jax.Array:
    """Return x."""
    return x


def relu(x: jax.Array) -> jax.Array:
    """Return `max(x, 0)`."""
    return jnp.where(x > 0, x, 0)


def relu6(x: jax.Array) -> jax.Array:
    """Return `min(max(x, 0), 6)`."""
    return jnp.where(x > 0, jnp.where(x < 6, x, 6), 0)


def hard_sigmoid(x: jax.Array) -> jax.Array:
    """Return `relu6(x + 3) / 6`: the gate of hard-swish and of squeeze and excitation (Howard et al., 2019)."""
    return relu6(x + 3) / 6


def hard_swish(x: jax.Array) -> jax.Array:
    """Return `x * hard_sigmoid(x)`."""
    return x * hard_sigmoid(x)


def swish(x: jax.Array) -> jax.Array:
    """Return `x * sigmoid(x)`, also called SiLU (Ramachandran et al., 2017)."""
    return x * jax.nn.sigmoid(x)


BY_NAME: dict[str | None, Callable[[jax.Array], jax.Array]] = {
    None: identity,
    'relu': relu,
    'relu6': relu6,
    'hard_swish': hard_swish,
    'swish': swish,
}
"""What a graph's operation names."""

OPENINGS: dict[str, Callable[[jax.Array], jax.Array]] = {
    'hard_sigmoid': hard_sigmoid,
    'sigmoid': jax.nn.sigmoid,
}
"""What a gate names."""
