"""Damaged accuracy samples and tables: what is read is what was written, or a `ValueError` names the file."""

import dataclasses
import json

import numpy as np
import pytest

from jcw.accuracy import samples, storage, table
from jcw.accuracy.samples import Sample
from tests.accuracy.test_accuracy_samples import HEADER
from tests.accuracy.truth import SITES, WIDTHS, truth
from tests.hostile import attacks

NONSENSE = [
    *(None, True, -1, 0, 1.5, 2**62, 1e308, -1e-308, '', 'x', '8'),
    *([], [[]], [[[]]], {}, {'a': 1}, [None], [[None]], ['x'], [['8', '16'], ['0']], [1e308, 1e308]),
]


@pytest.fixture
def sampled(tmp_path):
    path = tmp_path / 'samples.jsonl'
    samples.create(path, HEADER)
    rng = np.random.default_rng(0)
    for seed in range(12):
        widths = tuple(int(rng.choice(site)) for site in HEADER.widths)
        samples.append(path, Sample(widths, seed, float(rng.uniform(50, 60)), float(rng.uniform(1, 2)), 20.0))
    samples.append(path, Sample((16, 48), failure='out of memory'))
    return path


@pytest.fixture(scope='module')
def fitted():
    known, rng = truth(0), np.random.default_rng(0)
    choices = known.random(rng, 12)
    return table.refit(table.untrained(SITES, WIDTHS), choices, known.train(rng, choices))


@pytest.mark.parametrize('count', [300, pytest.param(3000, marks=pytest.mark.slow)])
def test_no_damage_to_samples_changes_one(sampled, count):
    whole = samples.read(sampled)

    def same(found: samples.Samples) -> bool:
        """A file that was cut, or lost whole lines, holds fewer samples; those that it holds are as written."""
        return found.header == whole.header and {*map(repr, found.samples)} <= {*map(repr, whole.samples)}

    outcomes = attacks.attack(sampled, count, samples.read, same)
    assert set(outcomes) <= {'refused', 'the same'}
    assert outcomes['refused'] > 0.7 * count


@pytest.mark.parametrize('count', [60, pytest.param(1500, marks=pytest.mark.slow)])
def test_no_damage_to_a_table_changes_a_prediction(fitted, tmp_path, count):
    path = tmp_path / 'table.json'
    fitted.save(path)
    networks = truth(0).random(np.random.default_rng(1), 20)
    expected = table.AccuracyTable.load(path).predict(networks)

    def same(found: table.AccuracyTable) -> bool:
        return all(map(np.array_equal, found.predict(networks), expected))

    outcomes = attacks.attack(path, count, table.AccuracyTable.load, same)
    assert set(outcomes) <= {'refused', 'the same'}
    assert outcomes['refused'] > 0.9 * count


@pytest.mark.parametrize('line', [0, 1])
def test_lines_that_sum_right_and_are_nonsense_never_escape_as_another_error(sampled, line):
    lines, rng, outcomes = sampled.read_bytes().splitlines(keepends=True)[:2], np.random.default_rng(0), {}
    record = json.loads(lines[line])
    del record['checksum']
    for _ in range(500):
        name = list(record)[rng.integers(len(record))]
        changed = {**record, name: NONSENSE[rng.integers(len(NONSENSE))]}
        lines[line] = samples._line(changed).encode()
        sampled.write_bytes(b''.join(lines))
        told = attacks.outcome(sampled, samples.read, lambda found: all(map(possible, found.samples)))
        outcomes[told] = outcomes.get(told, 0) + 1
    print(f'500 accuracy {"lines" if line else "headers"} of nonsense that sum right: {outcomes}')
    assert set(outcomes) <= {'refused', 'the same'}  # the same: such as another seed, or name of a data set
    assert outcomes['refused'] > 250


def possible(sample: Sample) -> bool:
    """Say whether a sample may be one: its numbers are numbers, its accuracy one or a reason why there is none."""
    numbers = all(type(value) in (int, float) for value in (sample.accuracy, sample.loss, sample.seconds))
    return numbers and (bool(sample.failure) or 0 <= sample.accuracy <= 100)


def test_tables_that_sum_right_and_state_nonsense_never_escape_as_another_error(fitted, tmp_path):
    path, rng, outcomes = tmp_path / 'table.json', np.random.default_rng(0), {}
    fitted.save(path)
    stated = json.loads(path.read_text())
    places = [(name,) for name in stated if name != 'checksum'] + [
        (name, inner) for name in ('prior', 'strength', 'evidence') for inner in stated[name]
    ]
    for _ in range(300):
        changed = json.loads(json.dumps({name: part for name, part in stated.items() if name != 'checksum'}))
        *outer, last = places[rng.integers(len(places))]
        at = changed[outer[0]] if outer else changed
        at[last] = NONSENSE[rng.integers(len(NONSENSE))]
        path.write_text(json.dumps({**changed, 'checksum': storage.checksum(changed)}))
        told = attacks.outcome(path, table.AccuracyTable.load, lambda found: np.isfinite(found.base))
        outcomes[told] = outcomes.get(told, 0) + 1
    print(f'300 accuracy tables of nonsense that sum right: {outcomes}')
    assert set(outcomes) <= {'refused', 'the same'}  # the same: such as effects, which are for the reader
    assert outcomes['refused'] > 150


@pytest.mark.parametrize(
    'text', ['[' * 10**5, '{"a":' * 10**5, '{"a": 1e999}', f'{{"a": {10**400}}}', '\ufeff{}']
)
def test_text_that_breaks_a_reader_is_a_value_error(sampled, tmp_path, text):
    sampled.write_bytes(text.encode() + b'\n')
    assert attacks.outcome(sampled, samples.read, lambda _: False) == 'refused'
    assert attacks.outcome(sampled, table.AccuracyTable.load, lambda _: False) == 'refused'


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'accuracy': float('inf')}, 'accuracy must be a finite number or NaN'),
        ({'loss': float('inf')}, 'loss must be'),
        ({'seconds': -1.0}, 'seconds must not be negative'),
        ({'seconds': float('nan')}, 'seconds must not be negative'),
        ({'widths': (-8, 24)}, 'widths and seed must be whole numbers'),
    ],
)
def test_impossible_samples_are_refused_when_they_are_made(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(Sample((8, 24), accuracy=60.0), **change)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'sites': ('stem', 'stem')}, 'must be names'),
        ({'sites': ('stem', '')}, 'must be names'),
        ({'widths': ((8, 16),)}, '2 sites need as many lists'),
        ({'widths': ((8, 16), (24, 24))}, 'growing widths'),
        ({'widths': ((8, 16), ())}, 'growing widths'),
        ({'dataset': ''}, 'must be names'),
    ],
)
def test_impossible_headers_are_refused_when_they_are_made(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(HEADER, **change)
