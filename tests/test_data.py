"""Sets: where they come from, how they are split, the order of training, and what is streamed."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from PIL import Image

from jcw import data
from jcw.data import mapped, streaming

# Some sets here are smaller than a part of every class.
pytestmark = pytest.mark.filterwarnings('ignore:no (training|validation|test) image of:UserWarning')

CLASSES = ('ant', 'bee', 'cat')


def write_images(root, split, count, size=(12, 10), mode='RGB'):
    """Write images whose mean brightness tells which they are, ends of names in the order of writing."""
    rng = np.random.default_rng(len(split))
    for index in range(count):
        folder = root / split / CLASSES[index % 3]
        folder.mkdir(parents=True, exist_ok=True)
        noise = rng.integers(0, 20, (size[1], size[0], 3)) + 3 * index
        Image.fromarray(noise.astype(np.uint8)).convert(mode).save(folder / f'{index:03d}.png')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp('images')
    write_images(root, 'train', 60)
    write_images(root, 'test', 9)
    return root


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    """Return the directory of a set of tensorflow-datasets, prepared by a builder of our own."""
    from tests.tiny_builder import prepare

    return prepare(tmp_path_factory.mktemp('tfds'))


def rows_of(examples):
    return {image.tobytes() for image in examples.images}


def test_digits_are_always_there_in_three_parts_that_share_nothing():
    digits = data.load('digits')
    parts = [digits.train, digits.validation, digits.test]
    assert [len(part) for part in parts] == [1293, 144, 360]
    assert digits.input_shape == (8, 8, 1)
    assert digits.num_classes == 10
    assert all(part.images.dtype == np.uint8 for part in parts)
    assert np.bincount(digits.train.labels).min() > 100


@pytest.mark.parametrize('image_size', [None, 8])
def test_the_validation_images_are_drawn_by_the_seed_from_the_training_images(folder, image_size):
    def validation(seed, **kwargs):
        loaded = data.load(str(folder), validation=0.2, seed=seed, image_size=image_size, **kwargs)
        every = [loaded.train.take(slice(None)), loaded.validation.take(slice(None))]
        assert len(rows_of(every[0]) | rows_of(every[1])) == (kwargs.get('limit') or 48) + 12
        return every[1].images

    first = validation(0)
    np.testing.assert_array_equal(first, validation(0))
    np.testing.assert_array_equal(first, validation(0, limit=7))
    assert rows_of(data.Examples(first, None)) != rows_of(data.Examples(validation(1), None))


def test_mean_and_deviation_are_those_of_the_training_images(folder):
    loaded = data.load(str(folder))
    pixels = loaded.train.images.reshape(-1, 3) / 255
    np.testing.assert_allclose(loaded.mean, pixels.mean(0), rtol=1e-5)
    np.testing.assert_allclose(loaded.std, pixels.std(0), rtol=1e-5)


def test_a_folder_gives_its_classes_and_images(folder):
    loaded = data.load(str(folder), validation=0.5)
    assert loaded.class_names == CLASSES
    assert loaded.input_shape == (10, 12, 3)
    for part in (loaded.train, loaded.validation):
        index = np.round((part.images.mean((1, 2, 3)) - 9.5) / 3).astype(int)
        np.testing.assert_array_equal(part.labels, index % 3)


def test_a_folder_without_test_images_gives_a_sixth_of_the_others(tmp_path):
    write_images(tmp_path, 'train', 30)
    loaded = data.load(str(tmp_path))
    assert len(loaded.test) == 5
    assert not rows_of(loaded.test) & (rows_of(loaded.train) | rows_of(loaded.validation))


def test_grey_images_stay_grey(tmp_path):
    write_images(tmp_path, 'train', 12, mode='L')
    assert data.load(str(tmp_path)).input_shape == (10, 12, 1)


def test_a_prepared_set_is_read_by_its_directory_and_by_name(prepared):
    loaded = data.load(str(prepared))
    assert loaded.input_shape == (8, 8, 1)
    assert [len(part) for part in (loaded.train, loaded.validation, loaded.test)] == [54, 6, 20]
    assert loaded.num_classes == 10
    everything = np.concatenate([loaded.train.images, loaded.validation.images])
    labels = np.concatenate([loaded.train.labels, loaded.validation.labels])
    np.testing.assert_array_equal(everything[:, 0, 0, 0] % 10, labels)
    assert sorted(everything[:, 0, 0, 0]) == list(range(60))


def test_reading_a_prepared_set_needs_no_tensorflow(prepared):
    code = f"""
        import sys
        from jcw import data
        examples = data.load({str(prepared)!r}).train
        print(len(examples), [name for name in sys.modules if name.split('.')[0] == 'tensorflow'])
    """
    done = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == '54 []'


def test_what_cannot_be_loaded_is_named(tmp_path, folder):
    with pytest.raises(ValueError, match="no prepared set 'nothing_like_this'"):
        data.load('nothing_like_this', tmp_path)
    with pytest.raises(ValueError, match='strictly between 0 and 1, got 1'):
        data.load('digits', validation=1)
    with pytest.raises(ValueError, match='digits are small'):
        data.load('digits', image_size=8)
    image = next((folder / 'train').glob('*/*'))
    with pytest.raises(ValueError, match=f'{image.name} is a file: give the folder whose train/CLASS'):
        data.load(str(image))
    with pytest.raises(
        ValueError, match=r'train has no folder train: classes belong below it, as .*/train/train/[a-z]'
    ):
        data.load(str(folder / 'train'))
    with pytest.raises(ValueError, match='no_such/folder/of/images holds no images'):
        data.load('no_such/folder/of/images')
    write_images(tmp_path, 'train', 3)
    write_images(tmp_path, 'train', 1, size=(9, 9))
    with pytest.raises(
        ValueError, match=r'one shape, found 2: .*000.png is 9x9 in colour.*--data.image-size'
    ):
        data.load(str(tmp_path))


def test_an_epoch_visits_every_example_once_in_an_order_of_its_own():
    epochs = [np.concatenate([data.batch_rows(5 * e + i, 20, 4, seed=1) for i in range(5)]) for e in (0, 1)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(20))
    assert (epochs[0] != epochs[1]).any()


def test_a_batch_is_a_function_of_seed_and_step_alone():
    before = data.batch_rows(7, 23, 4, seed=0)
    data.batch_rows(1000, 23, 4, seed=5)
    np.testing.assert_array_equal(before, data.batch_rows(7, 23, 4, seed=0))
    assert (before != data.batch_rows(7, 23, 4, seed=1)).any()
    with pytest.raises(ValueError, match='between 1 and the 23 training examples, got 24'):
        data.batch_rows(0, 23, 24, seed=0)


def test_processes_share_a_batch_evenly_in_their_order():
    rows = data.batch_rows(3, 50, 12, seed=0)
    shares = [rows[data.share_of(12, process, 3)] for process in range(3)]
    np.testing.assert_array_equal(np.concatenate(shares), rows)
    with pytest.raises(ValueError, match='a batch of 12 does not divide by 5 processes'):
        data.share_of(12, 0, 5)


@pytest.fixture
def streamed(folder):
    return data.load(str(folder), image_size=8).train


def batches(source, **kwargs):
    return data.Batches(source, 6, seed=3, threads=3, **kwargs)


def test_batches_from_memory_are_the_rows_of_the_step(folder):
    train = data.load(str(folder)).train
    with batches(train, share=slice(2, 4)) as from_memory:
        rows = data.batch_rows(5, len(train), 6, seed=3)[2:4]
        np.testing.assert_array_equal(from_memory(5).images, train.images[rows])


def test_streamed_batches_hold_the_same_rows_as_those_from_memory(folder, streamed):
    train = data.load(str(folder)).train
    with batches(streamed) as stream:
        for step in range(12):
            rows = data.batch_rows(step, len(train), 6, seed=3)
            found = stream(step)
            np.testing.assert_array_equal(found.labels, train.labels[rows])
            brightness = train.images[rows].mean((1, 2, 3))
            np.testing.assert_allclose(found.images.mean((1, 2, 3)), brightness, atol=3)


def test_a_stream_begun_at_a_step_goes_on_as_if_never_left(streamed):
    with batches(streamed) as stream:
        whole = [stream(step).images for step in range(6)]
    with batches(streamed) as later:
        np.testing.assert_array_equal(later(3).images, whole[3])
        np.testing.assert_array_equal(later(1).images, whole[1])
        np.testing.assert_array_equal(later(2).images, whole[2])


def test_without_grain_the_extra_is_named(streamed, monkeypatch):
    monkeypatch.setitem(sys.modules, 'grain', None)
    with batches(streamed) as stream, pytest.raises(ValueError, match=r'pip install grain'):
        stream(0)


def test_streamed_shares_make_up_the_whole_batch(streamed):
    with batches(streamed) as whole:
        expected = whole(2)
    parts = []
    for process in range(2):
        with batches(streamed, share=data.share_of(6, process, 2)) as part:
            parts.append(part(2))
    np.testing.assert_array_equal(np.concatenate([p.images for p in parts]), expected.images)
    np.testing.assert_array_equal(np.concatenate([p.labels for p in parts]), expected.labels)


def test_a_streamed_example_is_cropped_anew_in_every_epoch(streamed):
    crops = {streamed.cropped(4, (0, step))[0].tobytes() for step in range(5)}
    assert len(crops) == 5


def test_random_crops_keep_within_their_area_and_the_image():
    """The image's pixels tell their own place, so that a crop's corners tell its window."""
    across, down = np.meshgrid(np.arange(256), np.arange(200))
    image = Image.fromarray(np.stack([across, down, down], -1).astype(np.uint8))
    fractions = []
    for seed in range(200):
        crop = streaming.random_crop(np.random.default_rng(seed), image, 32).astype(float)
        assert crop.shape == (32, 32, 3)
        width, height = ((crop[-1, -1, c] - crop[0, 0, c]) * 32 / 31 for c in (0, 1))
        assert 0.7 < width / height < 1.45
        fractions.append(width * height / (256 * 200))
    assert 0.22 < min(fractions) < 0.35
    assert 0.9 < max(fractions) < 1.05


def test_a_central_crop_has_seven_eighths_of_the_shorter_side():
    across, down = np.meshgrid(np.arange(250), np.arange(112))
    image = Image.fromarray(np.stack([across, down, down], -1).astype(np.uint8))
    crop = streaming.central_crop(image, 98)
    np.testing.assert_allclose(crop[0, 0, :2], (76, 7), atol=1)
    np.testing.assert_allclose(crop[-1, -1, :2], (76 + 97, 7 + 97), atol=1)


def test_jpeg_and_grey_images_of_any_shape_are_streamed_in_one(tmp_path):
    (tmp_path / 'train' / 'ant').mkdir(parents=True)
    shapes = ((40, 30), (16, 50), (300, 200), (9, 9))
    for index, shape in enumerate(shapes):
        image = Image.fromarray(np.full((*shape[::-1], 3), 40 * index, np.uint8))
        image.convert('L' if index == 1 else 'RGB').save(tmp_path / 'train' / 'ant' / f'{index}.jpg')
    loaded = data.load(str(tmp_path), image_size=14, validation=0.3)
    every = [part.take(slice(None)).images for part in (loaded.train, loaded.validation, loaded.test)]
    stacked = np.concatenate(every)
    assert stacked.shape == (4, 14, 14, 3)
    np.testing.assert_allclose(sorted(stacked.mean((1, 2, 3))), [0, 40, 80, 120], atol=2)


def test_chunks_hold_every_example_in_order(streamed):
    chunks = list(data.in_chunks(streamed, 25))
    assert [len(chunk) for chunk in chunks] == [25, 25, 4]
    np.testing.assert_array_equal(
        np.concatenate([chunk.labels for chunk in chunks]), streamed.take(slice(None)).labels
    )


def test_the_directory_says_what_it_holds(prepared):
    assert json.loads((prepared / 'dataset_info.json').read_text())['name'] == 'tiny_scans'


def test_a_mapped_set_is_the_set_and_one_decoded_as_it_is_needed_is_not_written(tmp_path, folder):
    digits = data.load('digits', limit=50)
    (tmp_path / 'digits').mkdir()
    assert mapped.write(digits, tmp_path / 'digits')
    found = mapped.read(tmp_path / 'digits')
    for part in mapped.PARTS:
        for own, other in zip(getattr(found, part), getattr(digits, part), strict=True):
            np.testing.assert_array_equal(own, other)
            assert own.dtype == other.dtype
            assert isinstance(own, np.memmap)
    about = [(each.name, each.class_names, each.mean, each.std) for each in (found, digits)]
    assert about[0] == about[1]
    assert found.input_shape == digits.input_shape
    assert not mapped.write(data.load(str(folder), image_size=8), tmp_path)
    assert not (tmp_path / 'about.json').exists()
