"""One image file: what its header tells before training, and its pixels, in grey or in colour, as they are meant."""

import io
import stat
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

MOST_PIXELS = 2**26  # of an image; a small file can claim more than memory holds
GREY = ('1', 'L', 'LA', 'La', 'I', 'F')  # modes of Pillow without colour, and those that begin with I;16
SIDEWAYS = 5  # the first orientation of EXIF that swaps height and width
ORIENTATION = 0x0112
NAMED = 3  # files that a message names


class Kind(NamedTuple):
    """What images held in one array share."""

    height: int
    width: int
    grey: bool


def inspect(paths: Sequence[Path]) -> list[Kind]:
    """Read the headers of files, by threads.

    Raises:
      ValueError: some are no regular files, no images, or of too many pixels; the first are named.
    """

    def attempt(path: Path) -> Kind | str:
        try:
            return _kind(path)
        except Exception as error:  # Pillow's readers raise what they meet
            return f'{path} ({error})'

    with warnings.catch_warnings(), ThreadPoolExecutor(8) as threads:
        warnings.simplefilter('ignore')  # Pillow's own limit is above ours
        found = list(threads.map(attempt, paths))
    if wrong := [each for each in found if isinstance(each, str)]:
        raise ValueError(
            f'{len(wrong)} of {len(paths)} files are not images that can be read: {_some(wrong)}; remove them'
        )
    return [each for each in found if isinstance(each, Kind)]


def refuse_mixed(paths: Sequence[Path], kinds: Sequence[Kind]) -> None:
    """Refuse images that do not fit one array.

    Raises:
      ValueError: sizes differ, or grey is mixed with colour; one file of each is named.
    """
    examples = {kind: path for path, kind in zip(reversed(paths), reversed(kinds), strict=True)}
    if len(examples) > 1:
        shown = [
            f'{path} is {kind.height}x{kind.width} in {"grey" if kind.grey else "colour"}'
            for kind, path in sorted(examples.items(), key=lambda each: str(each[1]))
        ]
        raise ValueError(
            f'all images must have one shape, found {len(examples)}: {_some(shown)}; '
            'resize them first, or give image_size (--data.image-size) to have them brought to one'
        )


def open_picture(content: bytes | Path, draft: int | None = None) -> Any:
    """Decode an image into Pillow's 'L' or 'RGB': upright, on white where it is transparent, 8 bits a channel.

    Samples of 16 bits are scaled by 255 / 65535, floats, which must lie in [0, 1], by 255.

    Args:
      content: the encoded image, or its file.
      draft: side of the square that will be cut out of it; a JPEG is decoded no larger than needed.

    Raises:
      ValueError: it cannot be decoded, or its numbers have no known scale.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content) as image:
            _refuse(image)
            if draft is not None:
                image.draft('RGB', (2 * draft, 2 * draft))
            return _plain(ImageOps.exif_transpose(image))
    except Exception as error:  # Pillow's readers raise what they meet
        raise ValueError(f'not an image that can be read: {error}') from error


def _kind(path: Path) -> Kind:
    from PIL import Image

    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError('no regular file')
    with Image.open(path) as image:
        _refuse(image)
        width, height = image.size
        if image.getexif().get(ORIENTATION, 1) >= SIDEWAYS:
            width, height = height, width
        return Kind(height, width, image.mode in GREY or image.mode.startswith('I;16'))


def _refuse(image: Any) -> None:
    if image.format == 'EPS':
        raise ValueError('a program in PostScript, which is not run')
    if 0 in image.size:
        raise ValueError('no pixels')
    if (pixels := image.size[0] * image.size[1]) > MOST_PIXELS:
        raise ValueError(f'{pixels} pixels, more than {MOST_PIXELS}')


def _plain(image: Any) -> Any:
    from PIL import Image

    if image.mode.startswith('I') or image.mode == 'F':
        values = np.asarray(image, np.float64)
        largest = 1.0 if image.mode == 'F' else 65535.0
        if not (values.min() >= 0 and values.max() <= largest):
            raise ValueError(
                f'values from {values.min():g} to {values.max():g} where 0 to {largest:g} are expected'
            )
        return Image.fromarray(np.rint(values * (255 / largest)).astype(np.uint8))
    if image.mode in ('LA', 'La', 'RGBA', 'RGBa', 'PA') or 'transparency' in image.info:
        layer = image.convert('RGBA')
        white = Image.new('RGBA', image.size, 'white')
        flat = Image.alpha_composite(white, layer)
        return flat.convert('L' if image.mode in GREY else 'RGB')
    return image.convert('L' if image.mode in GREY else 'RGB')


def _some(each: Sequence[str]) -> str:
    return ', '.join(each[:NAMED]) + (f' and {len(each) - NAMED} more' if len(each) > NAMED else '')
