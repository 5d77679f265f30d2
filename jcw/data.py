"""Image classification sets, decoded once into arrays, and the order in which training visits them."""

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8


class Examples(NamedTuple):
    """Decoded images and their labels."""

    images: UInt8[np.ndarray, 'examples height width channels']
    labels: Int[np.ndarray, 'examples']

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray | slice) -> 'Examples':
        return Examples(self.images[rows], self.labels[rows])


class Dataset(NamedTuple):
    """A set split in three, with what a network needs to know of it."""

    name: str
    train: Examples
    validation: Examples
    test: Examples
    class_names: tuple[str, ...]
    mean: tuple[float, ...]  # of each channel over the training images, in [0, 1]
    std: tuple[float, ...]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


VALIDATION_FRACTION = 0.1


def load(
    name: str = 'digits',
    data_dir: str | Path | None = None,
    *,
    validation: float = VALIDATION_FRACTION,
    limit: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Load a set into memory.

    Args:
      name: 'digits' (scikit-learn's, always there); a tensorflow-datasets name prepared in `data_dir`; or a path to
        a prepared directory (it holds `dataset_info.json`) or to a folder of images (`train/CLASS/*.png`, and
        `test/CLASS/*` if there is one).
      data_dir: where tensorflow-datasets finds prepared sets.
      validation: fraction of the training images set aside, drawn once by `seed`.
      limit: keep this many training images (after the validation split), for quick trials.
      seed: of the split.

    Raises:
      ValueError: no such set, images of different shapes, or a fraction outside (0, 1).
    """
    if not 0 < validation < 1:
        raise ValueError(f'validation must lie strictly between 0 and 1, got {validation}')
    if name == 'digits':
        train, test, class_names = _digits()
    elif (Path(name) / 'train').is_dir():
        train, test, class_names = _folder(Path(name))
    else:
        train, test, class_names = _tfds(name, data_dir)
    order = np.random.default_rng(seed).permutation(len(train))
    held = max(1, round(validation * len(train)))
    rest = order[held:] if limit is None else order[held : held + limit]
    kept, validation_part = train.take(rest), train.take(order[:held])
    pixels = kept.images.reshape(-1, kept.images.shape[-1]) / np.float32(255)
    return Dataset(
        name=str(name),
        train=kept,
        validation=validation_part,
        test=test,
        class_names=class_names,
        mean=tuple(float(m) for m in pixels.mean(0, dtype=np.float64)),
        std=tuple(float(s) for s in pixels.std(0, dtype=np.float64)),
    )


def batch_rows(step: int, examples: int, batch: int, seed: int) -> np.ndarray:
    """Return the rows of the batch at `step`: a pure function, so that a step number is the whole data position.

    Every epoch visits a new permutation; its last examples that do not fill a batch wait for another epoch.

    Raises:
      ValueError: a batch larger than the set.
    """
    if not 0 < batch <= examples:
        raise ValueError(f'batch must be between 1 and the {examples} training examples, got {batch}')
    epoch, position = divmod(step, examples // batch)
    order = _permutation(examples, seed, epoch)
    return order[position * batch : (position + 1) * batch]


@functools.lru_cache(maxsize=2)
def _permutation(examples: int, seed: int, epoch: int) -> np.ndarray:
    """Return an epoch's order; kept, since a large set takes longer to shuffle than a step may wait."""
    order = np.random.default_rng([seed, epoch]).permutation(examples)
    order.flags.writeable = False
    return order


def _digits() -> tuple[Examples, Examples, tuple[str, ...]]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images * (255 / 16)).round().astype(np.uint8)[..., None]
    everything = Examples(images, digits.target.astype(np.int32))
    order = np.random.default_rng(0).permutation(len(everything))
    return everything.take(order[360:]), everything.take(order[:360]), tuple(str(c) for c in range(10))


def _tfds(name: str, data_dir: str | Path | None) -> tuple[Examples, Examples, tuple[str, ...]]:
    import tensorflow_datasets as tfds

    prepared = (Path(name) / 'dataset_info.json').exists()
    try:
        builder = tfds.builder_from_directory(name) if prepared else tfds.builder(name, data_dir=data_dir)
        train, test = (_decode(builder.as_data_source(split=split)) for split in _splits(builder.info.splits))
    except (tfds.core.DatasetNotFoundError, AssertionError, FileNotFoundError) as error:
        raise ValueError(
            f'no prepared set {name!r} in {data_dir or "the default data directory"}: name one prepared by '
            f"tensorflow-datasets, a path to a prepared directory or to a folder of images, or 'digits' ({error})"
        ) from error
    return train, test, tuple(builder.info.features['label'].names)


def _splits(splits: dict) -> tuple[str, str]:
    """Return the training split and the one to test on: 'test', else the published validation images."""
    for test in ('test', 'validation'):
        if test in splits:
            return 'train', test
    raise ValueError(f"need a split 'test' or 'validation', found {sorted(splits)}")


def _decode(source) -> Examples:
    """Read a random-access source into arrays."""
    images, labels = [], np.empty(len(source), np.int32)
    for start in range(0, len(source), 1000):
        rows = range(start, min(start + 1000, len(source)))
        for row, example in zip(rows, source.__getitems__(list(rows)), strict=True):
            images.append(example['image'])
            labels[row] = example['label']
    return Examples(_stack(images), labels)


def _folder(root: Path) -> tuple[Examples, Examples, tuple[str, ...]]:
    class_names = tuple(sorted(path.name for path in (root / 'train').iterdir() if path.is_dir()))
    if not class_names:
        raise ValueError(f'{root / "train"} holds no folder per class')
    train = _read_folder(root / 'train', class_names)
    if (root / 'test').is_dir():
        return train, _read_folder(root / 'test', class_names), class_names
    order = np.random.default_rng(0).permutation(len(train))
    held = max(1, len(train) // 6)
    return train.take(order[held:]), train.take(order[:held]), class_names


def _read_folder(folder: Path, class_names: tuple[str, ...]) -> Examples:
    from PIL import Image

    images, labels = [], []
    for label, class_name in enumerate(class_names):
        for path in sorted((folder / class_name).iterdir()):
            with Image.open(path) as image:
                images.append(np.asarray(image.convert('L' if image.mode == 'L' else 'RGB')))
            labels.append(label)
    stacked = _stack(images)
    return Examples(stacked if stacked.ndim == 4 else stacked[..., None], np.array(labels, np.int32))


def _stack(images: list[np.ndarray]) -> np.ndarray:
    shapes = sorted({image.shape for image in images})
    if len(shapes) != 1:
        raise ValueError(f'all images must have one shape, found {shapes[:4]}: resize them first')
    return np.stack(images)
