"""A folder of images, `train/CLASS/*` and `test/CLASS/*`: its files, decoded at once or when they are needed."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jcw.data.examples import Examples
from jcw.data.pictures import inspect, open_picture, refuse_mixed
from jcw.data.splits import split
from jcw.data.streaming import Streamed


class Files(NamedTuple):
    """Image files and their labels."""

    paths: list[Path]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)


def is_folder(name: str) -> bool:
    """Return whether a set's name is a folder of images; 'digits' is scikit-learn's, whatever lies beside."""
    return name != 'digits' and (Path(name) / 'train').is_dir()


def files_of(root: Path) -> tuple[Files, Files, tuple[str, ...]]:
    """Return training and test files, a sixth of the training files where no others are given, and the classes' names.

    Raises:
      ValueError: there is no class, one has no training image, or only test images.
    """
    class_names = _classes(root / 'train')
    if not class_names:
        raise ValueError(f'{root / "train"} holds no folder per class')
    train = _files(root / 'train', class_names)
    if empty := [name for label, name in enumerate(class_names) if not (train.labels == label).any()]:
        raise ValueError(
            f'{root / "train"} holds no image of {", ".join(empty[:5])}: remove or fill the folder'
        )
    if (root / 'test').is_dir():
        if foreign := sorted(set(_classes(root / 'test')) - set(class_names)):
            raise ValueError(
                f'{root / "test"} holds {", ".join(foreign[:5])}, of which there is no training image'
            )
        return train, _files(root / 'test', class_names), class_names
    held, rest = split(train.labels, 1 / 6, seed=0)
    kept, test = (Files([train.paths[i] for i in rows], train.labels[rows]) for rows in (rest, held))
    return kept, test, class_names


def decoded(parts: Sequence[Files]) -> list[Examples]:
    """Decode the parts of a set, whose images must all have one shape."""
    paths = [path for part in parts for path in part.paths]
    refuse_mixed(paths, inspect(paths))
    return [Examples(np.stack([_pixels(path) for path in part.paths]), part.labels) for part in parts]


def streamed(files: Files, size: int) -> Streamed:
    """Return files to be decoded when they are needed, whatever their shapes."""
    inspect(files.paths)

    def read(row: int) -> tuple[bytes, int]:
        return files.paths[row].read_bytes(), int(files.labels[row])

    rows = np.arange(len(files))
    return Streamed(read, rows, size, labels=files.labels, name=lambda row: str(files.paths[row]))


def shape_of(path: Path) -> tuple[int, int, int]:
    """Return the shape of a file's image, by its header."""
    kind = inspect([path])[0]
    return kind.height, kind.width, 1 if kind.grey else 3


def _classes(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != '.'))


def _files(folder: Path, class_names: tuple[str, ...]) -> Files:
    found = [
        (path, label)
        for label, class_name in enumerate(class_names)
        if (folder / class_name).is_dir()
        for path in sorted((folder / class_name).iterdir())
        if not path.name.startswith('.')
    ]
    if not found:
        raise ValueError(f'{folder} holds no images')
    return Files([path for path, _ in found], np.array([label for _, label in found], np.int32))


def _pixels(path: Path) -> np.ndarray:
    try:
        pixels = np.asarray(open_picture(path))
    except ValueError as error:
        raise ValueError(f'{path} is {error}') from error
    return pixels if pixels.ndim == 3 else pixels[..., None]
