"""What can happen to a file: bits flip, it is cut, emptied, removed, or filled with something else."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np


def flipped(content: bytes, rng: np.random.Generator) -> bytes:
    """Return content with one bit turned over."""
    changed = bytearray(content)
    bit = int(rng.integers(8 * len(content)))
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Return content with a bit flipped, its end cut off, or some bytes overwritten, moved or doubled."""
    start, stop = sorted(int(i) for i in rng.integers(0, len(content) + 1, 2))
    kind = rng.integers(6)
    if kind <= 1:
        return flipped(content, rng)
    if kind == 2:
        return content[:start]
    if kind == 3:
        return content[:start] + bytes(stop - start) + content[stop:]
    if kind == 4:
        return content[:start] + content[stop:]
    return content[:stop] + content[start:]


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob('*') if path.is_file())


def copies(folder: Path, where: Path, count: int) -> Iterator[Path]:
    """Yield fresh copies of a folder, one after another in the same place."""
    for _ in range(count):
        shutil.rmtree(where, ignore_errors=True)
        shutil.copytree(folder, where)
        yield where


def outcome(path: Path, read: Callable[[Path], Any], same: Callable[[Any], bool]) -> str:
    """Read a damaged file: it is refused by its name, or what was read is the same."""
    try:
        found = read(path)
    except ValueError as error:
        return 'refused' if str(path) in str(error) else f'no name: {error}'
    assert same(found)
    return 'the same'


def attack(
    path: Path, count: int, read: Callable[[Path], Any], same: Callable[[Any], bool]
) -> dict[str, int]:
    """Damage a file again and again; return how often reading it ended in which way."""
    content, rng, outcomes = path.read_bytes(), np.random.default_rng(0), {}
    for turn in range(count):
        path.write_bytes(flipped(content, rng) if turn % 2 else damaged(content, rng))
        told = outcome(path, read, same)
        outcomes[told] = outcomes.get(told, 0) + 1
    print(f'{count} attacks on {path.name}: {outcomes}')
    return outcomes
