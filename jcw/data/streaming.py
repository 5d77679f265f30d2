"""Sets too large for memory: images are read, decoded and brought to one size when they are taken."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jcw.data.examples import Examples
from jcw.data.pictures import open_picture

MARGIN = 8 / 7  # of the shorter side over the central crop's, as is usual for 256 against 224
LEAST_AREA = 0.25  # of a random crop, as a fraction of the image's; less is too hard for small networks
GREATEST_ASPECT = 4 / 3


class Streamed:
    """Examples that are decoded when they are taken.

    Args:
      read: row -> (encoded image, label), for every row of `rows`; called by several threads at once.
      rows: which of the source's rows these examples are.
      size: side of the squares that images are brought to, in colour.
      labels: of all rows of the source, where they are known before it is read.
      name: what an image is called in messages, by its row.
    """

    def __init__(
        self,
        read: Callable[[int], tuple[bytes, int]],
        rows: np.ndarray,
        size: int,
        *,
        labels: np.ndarray | None = None,
        name: Callable[[int], str] = 'image {} of the set'.format,
    ) -> None:
        if size < 1:
            raise ValueError(f'the size of images must be positive, got {size}')
        self._read, self._own, self._size = read, rows, size
        self._labels, self._name = labels, name

    def __len__(self) -> int:
        return len(self._own)

    @property
    def labels(self) -> np.ndarray | None:
        """Labels of these examples, where they are known before images are read."""
        return None if self._labels is None else self._labels[self._own]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self._size, self._size, 3

    def select(self, rows: np.ndarray | slice) -> 'Streamed':
        """Return a part of these examples, still to be decoded."""
        return Streamed(self._read, self._own[rows], self._size, labels=self._labels, name=self._name)

    def take(self, rows: np.ndarray | slice) -> Examples:
        """Decode central crops.

        Raises:
          ValueError: an image that cannot be read, by its name.
        """
        read = [self._open(int(row)) for row in self._own[rows]]
        images = [central_crop(image, self._size) for image, _ in read]
        shape = (len(read), *self.image_shape)
        return Examples(np.array(images, np.uint8).reshape(shape), np.array([y for _, y in read], np.int32))

    def cropped(self, row: int, key: tuple[int, ...]) -> tuple[UInt8[np.ndarray, 'size size 3'], int]:
        """Decode one image and its label; the crop is drawn from (key, row).

        Raises:
          ValueError: an image that cannot be read, by its name.
        """
        image, label = self._open(int(self._own[row]))
        rng = np.random.default_rng([*key, row])
        return random_crop(rng, image, self._size), label

    def _open(self, row: int) -> tuple[Any, int]:
        try:
            encoded, label = self._read(row)
            return open_picture(encoded, self._size).convert('RGB'), label
        except Exception as error:  # the reader of a set raises what it meets
            raise ValueError(f'{self._name(row)}: {error}') from error


def central_crop(image: Any, size: int) -> np.ndarray:
    """Return the square in the middle whose side is 7/8 of the shorter side, uint8 [size size 3]."""
    side = min(image.size) / MARGIN
    left, top = ((length - side) / 2 for length in image.size)
    return _resized(image, (left, top, left + side, top + side), size)


def random_crop(rng: np.random.Generator, image: Any, size: int) -> np.ndarray:
    """Return a window of random area, aspect and place, uint8 [size size 3] (Szegedy et al., 2015)."""
    width, height = image.size
    area = rng.uniform(LEAST_AREA, 1) * width * height
    aspect = np.exp(rng.uniform(-1, 1) * np.log(GREATEST_ASPECT))
    across, down = min((area * aspect) ** 0.5, width), min((area / aspect) ** 0.5, height)
    left, top = rng.uniform(0, 1) * (width - across), rng.uniform(0, 1) * (height - down)
    return _resized(image, (left, top, left + across, top + down), size)


def _resized(image: Any, box: tuple[float, float, float, float], size: int) -> np.ndarray:
    from PIL import Image

    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box))
