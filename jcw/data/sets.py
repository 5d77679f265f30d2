"""Where sets come from: digits, tensorflow-datasets, folders of images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jcw.data.examples import Dataset, Examples, Source
from jcw.data.folders import decoded, files_of, is_folder, shape_of, streamed
from jcw.data.splits import name_missing, split
from jcw.data.streaming import Streamed

VALIDATION_FRACTION = 0.1
STATISTICS_IMAGES = 2000  # streamed images from which mean and deviation are taken


def load(
    name: str = 'digits',
    data_dir: str | Path | None = None,
    *,
    validation: float = VALIDATION_FRACTION,
    limit: int | None = None,
    seed: int = 0,
    image_size: int | None = None,
) -> Dataset:
    """Load a set into memory, or open one to be streamed.

    Args:
      name: 'digits' (scikit-learn's, always there); a tensorflow-datasets name prepared in `data_dir`; or a path to
        a prepared directory (it holds `dataset_info.json`) or to a folder of images (`train/CLASS/*.png`, and
        `test/CLASS/*` if there is one).
      data_dir: where tensorflow-datasets finds prepared sets.
      validation: fraction of the training images set aside, of each class its share, drawn once by `seed`; of a
        prepared set that is streamed, whose labels are not known before, without regard to classes.
      limit: keep this many training images (after the validation split), for quick trials.
      seed: of the split.
      image_size: side of the squares that images of any shape are brought to; given, the set is not held in memory but
        decoded as it is needed. Without it all images must have one shape.

    Raises:
      ValueError: no such set, files that are no images or of different shapes, too few to split, or a fraction outside
        (0, 1).
    """
    if not 0 < validation < 1:
        raise ValueError(f'validation must lie strictly between 0 and 1, got {validation}')
    if limit is not None and limit < 1:
        raise ValueError(f'limit must be positive, got {limit}')
    paths: list[list[Path]] = []
    if is_folder(name):
        *parts, class_names = files_of(Path(name))
        train, test = decoded(parts) if image_size is None else [streamed(part, image_size) for part in parts]
        paths = [part.paths for part in parts]
    elif image_size is not None:
        train, test, class_names = _streamed(name, data_dir, image_size)
    else:
        train, test, class_names = _decoded(name, data_dir)
    known = _known_labels(train)
    held, rest = split(np.zeros(len(train), np.int32) if known is None else known, validation, seed)
    kept, validation_part = _select(train, rest[:limit]), _select(train, held)
    for part, source in (('training', kept), ('validation', validation_part), ('test', test)):
        if (labels := _known_labels(source)) is not None:
            name_missing(part, labels, class_names)
    named: tuple[tuple[Path, ...], ...] = ()
    if paths:
        named = (*(tuple(paths[0][row] for row in rows) for rows in (rest[:limit], held)), tuple(paths[1]))
    sample = kept.take(slice(STATISTICS_IMAGES if image_size else None))
    pixels = sample.images.reshape(-1, sample.images.shape[-1]) / np.float32(255)
    return Dataset(
        name=str(name),
        train=kept,
        validation=validation_part,
        test=test,
        class_names=class_names,
        mean=tuple(float(m) for m in pixels.mean(0, dtype=np.float64)),
        std=tuple(float(s) for s in pixels.std(0, dtype=np.float64)),
        files=named,
    )


class Outline(NamedTuple):
    """What a set is before its images are decoded."""

    image_shape: tuple[int, int, int]
    training: int  # images, those for validation among them
    fewest: int  # of a class; of a prepared set, the mean


def outline(
    name: str = 'digits', data_dir: str | Path | None = None, *, image_size: int | None = None
) -> Outline:
    """Look at a set without decoding it, of images of one shape only at the first.

    Raises:
      ValueError: no such set, or one of images of any shape without `image_size`.
    """
    square = image_size and (image_size, image_size, 3)
    if is_folder(name):
        files, _, _ = files_of(Path(name))
        return Outline(square or shape_of(files.paths[0]), len(files), _fewest(files.labels))
    if name == 'digits':
        images, _, _ = _digits()
        return Outline(images.image_shape, len(images), _fewest(images.labels))
    builder, (split_name, _) = _prepared(name, data_dir)
    shape = square or builder.info.features['image'].shape
    if None in shape:
        raise ValueError(f'{name} has images of any shape: give image_size (--data.image-size)')
    training = builder.info.splits[split_name].num_examples
    return Outline(shape, training, training // builder.info.features['label'].num_classes)


def _fewest(labels: np.ndarray) -> int:
    return int(np.unique_counts(labels).counts.min())


Split = tuple[Any, Any, tuple[str, ...]]
"""Training examples, test examples, names of the classes."""


def _decoded(name: str, data_dir: str | Path | None) -> Split:
    if name == 'digits':
        return _digits()
    builder, splits = _prepared(name, data_dir)
    train, test = (_decode(name, builder.as_data_source(split=split)) for split in splits)
    return train, test, tuple(builder.info.features['label'].names)


def _streamed(name: str, data_dir: str | Path | None, size: int) -> Split:
    if name == 'digits':
        raise ValueError('digits are small: leave out image_size')
    import tensorflow_datasets as tfds

    builder, splits = _prepared(name, data_dir)
    encoded = {'image': tfds.decode.SkipDecoding()}
    sources = [builder.as_data_source(split=split, decoders=encoded) for split in splits]
    train, test = (Streamed(_source_reader(source), np.arange(len(source)), size) for source in sources)
    return train, test, tuple(builder.info.features['label'].names)


def _select(source: Examples | Streamed, rows: np.ndarray) -> Source:
    return source.select(rows) if isinstance(source, Streamed) else source.take(rows)


def _known_labels(source: Source) -> np.ndarray | None:
    """Return the labels, where they are known before images are read."""
    return source.labels if isinstance(source, Examples | Streamed) else None


def _source_reader(source: Any) -> Callable[[int], tuple[bytes, int]]:
    def read(row: int) -> tuple[bytes, int]:
        example = source[row]
        return example['image'], int(example['label'])

    return read


def _digits() -> tuple[Examples, Examples, tuple[str, ...]]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images * (255 / 16)).round().astype(np.uint8)[..., None]
    everything = Examples(images, digits.target.astype(np.int32))
    order = np.random.default_rng(0).permutation(len(everything))
    return everything.take(order[360:]), everything.take(order[:360]), tuple(str(c) for c in range(10))


def _prepared(name: str, data_dir: str | Path | None) -> tuple[Any, tuple[str, str]]:
    """Return the builder of a prepared set and its two splits."""
    import tensorflow_datasets as tfds

    prepared = (Path(name) / 'dataset_info.json').exists()
    if not prepared:
        _refuse_place(name)
    elif odd := [each for each in Path(name).iterdir() if not (each.is_file() or each.is_dir())]:
        raise ValueError(f'{odd[0]} is no regular file')
    try:
        builder = tfds.builder_from_directory(name) if prepared else tfds.builder(name, data_dir=data_dir)
        if not builder.info.splits:
            raise FileNotFoundError('it was never prepared')
        for split in {'train', 'test', 'validation'} & {*builder.info.splits}:
            builder.as_data_source(split=split)
    except (tfds.core.DatasetNotFoundError, AssertionError, FileNotFoundError) as error:
        raise ValueError(
            f'no prepared set {name!r} in {data_dir or "the default data directory"}: name one prepared by '
            "tensorflow-datasets, a path to a prepared directory or to a folder of images, or 'digits' "
            f'({next(iter(str(error).splitlines()), "")})'
        ) from error
    except Exception as error:
        raise _damaged(name, error) from error
    features = builder.info.features
    if not {'image', 'label'} <= {*features} or not hasattr(features['label'], 'names'):
        raise ValueError(
            f'the prepared set {name} has no image and label of a class, only {", ".join(features)}'
        )
    return builder, _splits(builder.info.splits)


def _refuse_place(name: str) -> None:
    """Say why a place on disk is no set, and what would be one; other names are those of prepared sets."""
    place = Path(name)
    if place.is_file():
        raise ValueError(f'{name} is a file: give the folder whose train/CLASS/* are the images')
    inside = sorted(path.name for path in place.iterdir() if path.is_dir()) if place.is_dir() else []
    if place.is_dir() and inside:
        raise ValueError(
            f'{name} has no folder train: classes belong below it, as {place / "train" / inside[0]}'
        )
    if place.is_dir() or place.is_absolute() or name.startswith('.') or name.count('/') > 2:
        raise ValueError(
            f'{name} holds no images: expected a folder of train/CLASS/*, or a directory with dataset_info.json'
        )


def _splits(splits: dict) -> tuple[str, str]:
    """Return the training split and the one to test on: 'test', else the published validation images."""
    for test in ('test', 'validation'):
        if 'train' in splits and test in splits:
            return 'train', test
    raise ValueError(f"need a split 'train', and 'test' or 'validation', found {sorted(splits)}")


def _decode(name: str, source: Any) -> Examples:
    """Read a random-access source into arrays."""
    images, labels = [], np.empty(len(source), np.int32)
    try:
        for start in range(0, len(source), 1000):
            rows = range(start, min(start + 1000, len(source)))
            for row, example in zip(rows, source.__getitems__(list(rows)), strict=True):
                images.append(example['image'])
                labels[row] = example['label']
    except Exception as error:
        raise _damaged(name, error) from error
    return Examples(_stack(images), labels)


def _damaged(name: str, error: Exception) -> ValueError:
    """Name the set of which its readers have raised what they met."""
    return ValueError(f'the prepared set {name} is damaged: {type(error).__name__}: {error}')


def _stack(images: list[np.ndarray]) -> np.ndarray:
    shapes = sorted({image.shape for image in images})
    if len(shapes) != 1:
        raise ValueError(
            f'all images must have one shape, found {shapes[:4]}: give image_size (--data.image-size) to have '
            'them brought to one'
        )
    return np.stack(images)
