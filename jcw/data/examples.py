"""What a set is: examples, and how they are split."""

from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, UInt8


class Examples(NamedTuple):
    """Decoded images and their labels."""

    images: UInt8[np.ndarray, 'examples height width channels']
    labels: Int[np.ndarray, ' examples']

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray | slice) -> 'Examples':
        return Examples(self.images[rows], self.labels[rows])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        height, width, channels = self.images.shape[1:]
        return height, width, channels


@runtime_checkable
class Source(Protocol):
    """Examples in memory, or decoded when they are taken."""

    def __len__(self) -> int: ...

    def take(self, rows: np.ndarray | slice) -> Examples: ...

    @property
    def image_shape(self) -> tuple[int, int, int]: ...


class Dataset(NamedTuple):
    """A set split in three, with what a network needs to know of it."""

    name: str
    train: Source
    validation: Source
    test: Source
    class_names: tuple[str, ...]
    mean: tuple[float, ...]  # of each channel over the training images, in [0, 1]
    std: tuple[float, ...]
    files: tuple[tuple[Path, ...], ...] = ()  # of training, validation and test images, where each is a file

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return self.train.image_shape

    @property
    def num_classes(self) -> int:
        return len(self.class_names)
