"""Augmentation: what it does to an image, and that it does not depend on how a batch is shared among devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jcw.train import augment
from jcw.train.augment import Augmentation

KEY = jax.random.key(0)
KEYS = jax.random.split(KEY, 64)


def ramps(batch=64, height=6, width=5):
    """Return images in which every pixel names its own place."""
    places = jnp.arange(1.0, height * width + 1).reshape(height, width, 1)
    return jnp.tile(places, (batch, 1, 1, 1))


def test_normalisation_brings_the_channels_to_their_mean_and_deviation():
    images = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 2), np.uint8)
    pixels = images.reshape(-1, 2) / 255
    result = augment.normalise(jnp.asarray(images), pixels.mean(0).tolist(), pixels.std(0).tolist())
    np.testing.assert_allclose(result.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(result.std((0, 1, 2)), 1, atol=1e-5)


def test_a_crop_is_a_shift_with_zeros_coming_in():
    before, found = np.asarray(ramps(1))[0], set()
    padded = np.pad(before, ((2, 2), (2, 2), (0, 0)))
    windows = {
        padded[top : top + 6, left : left + 5].tobytes(): (top, left) for top in range(5) for left in range(5)
    }
    for after in np.asarray(augment.crop_and_flip(KEYS, ramps(), Augmentation(crop_padding=2))):
        found.add(windows[np.ascontiguousarray(after).tobytes()])
    assert len(found) > 15
    assert {top for top, _ in found} == {left for _, left in found} == set(range(5))


def test_about_half_of_the_images_are_mirrored():
    keys = jax.random.split(KEY, 1000)
    before = ramps(1000)
    after = augment.crop_and_flip(keys, before, Augmentation(flip=True))
    mirrored = (after == before[:, :, ::-1]).all((1, 2, 3))
    np.testing.assert_array_equal(after[~mirrored], before[~mirrored])
    assert abs(float(mirrored.mean()) - 0.5) < 4 * np.sqrt(0.25 / 1000)


def test_without_augmentation_an_image_stays():
    np.testing.assert_array_equal(augment.crop_and_flip(KEYS, ramps(), Augmentation()), ramps())


def test_mixup_blends_neighbours_and_their_targets_by_one_weight():
    images = jax.random.normal(KEY, (8, 3, 3, 1))
    targets = jnp.eye(8)
    mixed, blended = augment.mixup(jax.random.key(1), images, targets, 0.5)
    weight = float(blended[0, 0])
    assert 0 <= weight <= 1
    np.testing.assert_allclose(blended.sum(1), 1, rtol=1e-6)
    for i in range(8):
        j = i ^ 1
        np.testing.assert_allclose(blended[i], weight * targets[i] + (1 - weight) * targets[j], atol=1e-6)
        np.testing.assert_allclose(mixed[i], weight * images[i] + (1 - weight) * images[j], atol=1e-5)


def test_mixup_of_an_odd_batch_is_refused():
    with pytest.raises(ValueError, match='must be even, got 3'):
        augment.mixup(KEY, jnp.zeros((3, 2, 2, 1)), jnp.zeros((3, 5)), 0.2)


def test_keys_of_examples_do_not_depend_on_the_number_of_devices():
    alone = augment.example_keys(KEY, 8, None)
    shared = jax.pmap(lambda _: jax.random.key_data(augment.example_keys(KEY, 2, 'data')), axis_name='data')(
        jnp.zeros(4)
    )
    np.testing.assert_array_equal(shared.reshape(8, -1), jax.random.key_data(alone))
    assert len(np.unique(jax.random.key_data(alone), axis=0)) == 8
