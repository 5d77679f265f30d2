"""The folder of a deployed network: what lies in it, how it is replaced at once, and how damage is noticed.

weights/              an orbax checkpoint of nested dictionaries of arrays
network.json          what the network is, readable by any program, with checksums of all files
network.stablehlo     the whole function for any batch size, on CPU, CUDA and TPU
network.onnx          the same in ONNX, if wanted
network.tflite        the same in LiteRT for one batch size, if wanted
network.int8.tflite   the same in whole numbers, if wanted
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from jcw import records

Result = TypeVar('Result')

FORMAT = 2
ARCHITECTURE = 'graph'
WEIGHTS, DESCRIPTION, STABLEHLO, ONNX = 'weights', 'network.json', 'network.stablehlo', 'network.onnx'
ATTEMPTS = 20  # of reading a folder that is being replaced
LARGEST = 2**26  # bytes of a description
LITERT, LITERT_INT8 = 'network.tflite', 'network.int8.tflite'
REQUIRED = (
    'format',
    'architecture',
    'graph',
    'widths',
    'input_shape',
    'input_dtype',
    'mean',
    'std',
    'class_names',
    'weights',
    'accuracy',
    'latency',
    'versions',
    'checksums',
)


def replace(folder: Path, write: Callable[[Path], None]) -> None:
    """Have `write` fill a new folder, then put it in the place of `folder`.

    A process that dies on the way leaves the previous folder, in its place or beside it as `NAME.previous`, where
    `find` looks for it.
    """
    partial, previous = _beside(folder, 'partial'), _beside(folder, 'previous')
    if not folder.exists() and previous.exists():
        os.replace(previous, folder)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        write(partial)
        shutil.rmtree(previous, ignore_errors=True)
        if folder.exists():
            os.replace(folder, previous)
        os.replace(partial, folder)
    except BaseException:
        if not folder.exists() and previous.exists():
            os.replace(previous, folder)
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(previous, ignore_errors=True)


def read_whole(folder: Path, read: Callable[[Path], Result]) -> Result:
    """Read the old network or the new one, never a part of each, while another process may be replacing the folder.

    What `read` returns counts if the same folder, with the same description, stood there before and after.

    Raises:
      ValueError: what `read` raises of a folder that stays, or the folder never stays long enough.
    """
    for _ in range(ATTEMPTS):
        place = find(folder)
        before = _identity(place)
        try:
            result = read(place)
        except (ValueError, OSError):  # a file may go between the look at it and its opening
            if _identity(find(folder)) == before:
                raise
        else:
            if _identity(find(folder)) == before:
                return result
    raise ValueError(f'{folder} was replaced {ATTEMPTS} times while it was being read: try again later')


def _identity(place: Path) -> tuple[object, ...] | None:
    """Tell one export from another, also where numbers of inodes return and copies keep their times of change."""
    try:
        own, path = place.stat(), place / DESCRIPTION
        records.refuse_other_than_file(path)
        return own.st_dev, own.st_ino, path.stat().st_ctime_ns, _sha256(path)
    except (OSError, ValueError):
        return None


def find(folder: Path) -> Path:
    """Return the folder, or the one that an interrupted export left in its stead."""
    previous = _beside(folder, 'previous')
    return previous if not folder.exists() and previous.exists() else folder


def _beside(folder: Path, suffix: str) -> Path:
    return folder.with_name(f'{folder.name}.{suffix}')


def write_description(folder: Path, description: dict[str, Any]) -> None:
    """Write `network.json`, with checksums of itself and of every file in the folder."""
    files = sorted(path for path in folder.rglob('*') if path.is_file())
    sums = {path.relative_to(folder).as_posix(): _sha256(path) for path in files}
    sums[DESCRIPTION] = _own_sum(description)
    text = json.dumps({**description, 'checksums': sums}, indent=1) + '\n'
    (folder / DESCRIPTION).write_text(text, encoding='utf-8')


def read_description(folder: Path) -> dict[str, Any]:
    """Read and check `network.json` and the files it names.

    Raises:
      ValueError: no such folder, a file that is missing, foreign or damaged, or a newer format.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        raise ValueError(f'{folder} is not a deployed network: it has no {DESCRIPTION}')
    if (size := path.stat().st_size) > LARGEST:
        raise ValueError(f'{path} has {size} bytes: a description of a network has at most {LARGEST}')
    try:
        description = records.parse(path.read_bytes())
    except ValueError as error:
        raise ValueError(f'{path} is damaged: it is not JSON ({error})') from None
    if not isinstance(description, dict) or type(description.get('format')) is not int:
        raise ValueError(f'{path} does not describe a deployed network: it states no format')
    if description['format'] > FORMAT:
        raise ValueError(
            f'{folder} has format {description["format"]}, this library reads up to {FORMAT}: upgrade jcw'
        )
    if description['format'] < FORMAT:
        raise ValueError(
            f'{folder} has format {description["format"]}, of a version of jcw that knew chains of layers only; '
            f'this one reads format {FORMAT}: export the network again'
        )
    missing = [name for name in REQUIRED if name not in description]
    if missing:
        raise ValueError(f'{path} does not describe a deployed network: it lacks {", ".join(missing)}')
    _check_sums(folder, description)
    if description['architecture'] != ARCHITECTURE:
        raise ValueError(
            f'{folder} holds a network of architecture {description["architecture"]!r}, '
            f'this library knows {ARCHITECTURE!r}'
        )
    return description


def _check_sums(folder: Path, description: dict[str, Any]) -> None:
    if not isinstance(description['checksums'], dict):
        raise ValueError(f'{folder / DESCRIPTION} is damaged: its checksums are not a table')
    stated = dict(description['checksums'])
    for path in (folder / WEIGHTS).rglob('*'):
        if path.is_file() and (name := path.relative_to(folder).as_posix()) not in stated:
            raise ValueError(f'{folder} is damaged: {name} is not one of its files')
    if stated.pop(DESCRIPTION, None) != _own_sum(description):
        raise ValueError(f'{folder / DESCRIPTION} is damaged: its checksum differs')
    for name, expected in stated.items():
        if not _inside(folder, name):
            raise ValueError(f'{folder} is damaged: {name[:200]!r} is not a file inside it')
        if not (folder / name).is_file():
            raise ValueError(f'{folder} is damaged: {name} is missing')
        if _sha256(folder / name) != expected:
            raise ValueError(f'{folder} is damaged: the checksum of {name} differs')
    if not any(name.startswith(f'{WEIGHTS}/') for name in stated):
        raise ValueError(f'{folder} is damaged: no checksum of its weights is stated')


def _inside(folder: Path, name: str) -> bool:
    try:
        return (folder / name).resolve(strict=False).is_relative_to(folder.resolve())
    except (
        OSError,
        RuntimeError,
        ValueError,
    ):  # too long, a loop of links, a character that names may not have
        return False


def _own_sum(description: dict[str, Any]) -> str:
    """Sum the description's values, checksums left out, so that its layout is free."""
    rest = {name: value for name, value in description.items() if name != 'checksums'}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()
