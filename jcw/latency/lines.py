"""A line of JSON that begins with a checksum of its other bytes, so that a damaged or edited one is named."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from jcw import records

START = b'{"sum":"'


def write(record: Mapping[str, Any]) -> bytes:
    """Return `{"sum":"0123456789abcdef",` and the record's own bytes, ended by a newline."""
    rest = json.dumps(record, allow_nan=False, separators=(',', ':'))[1:].encode()
    return START + _sum(rest) + b'",' + rest + b'\n'


def is_cut(content: bytes) -> bool:
    """Return whether these bytes, without a newline, may be the beginning of a line whose writing was interrupted."""
    return content.startswith(START) or START.startswith(content)


def parse(where: str, line: bytes) -> dict[str, Any]:
    """Read a line's record, not yet its checksum.

    Raises:
      ValueError: it is not a JSON object; `where` names it.
    """
    try:
        record = records.parse(line)
    except ValueError as error:
        raise ValueError(f'{where}: not JSON ({error}); remove the line to go on: {line[:80]!r}') from None
    if not isinstance(record, dict):
        raise ValueError(f'{where}: expected a JSON object, got {line[:80]!r}')
    record.pop('sum', None)
    return record


def check(where: str, line: bytes) -> None:
    """Compare a line with its checksum.

    Raises:
      ValueError: it states none, or another.
    """
    stated, _, rest = line.removesuffix(b'\n').removeprefix(START).partition(b'",')
    if not line.startswith(START) or stated != _sum(rest):
        raise ValueError(
            f'{where} is damaged: its checksum differs; put back a copy, or remove the line to go on'
        )


def _sum(rest: bytes) -> bytes:
    return hashlib.sha256(rest).hexdigest()[:16].encode()
