"""A folder of images, `train/CLASS/*` and `test/CLASS/*`: its files, decoded at once or when they are needed."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jcw.data.examples import Examples
from jcw.data.pictures import Kind, inspect, open_picture, refuse_mixed
from jcw.data.splits import split
from jcw.data.streaming import Streamed

COPIES = 5
"""Bytes that a byte of decoded images takes at most: itself, and a float while mean and deviation are taken."""


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
      ValueError: there is no class, one has no training image, or only test images; or a link leads nowhere, or a name
        is not in UTF-8.
    """
    class_names = _classes(root / 'train')
    if not class_names:
        raise ValueError(f'{root / "train"} holds no folder per class')
    train = _files(root / 'train', class_names)
    if empty := [name for label, name in enumerate(class_names) if not (train.labels == label).any()]:
        raise ValueError(
            f'{root / "train"} holds no image of {", ".join(empty[:5])}: remove or fill the folder'
        )
    if os.path.lexists(root / 'test') and not (root / 'test').is_dir():
        raise ValueError(f'{root / "test"} is no folder: mend or remove it, to have test images set aside')
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
    kinds = inspect(paths)
    refuse_mixed(paths, kinds)
    _refuse_more_than_memory(kinds)
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
    paths = _listed(folder)
    _refuse_lost_links(paths)
    return tuple(path.name for path in paths if path.is_dir())


def _listed(folder: Path) -> list[Path]:
    """Return what a folder holds, in order, but what is hidden.

    Raises:
      ValueError: a name cannot be written down, or the folder not be read.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if path.name[0] != '.')
    except OSError as error:
        raise ValueError(f'{folder} cannot be read: {error.strerror}') from error
    for path in paths:
        try:
            path.name.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f'{folder} holds a file whose name is not in UTF-8, {os.fsencode(path.name)!r}: rename it'
            ) from None
    return paths


def _refuse_lost_links(paths: Sequence[Path]) -> None:
    """Raise `ValueError` for a link to what is not there, or to itself: a class would be missing without a word."""
    if lost := [path for path in paths if path.is_symlink() and not path.exists()]:
        raise ValueError(f'{lost[0]} is a link that leads nowhere: mend or remove it')


def _refuse_more_than_memory(kinds: Sequence[Kind]) -> None:
    """Refuse images that fill this machine's memory once they are decoded, before any is.

    Raises:
      ValueError: with the way out.
    """
    kind, memory = kinds[0], os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    size = len(kinds) * kind.height * kind.width * (1 if kind.grey else 3)
    if COPIES * size > memory:
        raise ValueError(
            f'{len(kinds)} images of {kind.height}x{kind.width} take {size / 2**30:.0f} GiB once they are decoded, too '
            f'much for the {memory / 2**30:.0f} GiB of this machine: give image_size (--data.image-size), and they are '
            'decoded as they are needed'
        )


def _files(folder: Path, class_names: tuple[str, ...]) -> Files:
    found = [
        (path, label)
        for label, class_name in enumerate(class_names)
        if (folder / class_name).is_dir()
        for path in _listed(folder / class_name)
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
