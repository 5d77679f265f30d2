"""The files of a run folder: written whole, and never mixed between settings."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments import launch
from jcw import records

FREE = (
    'data.threads',
    *(f'latency.{name}' for name in ('networks', 'attempts', 'command', 'time_limit', 'niceness')),
)
"""Settings that may change between the starts of a run: results do not depend on them."""
DIGESTS = {
    'space.graph': 'space.graph, another network: its file has changed, or the size or classes of the images'
}
"""Settings that are checksums, and what it means that one differs."""

NOTES = ('run.json', 'data.json', 'spent.jsonl')
"""Files of a run folder that are no results."""


class Usage(Exception):
    """A wrong request, whose message is all the user needs to see."""


def claim(folder: Path, **settings: Any) -> Path:
    """Make a folder for results under these settings.

    A setting that did not exist yet when the folder was made had its default then. Settings that are `FREE` may differ,
    and any where the folder holds no result yet.

    Raises:
      Usage: it holds results under others, or under nobody knows which.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = _as_json(settings)
    path = folder / 'settings.json'
    defaults = {
        name: type(value)()
        for name, value in settings.items()
        if dataclasses.is_dataclass(value) and not isinstance(value, type)
    }

    def changed() -> list[str]:
        return changes(_filled(read_json(path), _as_json(defaults)), wanted)

    if launch.is_first():
        begun = has_results(folder)
        if begun and not path.exists():
            raise Usage(
                f'{folder} holds results, but no settings.json, which says under what settings they were made: '
                'put back a copy, or remove the folder to do it again'
            )
        if not path.exists() or (not begun and changed()):
            write_json(path, wanted)
    launch.meet('claimed')
    if not path.exists():
        raise Usage(
            f'{path} is not there, though the first process of this run wrote it: '
            'all processes need one --run folder, on a disk that they share'
        )
    if differ := changed():
        raise Usage(mixed(folder, differ))
    return folder


def has_results(folder: Path) -> bool:
    """Return whether a folder holds more than its settings, notes and locks."""
    return folder.is_dir() and any(
        path.name not in ('settings.json', *NOTES) and path.suffix != '.lock' for path in folder.iterdir()
    )


def changes(old: Any, new: Any) -> list[str]:
    """Say which settings differ that may not, given as dataclasses or objects of them."""
    differ = dict(_differences(_as_json(old), _as_json(new)))
    return [DIGESTS.get(name, words) for name, words in differ.items() if name not in FREE]


def mixed(folder: Path, changed: list[str]) -> str:
    """Say that a folder holds results of other settings."""
    return (
        f'{folder} holds results of other settings: {"; ".join(changed)}. '
        'Give another --run folder, or remove this one to do it again.'
    )


def save_json(path: Path, value: Any) -> None:
    """Write JSON, all or nothing; of several processes the first writes, and all wait for it."""
    if launch.is_first():
        write_json(path, value)
    launch.meet(f'wrote {path.name}')


def write_json(path: Path, value: Any) -> None:
    """Write JSON, all or nothing, whichever process this is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = _as_json(value)
    text = json.dumps(records.summed(plain) if isinstance(plain, dict) else plain, indent=1)
    records.write(path, text + '\n')


def read_json(path: Path, *needed: str) -> dict[str, Any]:
    """Read the object that `save_json` wrote.

    Raises:
      Usage: it is damaged, or without a value that is needed of it, as a copy of another file is.
    """
    try:
        return read_summed(path, *needed)
    except ValueError as error:
        raise Usage(
            f'{path} is damaged ({error}): put back a copy, or remove it and what was made from it, '
            f'and run the stage again that writes it'
        ) from None


def read_found(path: Path) -> dict[str, Any]:
    """Read what a search found; the network of every method as networks are named, by a tuple of widths.

    Raises:
      Usage: it is damaged, or another file.
    """
    found = read_json(path, 'methods', 'budget_ms', 'base_ms', 'frontier', 'explanation')
    for method in found['methods'].values():
        method['widths'] = tuple(method['widths'])
    return found


def read_summed(path: Path, *needed: str) -> dict[str, Any]:
    """Read a JSON object and compare its checksum.

    Raises:
      ValueError: it is damaged, or lacks a value.
    """
    value = records.checked(records.parse(records.read(path), finite=False))
    if missing := [name for name in needed if name not in value]:
        raise ValueError(f'it lacks {", ".join(missing)}, and so is of another version or another place')
    return value


def read_lines(path: Path, *numbers: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file of JSON lines; a last one that is still being written, or was cut off, is left out.

    Raises:
      Usage: a line is damaged, or lacks one of the numbers that are needed of it.
    """
    for number, line in enumerate(records.read(path).split(b'\n')[:-1], 1):
        try:
            value = records.parse(line, finite=False)
            if not isinstance(value, dict):
                raise ValueError('it is no object')
            if lacks := [name for name in numbers if type(value.get(name)) not in (int, float)]:
                raise ValueError(f'it has no number {", ".join(lacks)}')
        except ValueError as error:
            raise Usage(f'{path}, line {number} is damaged ({error}): remove the line to go on') from None
        yield value


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f'{type(value).__name__} is not JSON')


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value, default=_plain))


def _filled(old: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {**defaults.get(name, {}), **part} if isinstance(part, dict) else part
        for name, part in old.items()
    }


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = '') -> Iterator[tuple[str, str]]:
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from _differences(a, b, f'{prefix}{key}.')
        elif a != b:
            yield f'{prefix}{key}', f'{prefix}{key} was {a}, now {b}'
