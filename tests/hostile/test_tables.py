"""Damaged tables and samples: what is read is what was written, or a `ValueError` names the file."""

import json

import numpy as np
import pytest

from jcw import records
from jcw.latency import lines, samples
from jcw.latency.table import LatencyTable, fit_samples, flops_table
from tests.hostile import attacks
from tests.hostile.timed import GRAPH, timed_file


@pytest.fixture(scope='module')
def sampled(tmp_path_factory):
    return timed_file(tmp_path_factory.mktemp('timed') / 'samples.jsonl', 30)


@pytest.fixture(scope='module')
def table(sampled) -> LatencyTable:
    return fit_samples(samples.read(sampled))[0]


@pytest.mark.parametrize('count', [60, pytest.param(1500, marks=pytest.mark.slow)])
def test_no_damage_to_a_table_changes_a_prediction(table, tmp_path, count):
    table.save(tmp_path / 'table.json')
    widths = np.array([GRAPH.smallest, GRAPH.base, GRAPH.largest])
    expected = table.predict(widths), LatencyTable.load(tmp_path / 'table.json').predict_std(widths)

    def same(found: LatencyTable) -> bool:
        return np.array_equal(found.predict(widths), expected[0]) and np.array_equal(
            found.predict_std(widths), expected[1]
        )

    outcomes = attacks.attack(tmp_path / 'table.json', count, LatencyTable.load, same)
    assert set(outcomes) <= {'refused', 'the same'}
    assert outcomes['refused'] > 0.9 * count


@pytest.mark.parametrize('count', [60, pytest.param(1500, marks=pytest.mark.slow)])
def test_no_damage_to_samples_changes_one(sampled, tmp_path, count):
    path = tmp_path / 'samples.jsonl'
    path.write_bytes(sampled.read_bytes())
    whole = samples.read(path)

    def same(found: samples.Samples) -> bool:
        """A file that was cut, or lost whole lines, holds fewer samples; those that it holds are as written."""
        written = {sample.widths: sample for sample in whole.samples}
        return found.header == whole.header and all(
            repr(written[sample.widths]) == repr(sample) for sample in found.samples
        )

    outcomes = attacks.attack(path, count, samples.read, same)
    assert set(outcomes) <= {'refused', 'the same'}
    assert outcomes['refused'] > 0.6 * count


IMPOSSIBLE = [
    (('unit',), 's per call', 'expected .*ms per call'),
    (('base',), float('nan'), 'the base is nan'),
    (('base',), -1.0, 'the base is -1.0'),
    (('base',), '1', "the base is '1'"),
    (('columns', 0), 'sort', 'columns'),
    (('entries', 3, -3), float('nan'), 'entry 4, .* three finite costs'),
    (('entries', 3, -3), float('inf'), 'entry 4, .* three finite costs'),
    (('entries', 3, -3), -0.5, 'entry 4, .* three finite costs'),
    (('entries', 3, -3), True, 'entry 4, .* three finite costs'),
    (('entries', 3, -2), -0.5, 'entry 4, .* three finite costs'),
    (('entries', 3), [], 'entry 4'),
    (('entries',), 7, 'not a latency table'),
    (('evidence', 'noise'), float('nan'), 'noise nan'),
    (('evidence', 'variances', 0), -1.0, 'variances'),
    (('evidence', 'timed', 0), [1] * 6, "width 1 of site 'site_0'"),
    (('evidence',), 7, 'not a latency table'),
    (('graph',), None, 'not a latency table'),
    (('provenance',), 7, 'not a latency table'),
    (('more',), 7, 'a table has the fields'),
]


@pytest.mark.parametrize(('place', 'value', 'message'), IMPOSSIBLE)
def test_a_table_that_sums_right_and_states_the_impossible_is_refused(table, tmp_path, place, value, message):
    path = tmp_path / 'table.json'
    table.save(path)
    stated = json.loads(path.read_text())
    at = stated
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    path.write_text(json.dumps(records.summed(stated)))
    with pytest.raises(ValueError, match=message) as said:
        LatencyTable.load(path)
    assert str(path) in str(said.value)


def test_an_entry_that_comes_twice_is_refused(tmp_path):
    path = tmp_path / 'table.json'
    flops_table(GRAPH).save(path)
    stated = json.loads(path.read_text())
    stated['entries'].append([*stated['entries'][0][:-3], 1.0, 0.0, 0.0])
    path.write_text(json.dumps(records.summed(stated)))
    with pytest.raises(ValueError, match='do not fit'):
        LatencyTable.load(path)


def test_numbers_that_are_none_are_not_saved(tmp_path):
    table = flops_table(GRAPH)
    table.entries[2] = np.nan
    with pytest.raises(ValueError, match=r'entry 3, .* three finite costs'):
        table.save(tmp_path / 'table.json')
    assert not (tmp_path / 'table.json').exists()


def test_lines_that_sum_right_and_are_no_samples_never_escape_as_another_error(sampled, tmp_path):
    path, rng, outcomes = tmp_path / 'samples.jsonl', np.random.default_rng(0), {}
    header, line = sampled.read_bytes().splitlines(keepends=True)[:2]
    record = lines.parse('', line)
    nonsense = [
        None,
        True,
        -1,
        0,
        2**62,
        1e308,
        -1e-308,
        '',
        'x',
        [],
        [[]],
        [[[]]],
        {},
        [None],
        [[None]],
        [['x']],
    ]
    for _ in range(500):
        name = list(record)[rng.integers(len(record))]
        changed = {**record, name: nonsense[rng.integers(len(nonsense))]}
        path.write_bytes(header + lines.write(changed))
        told = attacks.outcome(path, samples.read, lambda found: True)
        outcomes[told] = outcomes.get(told, 0) + 1
    print(f'500 lines of nonsense that sum right: {outcomes}')
    assert set(outcomes) == {
        'refused',
        'the same',
    }  # the same: such as no calls, or another count of attempts
    assert outcomes['refused'] > 300
