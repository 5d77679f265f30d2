"""Damaged sets of tensorflow-datasets: refused by name, or the images are those that were prepared."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from jcw import data
from tests.hostile import attacks
from tests.tiny_builder import prepare


@pytest.fixture(scope='module')
def prepared(tmp_path_factory) -> Path:
    return prepare(tmp_path_factory.mktemp('prepared'))


def read(folder: Path) -> list[np.ndarray]:
    loaded = data.load(str(folder))
    return [part for each in (loaded.train, loaded.validation, loaded.test) for part in each]


@pytest.mark.filterwarnings('ignore:no (training|validation|test) image of:UserWarning')
@pytest.mark.parametrize('count', [20, pytest.param(300, marks=pytest.mark.slow)])
def test_no_damage_to_a_prepared_set_changes_an_image(prepared, tmp_path, count):
    rng, expected, outcomes = np.random.default_rng(0), read(prepared), {}
    for folder in attacks.copies(prepared, tmp_path / 'tiny_scans' / '1.0.0', count):
        target = attacks.files(folder)[rng.integers(len(attacks.files(folder)))]
        before = target.read_bytes()
        target.write_bytes((attacks.flipped, attacks.damaged)[rng.integers(2)](before, rng))
        try:
            found = read(folder)
        except ValueError as error:
            outcome = 'refused' if str(folder) in str(error) else f'no name: {error}'
        else:
            same = [*map(np.array_equal, found, expected)]
            outcome = 'the same' if all(same) else f'another: {target.name}'
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    print(f'{count} attacks on a prepared set: {outcomes}')
    assert set(outcomes) <= {'refused', 'the same'}
    assert outcomes['refused'] > 0.2 * count


@pytest.mark.parametrize('name', ['dataset_info.json', 'features.json'])
def test_a_pipe_in_a_prepared_set_is_refused_and_not_waited_for(prepared, tmp_path, name):
    folder = Path(shutil.copytree(prepared, tmp_path / 'tiny_scans' / '1.0.0'))
    (folder / name).unlink()
    os.mkfifo(folder / name)
    for call in (data.load, data.outline):
        with pytest.raises(ValueError, match=f'{folder / name} is no regular file'):
            call(str(folder))


def test_images_that_are_gone_from_a_prepared_set_are_named(prepared, tmp_path):
    folder = Path(shutil.copytree(prepared, tmp_path / 'tiny_scans' / '1.0.0'))
    next(folder.glob('*test*')).unlink()
    with pytest.raises(ValueError, match=f'the prepared set {folder} is damaged: .*No such file'):
        data.load(str(folder))
