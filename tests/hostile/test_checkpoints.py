"""Damaged checkpoints: what is resumed from is what was written, or the run says what is wrong."""

import shutil
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jcw.search import stats
from jcw.train.checkpoint import Checkpoints
from tests.hostile import attacks

STEPS = (3, 6)

# Where one array cannot be read, orbax closes its event loop while others are still arriving there.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')


def carry(step: int):
    """Return what a run carries after a step: weights, and width statistics."""
    rng = np.random.default_rng(step)
    weights = {'kernel': rng.standard_normal((3, 3, 8)).astype(np.float32), 'count': np.int32(step)[None]}
    drawn, rewards = jnp.asarray(rng.integers(0, 3, (8, 2))), jnp.asarray(rng.standard_normal(8))
    collected = stats.update(stats.empty(2, 3), drawn, rewards)
    return jax.tree.map(np.asarray, (weights, collected))


@pytest.fixture(scope='module')
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('whole') / 'checkpoints'
    with Checkpoints(folder, keep=2, keep_best=2) as checkpoints:
        for step in STEPS:
            checkpoints.save(step, carry(step), {'step': step}, score=1.0 / step)
    return folder.parent


def restore(folder: Path, best: bool = False):
    """Return the step that is restored and what was said of damage; its arrays are those of that step."""
    with warnings.catch_warnings(record=True) as said, Checkpoints(folder / 'checkpoints') as checkpoints:
        warnings.simplefilter('always')
        found, meta = checkpoints.restore(carry(0), best=best)
    same = jax.tree.map(np.array_equal, found, carry(meta['step']))
    assert all(jax.tree.leaves(same)), 'another state than was written'
    return meta['step'], [str(warning.message) for warning in said if 'checkpoint' in str(warning.message)]


def test_a_whole_checkpoint_is_restored_without_a_word(whole):
    assert restore(whole) == (6, [])
    assert restore(whole, best=True) == (3, [])


def attack(whole: Path, where: Path, count: int, best: bool) -> dict[str, int]:
    """Damage the step that would be used, in one file a time, and count what comes of it."""
    rng = np.random.default_rng(0)
    outcomes = {'unharmed': 0, 'set aside': 0}
    used, other = ((3, 6), 'checkpoints_best') if best else ((6, 3), 'checkpoints')
    for folder in attacks.copies(whole, where, count):
        step = folder / other / str(used[0])
        target = attacks.files(step)[rng.integers(len(attacks.files(step)))]
        content = target.read_bytes()
        kind = rng.integers(8)
        if kind == 0:
            target.unlink()
        elif kind == 1:
            shutil.rmtree(target.parent)
        else:
            target.write_bytes(attacks.damaged(content, rng) if kind > 4 else attacks.flipped(content, rng))
        found, said = restore(folder, best)
        if found == used[0]:
            outcomes['unharmed'] += 1
            assert not said
            continue
        assert found == used[1]
        assert len(said) == 1
        assert f'step {used[0]} in' in said[0]
        assert not step.exists()
        outcomes['set aside'] += 1
    print(f'{count} attacks on a checkpoint: {outcomes}')
    return outcomes


@pytest.mark.parametrize('best', [False, True])
def test_some_attacks_on_a_checkpoint(whole, tmp_path, best):
    assert attack(whole, tmp_path / 'run', 12, best)['set aside'] > 0


@pytest.mark.slow
@pytest.mark.parametrize('best', [False, True])
def test_many_attacks_on_a_checkpoint(whole, tmp_path, best):
    assert attack(whole, tmp_path / 'run', 150, best)['set aside'] > 30


def test_an_empty_step_is_set_aside(whole, tmp_path):
    (folder,) = attacks.copies(whole, tmp_path / 'run', 1)
    shutil.rmtree(folder / 'checkpoints' / '6')
    (folder / 'checkpoints' / '6').mkdir()
    found, said = restore(folder)
    assert (found, len(said)) == (3, 1)
    assert (folder / 'checkpoints' / 'damaged_6').is_dir()


def test_where_nothing_is_whole_the_run_is_refused_and_nothing_moved(whole, tmp_path):
    (folder,) = attacks.copies(whole, tmp_path / 'run', 1)
    for step in STEPS:
        shutil.rmtree(folder / 'checkpoints' / str(step) / 'state')
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r'every checkpoint in .* is damaged .*step 3.*step 6.*begin anew'
        ):
            restore(folder)


def test_a_checkpoint_of_another_run_is_refused_and_stays(whole, tmp_path):
    (folder,) = attacks.copies(whole, tmp_path / 'run', 1)
    weights, collected = carry(0)
    with (
        Checkpoints(folder / 'checkpoints') as checkpoints,
        pytest.raises(
            ValueError, match=r'of another run: .*kernel.* is float32 \[3, 3, 8\] instead of float32 \[3\]'
        ),
    ):
        checkpoints.restore(({**weights, 'kernel': np.zeros(3, np.float32)}, collected))
    assert restore(folder) == (6, [])


@pytest.mark.parametrize('error', [MemoryError, PermissionError])
def test_what_this_process_lacks_is_no_damage(whole, tmp_path, monkeypatch, error):
    (folder,) = attacks.copies(whole, tmp_path / 'run', 1)

    def fail(*_, **__):
        raise error

    with monkeypatch.context() as lacking:
        lacking.setattr(ocp.StandardCheckpointer, 'restore', fail)
        with pytest.raises(error):
            restore(folder)
    assert restore(folder) == (6, [])
