"""The command line of a stage: a preset's name or the settings that a run folder keeps, and what changes."""

import dataclasses
import difflib
import operator
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from experiments import kept
from experiments.config import Config, SpaceConfig
from experiments.own import own
from experiments.presets import PRESETS
from experiments.run_folder import Usage

COUNTS = (
    *('latency.networks', 'latency.batch', 'latency.attempts', 'latency.calls', 'latency.visits'),
    *('supernet.batch', 'supernet.accumulate', 'supernet.refreshes'),
    *('supernet.recalibration_images', 'subnet.batch', 'subnet.accumulate'),
    *('search.frontier', 'search.greedy_images', 'repair.candidates', 'ranking.random', 'ranking.standalone'),
    *('export.batch', 'export.calibration_images', 'launch.trainers'),
)
"""Settings that are at least 1."""

OWN = 'own'
HELP = ('-h', '--help', '--help-all')


def parse(description: str | None, *groups: str, args: Sequence[str] | None = None) -> Config:
    """Return the settings of a start; a wrong request ends the process with a line.

    Args:
      description: of the stage.
      groups: of settings that the stage depends on, which `--help` shows; by default all.
      args: by default those of the process.
    """
    args = list(sys.argv[1:] if args is None else args)
    asked = next((arg for arg in args if arg in HELP), None)
    try:
        if asked:
            _help(description, groups if asked != '--help-all' else (), args)
        return _checked(_parsed(description, args))
    except (Usage, ValueError) as error:
        sys.exit(f'{type(error).__name__}: {error}')


def settings(*args: str) -> Config:
    """Return settings from Python, given as on the command line; a run that keeps none keeps these.

    Raises:
      Usage: a wrong request.
      ValueError: there is no such set of images.
    """
    config = _checked(_parsed(None, list(args)))
    kept.begin(config)
    return config


def _parsed(description: str | None, args: list[str]) -> Config:
    named = args.pop(0) if args and not args[0].startswith('-') else None
    if named is not None and named not in (*PRESETS, OWN):
        raise Usage(_unknown(named))
    given = _tyro(description, args, Config())
    run = given.run if _gives(args, 'run') else None
    found = kept.read(run) if run is not None else None
    if run is not None and not (named or found or _gives(args, 'data')):
        raise Usage(
            f'{run} holds no run yet: begin it with --data.name, for images of your own, or with a preset '
            f'({", ".join(PRESETS)})'
        )
    name = named or (found.preset if found else OWN if _gives(args, 'data') else 'digits')
    if found is None:
        base = own(given.data) if name == OWN else PRESETS[name][1]
        run = base.run if run is None else run
        found = kept.read(run)
        if found is None:
            config = _of_one_budget(args, _tyro(description, args, dataclasses.replace(base, run=run)))
            return dataclasses.replace(config, space=_own_network(config.space, base.space))
    if found.preset != name:
        raise Usage(
            f'{run} was begun with the preset {found.preset!r}, not {name!r}: leave the preset out, '
            'or give another --run'
        )
    config = _of_one_budget(args, _tyro(description, args, found))
    kept.refuse_mixed(found, config)
    return config


def _of_one_budget(args: Sequence[str], config: Config) -> Config:
    """Let a fraction that is given take the place of milliseconds that the run has kept."""
    if not _gives(args, 'search.budget'):
        return config
    given = _gives(args, 'search.budget-ms') or _gives(args, 'search.budget_ms')
    if given and config.search.budget_ms is not None:
        raise Usage('--search.budget and --search.budget-ms: one of them')
    return dataclasses.replace(config, search=dataclasses.replace(config.search, budget_ms=None))


def _tyro(description: str | None, args: Sequence[str], default: Config) -> Config:
    return tyro.cli(Config, args=args, default=default, description=description, prog=_program())


def _gives(args: Sequence[str], start: str) -> bool:
    """Return whether a setting, or one of a group, is among the arguments."""
    return any(arg == f'--{start}' or arg.startswith((f'--{start}=', f'--{start}.')) for arg in args)


def _help(description: str | None, groups: Sequence[str], args: Sequence[str]) -> None:
    """Print the settings of some groups, at their defaults, and end the process."""
    hide: Any = tyro.conf.Suppress
    hidden = [
        (field.name, hide[field.type], dataclasses.field(default=field.default))
        for field in dataclasses.fields(Config)
        if groups and dataclasses.is_dataclass(field.type) and field.name not in groups
    ]
    shown = dataclasses.make_dataclass('Config', hidden, bases=(Config,), frozen=True)
    default = PRESETS[args[0]][1] if args[0] in PRESETS else Config()
    values = {field.name: getattr(default, field.name) for field in dataclasses.fields(default)}
    presets = '\n'.join(f'  {name:22}{what}' for name, what in _described().items())
    more = '\n\n`--help-all` shows the settings of all stages.' if groups else ''
    about = (
        f'{description or ""}\n\nUsage: {_program()} [PRESET] [--run FOLDER] [settings that change]\n\n'
        f'A run keeps its settings in its folder: after the first stage, `--run` is enough.{more}'
        f'\n\nPresets:\n{presets}'
    )
    tyro.cli(shown, args=['--help'], default=shown(**values), description=about, prog=_program())


def _described() -> dict[str, str]:
    return {
        OWN: 'Your own images (--data.name): sized to them.',
        **{n: what for n, (what, _) in PRESETS.items()},
    }


def _program() -> str:
    return f'python -m experiments.{Path(sys.argv[0]).stem}'


def _unknown(name: str) -> str:
    names = (OWN, *PRESETS)
    if Path(name).is_dir():
        return f'{name} is a folder: --data.name {name} for its images, --run {name} for a run that has begun'
    near = difflib.get_close_matches(name, names, 1)
    meant = f'; did you mean {near[0]!r}?' if near else '.'
    return f'there is no preset {name!r}{meant} There are {", ".join(names)}'


def _checked(config: Config) -> Config:
    for name in COUNTS:
        value = operator.attrgetter(name)(config)
        if value is not None and value < 1:
            raise Usage(f'--{name.replace("_", "-")} must be at least 1, got {value}')
    for group, training in (('supernet', config.supernet), ('subnet', config.subnet)):
        if 0 < training.epochs <= training.warmup_epochs:
            raise Usage(
                f'{training.warmup_epochs:g} epochs of warm-up leave nothing of {training.epochs:g}: '
                f'lower --{group}.warmup-epochs, too'
            )
    return config


def _own_network(space: SpaceConfig, stated: SpaceConfig) -> SpaceConfig:
    """Leave out what a preset says of its own network where another one was asked for, and nothing else said."""
    if space.network == stated.network:
        return space
    plain = SpaceConfig()
    if space.strides == stated.strides:
        space = dataclasses.replace(space, strides=plain.strides)
    if ':' in space.network and space.base_multiplier == stated.base_multiplier:
        space = dataclasses.replace(space, base_multiplier=plain.base_multiplier)
    return space
