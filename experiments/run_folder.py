"""The files of a run folder: written whole, and never mixed between settings."""

import dataclasses
import errno
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments import launch
from experiments.config import Config
from jcw import records
from jcw.train import memory
from jcw.train.loop import Diverged, Interrupted

FULL = os.strerror(errno.ENOSPC)


class Usage(Exception):
    """A wrong request, whose message is all the user needs to see."""


def claim(folder: Path, **settings: Any) -> Path:
    """Make a folder for results under these settings.

    A setting that did not exist yet when the folder was made had its default then.

    Raises:
      Usage: it holds results under others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = _as_json(settings)
    path = folder / 'settings.json'
    if launch.is_first() and not path.exists():
        _write(path, wanted)
    launch.meet(f'claimed {folder.name}')
    defaults = {
        name: type(value)()
        for name, value in settings.items()
        if dataclasses.is_dataclass(value) and not isinstance(value, type)
    }
    held = read_json(path)
    if not isinstance(held, dict):
        raise Usage(f'{path} is damaged (it is no object): remove {folder} to do it again')
    changed = list(_differences(_filled(held, _as_json(defaults)), wanted))
    if changed:
        raise Usage(
            f'{folder} holds results of other settings: {"; ".join(changed)}. '
            'Give another --run folder, or remove this one to do it again.'
        )
    return folder


def save_json(path: Path, value: Any) -> None:
    """Write JSON, all or nothing; of several processes the first writes, and all wait for it."""
    if launch.is_first():
        _write(path, value)
    launch.meet(f'wrote {path.name}')


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f'{path.name}.{os.getpid()}.partial')  # processes may share the folder
    plain = _as_json(value)
    text = json.dumps(records.summed(plain) if isinstance(plain, dict) else plain, indent=1)
    partial.write_text(text + '\n', encoding='utf-8')
    os.replace(partial, path)


def read_json(path: Path) -> Any:
    """Read what `save_json` wrote; an object carries a checksum.

    Raises:
      Usage: it is damaged.
    """
    try:
        value = records.parse(path.read_bytes(), finite=False)
        return records.checked(value) if isinstance(value, dict) else value
    except ValueError as error:
        raise Usage(
            f'{path} is damaged ({error}): put back a copy, or remove it and what was made from it, '
            f'and run the stage again that writes it'
        ) from None


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file of JSON lines.

    Raises:
      Usage: a line is damaged.
    """
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            yield records.parse(line, finite=False)
        except ValueError as error:
            raise Usage(f'{path}, line {number} is damaged ({error}): remove the line to go on') from None


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


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = '') -> Iterator[str]:
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from _differences(a, b, f'{prefix}{key}.')
        elif a != b:
            yield f'{prefix}{key} was {a}, now {b}'


def run_stage(
    main: Callable[[Config], None], config: Config, *, distributed: bool = False, keep_freed: bool = False
) -> None:
    """Run a stage's main; what the user did wrong is said in a line, without a traceback.

    Args:
      main: of the stage.
      config: given on the command line.
      distributed: whether several processes may run it together.
      keep_freed: whether the process keeps the memory it has freed, which training on a CPU wants.
    """
    try:
        if not distributed and (config.launch.distributed or config.launch.coordinator):
            raise Usage('this stage runs in one process: several train the supernet or a found network')
        if keep_freed:
            memory.keep_freed()
        launch.start(config)
        main(config)
        launch.stop()
    except (Usage, ValueError, Diverged, Interrupted) as error:
        print(f'{type(error).__name__}: {error}', file=sys.stderr)
        sys.exit(0 if isinstance(error, Interrupted) else 1)
    except Exception as error:
        if not disk_full(error):
            raise
        print(f'the disk is full: {error}; free some space, then the same command goes on', file=sys.stderr)
        sys.exit(1)


def disk_full(error: BaseException | None) -> bool:
    """Return whether an error, or one that it follows from, says that no more can be written.

    Libraries that write in threads of their own pass it on in words.
    """
    while error is not None:
        if getattr(error, 'errno', None) in (errno.ENOSPC, errno.EDQUOT) or FULL in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
