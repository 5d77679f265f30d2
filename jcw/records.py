"""JSON that is read back: written whole, parsed strictly, and summed, so that damage does not pass for a value.

Checksums tell damage (a flipped bit, a cut, two writers at once), not malice: who can write a file can sum it anew.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DIGITS = 20  # of whole numbers, sign included: more do not fit 64 bits
SURROGATE = re.compile(r'\\u[dD][89a-fA-F]')
SUM = 'sha256'
"""The key under which a record states the checksum of all its other values."""


def read(path: str | Path) -> bytes:
    """Return a file's bytes.

    Raises:
      ValueError: it is no regular file; a pipe would be waited for, and a device may never end.
    """
    refuse_other_than_file(path)
    return Path(path).read_bytes()


def refuse_other_than_file(path: str | Path) -> None:
    """Raise `ValueError` where a path is there and is no regular file."""
    if Path(path).exists() and not Path(path).is_file():
        raise ValueError(f'{path} is not a file')


def write(path: str | Path, text: str) -> None:
    """Write a file all or nothing: beside it first, under a name of this process's own."""
    path = Path(path)
    partial = path.with_name(f'{path.name}.{os.getpid()}.partial')
    try:
        partial.write_text(text, encoding='utf-8')
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def parse(text: bytes | str, *, finite: bool = True) -> Any:
    """Read one JSON value; stricter than Python's own reader.

    Args:
      text: in UTF-8.
      finite: whether NaN and infinity, which Python's JSON knows, are refused.

    Raises:
      ValueError: it is not JSON in UTF-8, a key comes twice, a number is too large, or values are nested too deep.
    """
    try:
        text = text.decode('utf-8') if isinstance(text, bytes) else text
        value = _READERS[finite].decode(text)
        if SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()  # half a character could not be written again
        return value
    except RecursionError:
        raise ValueError('values are nested too deep') from None


def checksum(record: Mapping[str, Any]) -> str:
    """Sum a record's values, its own checksum left out, so that layout and order of keys are free."""
    rest = {name: value for name, value in record.items() if name != SUM}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(',', ':')).encode()).hexdigest()


def summed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record of JSON values with its checksum."""
    return {**record, SUM: checksum(record)}


def checked(record: Any) -> dict[str, Any]:
    """Return a record whose checksum is right, without it.

    Raises:
      ValueError: it is no object, states no checksum, or another.
    """
    if not isinstance(record, dict):
        raise ValueError(f'it is a {type(record).__name__}, not an object')
    if SUM not in record:
        raise ValueError('it states no checksum')
    if record[SUM] != checksum(record):
        raise ValueError('its checksum differs')
    return {name: value for name, value in record.items() if name != SUM}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        twice = next(name for i, (name, _) in enumerate(pairs) if name in dict(pairs[:i]))
        raise ValueError(f'key {twice!r} comes twice')
    return record


def _no_number(name: str) -> float:
    raise ValueError(f'{name} is not a number')


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f'the number {text[:12]} is too large')
    return value


def _whole(text: str) -> int:
    if len(text) > DIGITS:
        raise ValueError(f'the number {text[:12]}... of {len(text)} digits is too large')
    return int(text)


_READERS = {
    finite: json.JSONDecoder(
        object_pairs_hook=_unique,
        parse_constant=_no_number if finite else float,
        parse_float=_finite,
        parse_int=_whole,
    )
    for finite in (False, True)
}
