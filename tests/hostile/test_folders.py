"""Deployed folders that are damaged, replaced while they are read, or state nonsense that sums right."""

import copy as copying
import json
import shutil
import threading
import tracemalloc
from pathlib import Path

import jax
import numpy as np
import pytest

from jcw import deploy
from jcw.deploy import folder as files
from tests.hostile import attacks

NONSENSE = [
    None,
    True,
    -1,
    0,
    1.5,
    2**30,
    2**62,
    1e308,
    '',
    'x' * 5000,
    '\x00',
    '../../etc/passwd',
    [],
    [[]],
    {},
    {'a': {'b': [1]}},
    [2**30] * 3,
    [8, 16, 2**30],
    ['8', '16', '12'],
]


# Where one array cannot be read, orbax closes its event loop while others are still arriving there.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')


def rewrite(folder: Path, description: dict) -> None:
    """Write a description with checksums that are right."""
    (folder / files.DESCRIPTION).unlink(missing_ok=True)
    files.write_description(folder, {name: v for name, v in description.items() if name != 'checksums'})


def places(value, path=()):
    """Yield the path of every value inside a description."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from places(each, (*path, key))


def changed(description: dict, path: tuple, value) -> dict:
    copy = copying.deepcopy(description)
    at = copy
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return copy


@pytest.fixture
def network(exported, tmp_path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / 'network'))


def loads_or_says_why(folder: Path) -> str:
    """Return what comes of loading: anything but a network or a `ValueError` that names the folder escapes."""
    try:
        deploy.load(folder)
    except ValueError as error:
        return 'refused' if str(folder) in str(error) else f'no name: {error}'
    return 'loaded'


def test_descriptions_that_sum_right_and_state_nonsense_are_value_errors(network):
    description = json.loads((network / 'network.json').read_text())
    every = [
        path for path in places(description) if path and path[0] not in ('checksums', 'versions', 'format')
    ]
    rng = np.random.default_rng(0)
    outcomes: dict[str, int] = {}
    for number in rng.permutation(len(every) * len(NONSENSE))[:300]:
        path, value = every[number // len(NONSENSE)], NONSENSE[number % len(NONSENSE)]
        rewrite(network, changed(description, path, value))
        outcome = loads_or_says_why(network)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    print(f'300 descriptions of nonsense that sum right: {outcomes}')
    assert set(outcomes) == {'refused', 'loaded'}  # loaded where it is a remark, such as a class's name
    assert outcomes['refused'] > 100


def test_a_network_too_large_for_memory_is_refused_before_anything_is_allocated(network):
    description = json.loads((network / 'network.json').read_text())
    large = changed(description, ('widths',), [8, 2**30, 2**30, 2**30])
    for site in large['graph']['sites'][1:]:
        site['choices'] = [2**30]
    rewrite(network, large)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match='does not hold the network it describes'):
            deploy.load(network)
        assert tracemalloc.get_traced_memory()[1] < 2**27
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    'name',
    ['a' * 5000, 'weights/\x00', 'weights/loop', 'weights', '/dev/zero', 'weights/\ud800', '.', ''],
    ids=lambda name: ascii(name)[:12],
)
def test_checksums_of_what_is_no_file_are_value_errors(network, name):
    (network / 'weights' / 'loop').symlink_to('loop')
    description = json.loads((network / 'network.json').read_text())
    description['checksums'][name] = '0' * 64
    (network / 'network.json').write_text(json.dumps(description))
    assert loads_or_says_why(network) == 'refused'


@pytest.mark.parametrize(
    'text', ['[' * 10**5, '{"format":' * 10**5, '{"format": 1e999}', f'{{"format": {10**400}}}', '"\\ud800"']
)
def test_descriptions_that_break_a_reader_are_value_errors(network, text):
    (network / 'network.json').write_text(text)
    assert loads_or_says_why(network) == 'refused'


def test_a_file_added_to_the_weights_is_noticed(network):
    (network / 'weights' / 'd').mkdir(exist_ok=True)
    (network / 'weights' / 'd' / 'foreign').write_bytes(b'x')
    with pytest.raises(ValueError, match='weights/d/foreign is not one of its files'):
        deploy.load(network)


def attack(exported, where: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    outcomes = {'refused': 0, 'loaded': 0}
    expected = deploy.load(exported).folded
    for folder in attacks.copies(exported, where, count):
        target = attacks.files(folder)[rng.integers(len(attacks.files(folder)))]
        before = target.read_bytes()
        target.write_bytes(attacks.damaged(before, rng))
        outcome = loads_or_says_why(folder)
        outcomes[outcome] += 1
        if outcome == 'loaded':
            same = jax.tree.map(np.array_equal, deploy.load(folder).folded, expected)
            assert all(jax.tree.leaves(same)), target
    print(f'{count} attacks on a deployed folder: {outcomes}')
    assert outcomes['refused'] > 0.8 * count


def test_some_attacks_on_a_deployed_folder(exported, tmp_path):
    attack(exported, tmp_path / 'network', 30)


@pytest.mark.slow
def test_many_attacks_on_a_deployed_folder(exported, tmp_path):
    attack(exported, tmp_path / 'network', 500)


@pytest.fixture(scope='session')
def pair(trained, tmp_path_factory) -> dict[str, Path]:
    """Two networks of the same widths, whose weights tell which is which."""
    folder = tmp_path_factory.mktemp('pair')
    doubled = trained._replace(variables=jax.tree.map(lambda leaf: 2 * leaf, trained.variables))
    return {
        name: each.export(folder / name, details={'which': name})
        for name, each in {'old': trained, 'new': doubled}.items()
    }


def put(source: Path, folder: Path) -> None:
    """Replace a folder as `export` does."""
    files.replace(folder, lambda partial: shutil.copytree(source, partial, dirs_exist_ok=True))


def assert_one(loaded: deploy.Deployed, pair: dict[str, Path]) -> str:
    which = loaded.description['which']
    same = jax.tree.map(np.array_equal, loaded.folded, deploy.load(pair[which]).folded)
    assert all(jax.tree.leaves(same)), f"{which}'s description with the other's weights"
    return which


@pytest.mark.parametrize('moment', ['read_description', 'find'])
def test_a_network_replaced_while_it_is_read_is_read_again(pair, tmp_path, monkeypatch, moment):
    put(pair['old'], tmp_path / 'network')
    reading, replaced = getattr(files, moment), []

    def read_and_replace(folder):
        result = reading(folder)
        if not replaced:
            replaced.append(True)
            put(pair['new'], tmp_path / 'network')
        return result

    monkeypatch.setattr(files, moment, read_and_replace)
    assert assert_one(deploy.load(tmp_path / 'network'), pair) == 'new'


def test_a_network_that_is_replaced_without_end_is_given_up(pair, tmp_path, monkeypatch):
    put(pair['old'], tmp_path / 'network')
    reading = files.read_description

    def read_and_replace(folder):
        result = reading(folder)
        put(pair['new' if result['which'] == 'old' else 'old'], tmp_path / 'network')
        return result

    monkeypatch.setattr(files, 'read_description', read_and_replace)
    with pytest.raises(ValueError, match='was replaced 20 times while it was being read'):
        deploy.load(tmp_path / 'network')


@pytest.mark.slow
def test_readers_get_the_old_network_or_the_new_one_never_both(pair, tmp_path):
    put(pair['old'], tmp_path / 'network')
    ending = threading.Event()

    def replace_again_and_again():
        while not ending.wait(0.02):
            for name in ('new', 'old'):
                put(pair[name], tmp_path / 'network')
                ending.wait(0.05)

    writer = threading.Thread(target=replace_again_and_again)
    writer.start()
    try:
        seen = [assert_one(deploy.load(tmp_path / 'network'), pair) for _ in range(150)]
    finally:
        ending.set()
        writer.join()
    print(
        f'150 loads during exports: {seen.count("old")} of the old network, {seen.count("new")} of the new one'
    )
    assert {*seen} == {'old', 'new'}
