"""The loop: resumption to the bit, interruption, divergence, what is kept and written."""

import json
import signal
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from jcw.train import loop
from jcw.train.checkpoint import Checkpoints


class Metrics(NamedTuple):
    loss: float


def walk(carry, index):
    """Move by a number that depends on the step alone; chaotic enough for a missed step to show."""
    value = jnp.sin(carry['value'] * 3 + index)
    return {'value': value}, Metrics(float(value[0]))


START = {'value': jnp.arange(4.0)}


def run(folder, num_steps=10, step=walk, **kwargs):
    return loop.run(START, step, num_steps, folder=folder, batch=2, save_every=3, report_every=2, **kwargs)


@pytest.fixture(autouse=True)
def in_the_foreground():
    """Let Ctrl-C arrive: a test that was started in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def stop_at(last, *signals):
    def step(carry, index):
        if index == last:
            for number in signals:
                signal.raise_signal(number)
        return walk(carry, index)

    return step


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_interrupted_and_resumed_is_uninterrupted_to_the_bit(tmp_path, number):
    whole = run(tmp_path / 'whole')
    for last in (0, 4, 7):
        with pytest.raises(loop.Interrupted, match=f'stopped after step {last + 1}, saved; the same command'):
            run(tmp_path / 'parts', step=stop_at(last, number))
    np.testing.assert_array_equal(run(tmp_path / 'parts')['value'], whole['value'])


@pytest.mark.parametrize('at_once', [2, 4, 30])
def test_steps_at_once_end_resume_save_and_report_as_one_by_one_do(tmp_path, at_once):
    def several(carry, index):
        for each in range(index, min(index + at_once, 10)):
            carry, metrics = walk(carry, each)
        return carry, metrics

    whole, said = run(tmp_path / 'whole')['value'], []
    with pytest.raises(loop.Interrupted, match='stopped after step 1, saved'):
        run(tmp_path / 'parts', step=stop_at(0, signal.SIGTERM))
    parts = run(tmp_path / 'parts', step=several, at_once=at_once, report=lambda p: said.append(p.step))
    np.testing.assert_array_equal(parts['value'], whole)
    assert said == {2: [3, 5, 7, 9, 10], 4: [5, 9, 10], 30: [10]}[at_once]
    with Checkpoints(tmp_path / 'parts' / 'checkpoints') as checkpoints:
        assert checkpoints.latest_step == 10


def test_a_finished_run_is_read_back(tmp_path):
    def never(carry, index):
        raise AssertionError('a finished run takes no step')

    np.testing.assert_array_equal(run(tmp_path)['value'], run(tmp_path, step=never)['value'])


def test_a_second_ctrl_c_does_not_wait_for_the_step(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, step=stop_at(4, signal.SIGINT, signal.SIGINT))


def test_a_process_in_the_background_goes_on_ignoring_ctrl_c(tmp_path):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run(tmp_path, step=stop_at(4, signal.SIGINT))


def test_the_former_handlers_return(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    run(tmp_path)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


@pytest.mark.parametrize('value', [float('nan'), float('inf'), 1e9])
def test_divergence_names_the_step_the_last_good_checkpoint_and_a_remedy(tmp_path, value):
    def step(carry, index):
        carry, _ = walk(carry, index)
        return carry, Metrics(value if index >= 7 else 1.0)

    with pytest.raises(loop.Diverged, match=r'at step 8; .* of step 6\. Try a lower learning rate'):
        run(tmp_path, step=step)


def test_a_diverged_state_is_never_saved(tmp_path):
    """Step 3 is saved but not reported; its metrics are looked at all the same."""

    def step(carry, index):
        carry, _ = walk(carry, index)
        return carry, Metrics(float('nan') if index == 2 else 1.0)

    with pytest.raises(loop.Diverged, match='at step 3; the last good checkpoint is of step 0'):
        run(tmp_path, step=step)
    with Checkpoints(tmp_path / 'checkpoints') as checkpoints:
        assert checkpoints.latest_step is None


def test_a_state_that_is_not_finite_is_never_saved_though_its_loss_is(tmp_path):
    """Loss is taken before the update: an update that overflows shows in the state first."""

    def step(carry, index):
        return {'value': carry['value'] / (0.0 if index == 5 else 1.0)}, Metrics(1.0)

    with pytest.raises(loop.Diverged, match=r'the state is not finite at step 6; .* of step 3'):
        run(tmp_path, step=step)
    with Checkpoints(tmp_path / 'checkpoints') as checkpoints:
        assert checkpoints.latest_step == 3


def test_what_is_infinite_from_the_start_may_stay_so(tmp_path):
    start = {'absent': np.array([-np.inf, 0.0])}
    carry = loop.run(start, lambda c, _: (c, Metrics(1.0)), 4, folder=tmp_path, batch=2, save_every=2)
    np.testing.assert_array_equal(carry['absent'], start['absent'])


def test_metrics_past_the_checkpoint_are_taken_back_on_resumption(tmp_path):
    whole = run(tmp_path / 'whole', 10)

    def killed(carry, index):
        if index == 8:
            raise KeyboardInterrupt
        return walk(carry, index)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / 'parts', step=killed)
    with (tmp_path / 'parts' / 'metrics.jsonl').open('a') as file:
        file.write('{"step": 9, "lo')
    np.testing.assert_array_equal(run(tmp_path / 'parts')['value'], whole['value'])

    def losses(folder):
        lines = (json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines())
        return [(line['step'], line['loss']) for line in lines]

    assert losses(tmp_path / 'parts') == losses(tmp_path / 'whole')


def test_metrics_are_written_as_json_lines_and_events(tmp_path):
    seen = []
    run(tmp_path, report=seen.append)
    lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    assert [line['step'] for line in lines] == [2, 3, 4, 6, 8, 9, 10] == [p.step for p in seen]
    assert set(lines[0]) == {'step', 'images_per_second', 'loss'}
    events = b''.join(path.read_bytes() for path in (tmp_path / 'tensorboard').iterdir())
    assert events.count(b'train/loss') == len(lines)


def test_the_last_and_the_best_checkpoints_are_kept(tmp_path):
    def climb(carry, index):
        return {'value': carry['value'] + 1}, Metrics(1.0)

    def score(carry):
        return -abs(float(carry['value'][0]) - 6)

    run(tmp_path, 12, step=climb, score=score, keep=1, keep_best=1)
    with Checkpoints(tmp_path / 'checkpoints') as checkpoints:
        assert checkpoints.latest_step == 12
        best, meta = checkpoints.restore(START, best=True)
    assert best['value'][0] == meta['step'] == 6


def test_an_empty_folder_and_another_structure_are_named(tmp_path):
    with (
        Checkpoints(tmp_path / 'none') as checkpoints,
        pytest.raises(ValueError, match='holds no checkpoint'),
    ):
        checkpoints.restore(START)
    run(tmp_path / 'run')
    with (
        Checkpoints(tmp_path / 'run' / 'checkpoints') as checkpoints,
        pytest.raises(ValueError, match='other'),
    ):
        checkpoints.restore({'other': jnp.zeros(4)})
