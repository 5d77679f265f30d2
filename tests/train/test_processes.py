"""Runs as programs: killed, stopped, and in two processes; `tiny_run` is the program."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import jax
import numpy as np
import pytest

from jcw.train import parallel, watchdog
from jcw.train.checkpoint import Checkpoints
from tests.train import tiny_run

PROGRAM = Path(tiny_run.__file__)
STEPS = 24


class Run:
    """A run in a process of its own, its output in files, so that a full pipe cannot hold it up."""

    started: ClassVar[list] = []

    def __init__(self, cache, folder, *args, **settings):
        self._files = [
            folder.with_name(f'{folder.name}_{os.urandom(4).hex()}.{end}') for end in ('out', 'err')
        ]
        compiled = {'JAX_NUM_CPU_DEVICES': '4' if cache else '2'}
        if cache:
            compiled |= {
                'JAX_COMPILATION_CACHE_DIR': str(cache),
                'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
            }
        command = [sys.executable, str(PROGRAM), str(folder), *map(str, args)]
        settings = {key: str(value) for key, value in settings.items()}
        with self._files[0].open('w') as out, self._files[1].open('w') as err:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=err, env={**os.environ, **compiled, **settings}
            )
        self.started.append(self)

    @property
    def lines(self):
        return self._files[0].read_text().splitlines()

    def wait_for(self, line, seconds=240):
        limit = time.monotonic() + seconds
        while line not in self.lines:
            assert self.process.poll() is None, self.errors
            assert time.monotonic() < limit, f'{line!r} did not come: {self.errors}'
            time.sleep(0.02)

    def finish(self, seconds=240):
        code = self.process.wait(seconds)
        return code, self.errors

    def kill(self):
        self.process.kill()
        self.process.wait()

    @property
    def errors(self):
        return self._files[1].read_text()


@pytest.fixture(autouse=True)
def none_left_running():
    """End what a failed test has left."""
    yield
    while Run.started:
        Run.started.pop().kill()


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
    """Return a folder of compiled programs, which all runs share."""
    return tmp_path_factory.mktemp('compiled')


@pytest.fixture(scope='module')
def alone(cache, tmp_path_factory):
    """Return the folder and last line of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp('alone') / 'run'
    run = Run(cache, folder, STEPS)
    code, errors = run.finish()
    assert code == 0, errors
    return folder, run.lines[-1]


def pair(folder, num_steps=STEPS, **settings):
    """Start two processes; both compile, since only the first of several would keep what it compiled."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    return [Run(None, folder, num_steps, process, 2, port, **settings) for process in (0, 1)]


def state_in(folder):
    """Read the last checkpoint, as a program on other devices would."""
    like, _ = tiny_run.build_step(parallel.AXIS)
    with Checkpoints(folder / 'checkpoints') as checkpoints:
        return checkpoints.latest_step, checkpoints.restore(like)[0]


@pytest.mark.slow
def test_killed_at_ten_random_moments_a_run_ends_with_the_same_bits(cache, alone, tmp_path):
    """Kills fall on starts, steps and writes alike; each run goes on from what the one before it left."""
    moments = random.Random(0)
    killed, folders = 0, [tmp_path / 'run_0']
    while killed < 12:
        run = Run(cache, folders[-1], STEPS, PAUSE=0.1)
        if killed % 3:
            run.wait_for('ready')
            time.sleep(moments.uniform(0, 2.5))
        else:
            time.sleep(moments.uniform(0, 6))
        if run.process.poll() is None:
            run.kill()
            killed += 1
        else:  # it got to its end between kills
            assert run.finish()[0] == 0, run.errors
            folders.append(tmp_path / f'run_{len(folders)}')
    for folder in folders:
        last = Run(cache, folder, STEPS)
        assert last.finish()[0] == 0, last.errors
        assert last.lines[-1] == alone[1]


@pytest.mark.slow
def test_sigterm_saves_says_so_and_the_run_continues_to_the_same_bits(cache, alone, tmp_path):
    run = Run(cache, tmp_path / 'run', STEPS, PAUSE=0.1)
    run.wait_for('6')
    run.process.send_signal(signal.SIGTERM)
    code, errors = run.finish()
    assert code == 0
    assert 'stopped after step' in errors
    last = Run(cache, tmp_path / 'run', STEPS)
    assert last.finish()[0] == 0, last.errors
    assert last.lines[-1] == alone[1]


@pytest.mark.slow
def test_two_processes_give_the_result_of_one(alone, tmp_path):
    runs = pair(tmp_path / 'run')
    for run in runs:
        code, errors = run.finish()
        assert code == 0, errors
    assert runs[0].lines[-1] == runs[1].lines[-1]
    (step, found), (_, expected) = state_in(tmp_path / 'run'), state_in(alone[0])
    assert step == STEPS
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    reported = [int(line) for line in runs[0].lines if line.isdigit()]
    assert reported == list(range(2, STEPS + 1, 2))
    lines = (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()
    assert len(lines) == len(set(lines)) == STEPS // 2, 'one process writes'


@pytest.mark.slow
@pytest.mark.parametrize(('blow', 'message'), [('SIGKILL', ''), ('SIGSTOP', 'no step finished within 15 s')])
def test_a_lost_peer_ends_the_run_with_a_message_and_a_checkpoint(alone, tmp_path, blow, message):
    runs = pair(tmp_path / 'run', PAUSE=0.2, HANG_SECONDS=15)
    runs[0].wait_for('8')
    runs[1].process.send_signal(getattr(signal, blow))
    try:
        code, errors = runs[0].finish()
    finally:
        runs[1].kill()
    assert code == watchdog.EXIT_CODE, errors
    assert message in errors
    assert 'start all processes again to continue from it' in errors
    step, _ = state_in(tmp_path / 'run')
    assert 4 <= step < STEPS
    again = pair(tmp_path / 'run')
    for run in again:
        assert run.finish()[0] == 0, run.errors
    (_, found), (_, expected) = state_in(tmp_path / 'run'), state_in(alone[0])
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_sigterm_to_one_process_saves_and_ends_both(tmp_path):
    runs = pair(tmp_path / 'run', num_steps=400, PAUSE=0.1, HANG_SECONDS=60)
    runs[0].wait_for('6')
    runs[1].process.send_signal(signal.SIGTERM)
    for run in runs:
        code, errors = run.finish()
        assert code == 0, errors
        assert 'stopped after step' in errors
    step, _ = state_in(tmp_path / 'run')
    assert 6 <= step < 400
