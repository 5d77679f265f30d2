"""The settings of a run, kept in its folder: later stages need the folder's name and what changes."""

import dataclasses
from pathlib import Path
from typing import Any

from experiments import launch
from experiments.config import Config
from experiments.run_folder import NOTES, Usage, changes, has_results, mixed, read_summed, write_json

OWN = ('run', 'launch')
"""Settings of one start alone: where the folder lies now, and which process of several this is."""

RESTS = {'latency': ('latency', 'space', 'seed'), 'supernet': ('data', 'space', 'seed')}
"""Folders that everything rests on, and the settings that their results are of."""


def file_of(run: Path) -> Path:
    return run / 'run.json'


def read(run: Path) -> Config | None:
    """Return the settings kept in a folder; None where there are none yet.

    Raises:
      Usage: the folder is a file, or what it keeps is damaged or of another version.
    """
    if run.exists() and not run.is_dir():
        raise Usage(f'--run {run} is a file: give the folder of a run, or the name of a new one')
    path = file_of(run)
    if not path.exists():
        return None
    try:
        return revived({**read_summed(path), 'run': run})
    except ValueError as error:
        raise Usage(
            f'{path} is damaged ({error}): put back a copy, or remove it and give the preset and the changed '
            'settings once more'
        ) from None


def refuse_mixed(found: Config, config: Config) -> None:
    """See that settings do not contradict what all stages of a run rest on, whichever stage is asked for.

    Raises:
      Usage: they do; what is wrong is named.
    """
    for name, groups in RESTS.items():
        folder = config.run / name
        changed = changes(*({group: getattr(each, group) for group in groups} for each in (found, config)))
        if changed and has_results(folder):
            raise Usage(mixed(folder, changed))


def begin(config: Config) -> bool:
    """Keep the settings of a run that keeps none; return whether that was so."""
    new = not file_of(config.run).exists()
    if new:
        keep(config)
    return new


def keep(config: Config) -> None:
    """Keep these settings for the stages to come."""
    if launch.is_first():
        settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in OWN}
        write_json(file_of(config.run), settings)


def forget(run: Path) -> None:
    """Take the settings away again where nothing was made under them, and the folder, where nothing else is in it."""
    if launch.is_first() and not any(path.is_dir() for path in run.iterdir()):
        for name in NOTES:
            (run / name).unlink(missing_ok=True)
        if not any(run.iterdir()):
            run.rmdir()


def revived(settings: dict[str, Any]) -> Config:
    """Return the settings of a run that were written as JSON.

    Raises:
      ValueError: they are of another version.
    """
    return _revived(Config, settings)


def _revived(kind: type, value: Any) -> Any:
    """Return the settings that an object states; those that it lacks are new, and at their defaults."""
    if not isinstance(value, dict):
        raise ValueError(f'{kind.__name__} is no object')
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := sorted(value.keys() - fields.keys()):
        raise ValueError(f'this version has no setting {", ".join(unknown)}')
    return kind(**{name: _value(fields[name], each) for name, each in value.items()})


def _value(field: dataclasses.Field, value: Any) -> Any:
    if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
        return _revived(field.type, value)
    if value is not None and field.type in (Path, Path | None):
        return Path(value)
    return tuple(value) if isinstance(value, list) else value
