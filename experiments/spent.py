"""What a run has cost so far: seconds by part of the work, of all its starts together."""

import dataclasses
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from experiments import launch
from jcw import records

LEAST = 0.1
"""Seconds that are worth a line."""


@dataclasses.dataclass
class _Part:
    run: Path
    name: str
    began: float
    within: float = 0.0  # seconds of the parts within it that have ended

    @property
    def whole(self) -> float:
        return time.monotonic() - self.began


_open: list[_Part] = []
"""Parts at work, the innermost last."""


@contextmanager
def on(run: Path, name: str) -> Iterator[None]:
    """Note the seconds of what is done here, less those of parts within it, however it ends."""
    records.refuse_other_than_file(_file(run))
    part = _Part(run, name, time.monotonic())
    _open.append(part)
    try:
        yield
    finally:
        _open.pop()
        whole = part.whole
        own = whole - part.within
        if _open:
            _open[-1].within += whole
        if own >= LEAST and run.is_dir() and launch.is_first():
            with _file(run).open('a') as file:
                file.write(json.dumps({'part': name, 'seconds': round(own, 1)}) + '\n')


def of_run(run: Path) -> dict[str, float]:
    """Return seconds by part, in the order of their first ends, those at work last; damaged lines are left out."""
    found: dict[str, float] = {}
    for line in records.read(_file(run)).splitlines() if _file(run).exists() else ():
        try:
            record = records.parse(line)
            name, seconds = str(record['part']), float(record['seconds'])
        except (ValueError, TypeError, KeyError):
            continue
        found[name] = found.get(name, 0.0) + seconds
    inner = 0.0
    for part in reversed(_open):
        whole = part.whole
        if part.run == run:
            found[part.name] = found.get(part.name, 0.0) + whole - part.within - inner
        inner = whole
    return found


def describe(run: Path) -> str:
    """Say what a run has cost: `405 s: timing networks 120 s, ...`, the most expensive part first."""
    found = sorted(of_run(run).items(), key=lambda each: -each[1])
    parts = ', '.join(f'{name} {seconds:.0f} s' for name, seconds in found)
    return f'{sum(seconds for _, seconds in found):.0f} s: {parts}.'


def _file(run: Path) -> Path:
    return run / 'spent.jsonl'
