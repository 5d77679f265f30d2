"""The files of a run folder: written whole, and never mixed between settings."""

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments import launch
from experiments.config import Config
from jcw.data import Dataset
from jcw.graph import Graph, mobilenet_v1
from jcw.train import memory
from jcw.train.loop import Diverged, Interrupted


class Usage(Exception):
    """A wrong request, whose message is all the user needs to see."""


def graph_of(config: Config, dataset: Dataset) -> Graph:
    """Build the search space of a run."""
    settings = dataclasses.asdict(config.space)
    return mobilenet_v1(dataset.input_shape, dataset.num_classes, **settings)


def budget_name(config: Config) -> str:
    """Return what folders of the configured budget's results are called."""
    settings = config.search
    return f'{settings.budget:g}' if settings.budget_ms is None else f'{settings.budget_ms:g}ms'


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
    changed = list(_differences(_filled(read_json(path), _as_json(defaults)), wanted))
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
    partial.write_text(json.dumps(value, indent=1, default=_plain) + '\n')
    os.replace(partial, path)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


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
