"""From stored bytes to what the network sees, on the device, inside the step."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt8


class Augmentation(NamedTuple):
    """What is done to a training image."""

    crop_padding: int = 0  # pixels around the image before a crop of its own size
    flip: bool = False  # mirror half of them
    mixup: float = 0.0  # parameter of mixup's Beta distribution (Zhang et al., 2018); 0 for none


def normalise(
    images: UInt8[Array, 'batch height width channels'], mean: Sequence[float], std: Sequence[float]
) -> Float[Array, 'batch height width channels']:
    """Return `(images / 255 - mean) / std`, per channel."""
    return (images.astype(jnp.float32) / 255 - jnp.array(mean)) / jnp.array(std)


def example_keys(key: Key[Array, ''], batch: int, axis_name: str | None) -> Key[Array, ' batch']:
    """Return a key per example that does not depend on how many devices share the batch."""
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * batch
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, first + jnp.arange(batch))


def crop_and_flip(
    keys: Key[Array, ' batch'],
    images: Float[Array, 'batch height width channels'],
    augmentation: Augmentation,
) -> Float[Array, 'batch height width channels']:
    """Shift each image by up to `crop_padding` pixels, zeros coming in, and mirror half of them."""

    def one(key: jax.Array, image: jax.Array) -> jax.Array:
        crop_key, flip_key = jax.random.split(key)
        if augmentation.crop_padding:
            pad = augmentation.crop_padding
            start = jax.random.randint(crop_key, (2,), 0, 2 * pad + 1)
            padded = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)))
            image = jax.lax.dynamic_slice(padded, (start[0], start[1], 0), image.shape)
        if augmentation.flip:
            image = jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image)
        return image

    return jax.vmap(one)(keys, images)


def mixup(
    key: Key[Array, ''],
    images: Float[Array, 'batch height width channels'],
    targets: Float[Array, 'batch classes'],
    alpha: float,
) -> tuple[Float[Array, 'batch height width channels'], Float[Array, 'batch classes']]:
    """Blend each example with its neighbour (first with second and so on) by one weight from Beta(alpha, alpha).

    Neighbours lie on one device, so that the blend does not depend on how many devices share the batch.

    Raises:
      ValueError: an odd batch.
    """
    if len(images) % 2:
        raise ValueError(f'mixup blends pairs: the batch of a device must be even, got {len(images)}')
    weight = jax.random.beta(key, alpha, alpha)

    def blend(x: jax.Array) -> jax.Array:
        neighbours = x.reshape(-1, 2, *x.shape[1:])[:, ::-1].reshape(x.shape)
        return weight * x + (1 - weight) * neighbours

    return blend(images), blend(targets)
