"""A decoded set as files of arrays, which several processes of a machine map: decoded once, in memory once."""

import json
from pathlib import Path

import numpy as np

from jcw.data.examples import Dataset, Examples

PARTS = ('train', 'validation', 'test')
ABOUT = 'about.json'


def write(dataset: Dataset, folder: Path) -> bool:
    """Write a set into a folder, unless its images are decoded as they are needed; return whether that was done."""
    parts = {name: getattr(dataset, name) for name in PARTS}
    if not all(isinstance(part, Examples) for part in parts.values()):
        return False
    for name, part in parts.items():
        for field, array in part._asdict().items():
            np.save(folder / f'{name}_{field}.npy', array, allow_pickle=False)
    about = {'name': dataset.name, 'class_names': dataset.class_names}
    numbers = {name: [float(value) for value in getattr(dataset, name)] for name in ('mean', 'std')}
    (folder / ABOUT).write_text(json.dumps({**about, **numbers}))
    return True


def read(folder: Path) -> Dataset:
    """Map the set that a folder holds."""

    def part(name: str) -> Examples:
        fields = (np.load(folder / f'{name}_{field}.npy', mmap_mode='r') for field in Examples._fields)
        return Examples(*fields)

    train, validation, test = map(part, PARTS)
    about = json.loads((folder / ABOUT).read_text())
    names, mean, std = (tuple(about[name]) for name in ('class_names', 'mean', 'std'))
    return Dataset(about['name'], train, validation, test, names, mean, std)
