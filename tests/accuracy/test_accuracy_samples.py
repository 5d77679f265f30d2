import dataclasses
import json

import numpy as np
import pytest

from jcw.accuracy import samples
from jcw.accuracy.samples import Header, Sample
from jcw.accuracy.table import UNITS

HEADER = Header(('stem', 'head'), ((8, 16), (0, 24, 48)), 'cifar10 3.0.2 test', {'epochs': 3}, {'jax': '1'})
TRAINED = (
    Sample((8, 24), 0, 61.5, 1.1, 20.0),
    Sample((16, 0), 0, 63.0, 1.0, 21.0),
    Sample((8, 24), 1, 61.9, 1.2, 19.0),
)


@pytest.fixture
def path(tmp_path):
    file = tmp_path / 'trained.jsonl'
    samples.create(file, HEADER)
    for sample in TRAINED:
        samples.append(file, sample)
    return file


def test_what_was_written_is_read(path):
    found = samples.read(path)
    assert found.header == HEADER
    assert found.samples == TRAINED
    assert found.excluded == ()
    assert found.choices.tolist() == [[0, 1], [1, 0], [0, 1]]
    assert found.utility(UNITS[0]).tolist() == [61.5, 63.0, 61.9]
    assert found.utility(UNITS[1]).tolist() == [-1.1, -1.0, -1.2]


def test_an_interrupted_line_is_cut_off_on_resuming(path):
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert 'truncated' in samples.read(path).excluded[0]
    assert samples.resume(path, HEADER).samples == TRAINED[:2]
    samples.append(path, TRAINED[2])
    assert path.read_bytes() == whole


def test_resuming_begins_a_file_that_is_not_there_or_has_no_whole_header(tmp_path):
    file = tmp_path / 'new.jsonl'
    assert samples.resume(file, HEADER).samples == ()
    file.write_bytes(file.read_bytes()[:30])
    assert samples.resume(file, HEADER).header == HEADER


def test_a_failure_is_kept_until_a_later_attempt_makes_it_good(path):
    samples.append(path, Sample((16, 48), failure='out of memory'))
    assert len(samples.read(path).trained) == 3
    samples.append(path, Sample((16, 48), accuracy=64.0))
    found = samples.read(path)
    assert len(found.trained) == 4
    assert 'out of memory' in found.excluded[0]


def test_nan_is_a_failure_and_never_a_result(path):
    samples.append(path, Sample((16, 48), accuracy=float('nan')))
    found = samples.read(path)
    assert len(found.trained) == 3
    assert 'nan' in found.samples[-1].failure
    with pytest.raises(ValueError, match='accuracy must be a finite number or NaN, got inf'):
        samples.append(path, Sample((16, 48), accuracy=float('inf')))


def test_files_of_one_recipe_merge_and_one_training_counts_once(path, tmp_path):
    other = tmp_path / 'other.jsonl'
    samples.create(other, dataclasses.replace(HEADER, details={'jax': '2'}))
    samples.append(other, TRAINED[0])
    samples.append(other, Sample((16, 48), 0, 65.0))
    merged = samples.merge([samples.read(path), samples.read(other)])
    assert len(merged.trained) == 4
    assert 'trained twice' in merged.excluded[0]


@pytest.mark.parametrize(
    'change',
    [
        {'dataset': 'mnist'},
        {'recipe': {'epochs': 4}},
        {'sites': ('stem', 'tail')},
        {'widths': ((8, 16), (24, 48))},
    ],
)
def test_trainings_of_something_else_are_refused(path, tmp_path, change):
    foreign = dataclasses.replace(HEADER, **change)
    with pytest.raises(ValueError, match=f'something else: {next(iter(change))}'):
        samples.resume(path, foreign)
    other = tmp_path / 'other.jsonl'
    samples.create(other, foreign)
    with pytest.raises(ValueError, match='foreign'):
        samples.merge([samples.read(path), samples.read(other)])


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda line: line.replace(b'63.0', b'93.0'), 'checksum'),
        (lambda line: line[:30], 'not a JSON'),
        (lambda line: b'[]', 'not a JSON'),
        (lambda line: b'', 'not a JSON'),
    ],
)
def test_a_damaged_line_is_refused_by_file_and_number(path, damage, message):
    lines = path.read_bytes().split(b'\n')
    lines[2] = damage(lines[2])
    path.write_bytes(b'\n'.join(lines))
    with pytest.raises(ValueError, match=f'trained.jsonl, line 3: .*{message}'):
        samples.read(path)


@pytest.mark.parametrize(
    ('record', 'message'),
    [
        ({'widths': [8]}, '1 widths'),
        ({'widths': [8, 25]}, 'site head has no width 25'),
        ({'accuracy': 5.0}, 'not an accuracy sample'),
        ({'widths': [8, 24], 'speed': 5.0}, 'not an accuracy sample'),
    ],
)
def test_a_line_of_something_else_is_refused(path, record, message):
    with open(path, 'ab') as file:
        file.write(samples._line(record).encode())
    with pytest.raises(ValueError, match=f'line 5: .*{message}'):
        samples.read(path)


def test_a_file_without_a_header_or_of_another_version_is_refused(path):
    lines = path.read_bytes().split(b'\n')
    header = json.loads(lines[0])
    del header['checksum']
    for change, message in (({'version': 9}, 'version 9'), ({'format': 'other'}, 'does not begin')):
        path.write_bytes(samples._line({**header, **change}).encode())
        with pytest.raises(ValueError, match=message):
            samples.read(path)
    path.write_bytes(b'')
    with pytest.raises(ValueError, match='does not begin'):
        samples.read(path)


def test_a_missing_loss_is_said_when_it_is_asked_for(path):
    samples.append(path, Sample((16, 48), accuracy=64.0))
    with pytest.raises(ValueError, match='1 of 4'):
        samples.read(path).utility(UNITS[1])
    assert np.isfinite(samples.read(path).utility(UNITS[0])).all()


def test_merging_nothing_is_refused():
    with pytest.raises(ValueError, match='at least one'):
        samples.merge([])
