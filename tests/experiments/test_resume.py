"""The adaptive supernet as a program: killed again and again, and in two processes."""

import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import jax
import numpy as np
import pytest

from experiments.command_line import parse
from experiments.paths import paths
from experiments.space import graph_of
from experiments.train_supernet import start_of
from experiments.training import load_data, optimiser_of
from jcw.latency.table import flops_table
from jcw.train.checkpoint import Checkpoints

ROOT = Path(__file__).parents[2]
SMALL = (
    *('digits', '--space.base-multiplier', '0.125', '--space.levels', '3', '--space.max-multiplier', '0.6'),
    *('--supernet.epochs', '6', '--supernet.batch', '32', '--supernet.warmup-epochs', '0'),
    *('--supernet.adaptive', '--supernet.refreshes', '20'),
    *('--supernet.adaptive-warmup', '0.1', '--supernet.recalibration-images', '64', '--search.budget', '0.7'),
    *('--launch.save-every', '5'),
)
STEPS = 240


class Training:
    """`experiments.train_supernet` in a process of its own, its output in a file."""

    started: ClassVar[list] = []

    def __init__(self, cache, run, *args):
        run.mkdir(parents=True, exist_ok=True)
        self._log = run / f'log_{os.urandom(4).hex()}'
        environment = {'JAX_NUM_CPU_DEVICES': '1'}
        if cache:
            environment |= {
                'JAX_COMPILATION_CACHE_DIR': str(cache),
                'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
            }
        command = [sys.executable, '-m', 'experiments.train_supernet', *SMALL, '--run', str(run), *args]
        with self._log.open('w') as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=ROOT, env={**os.environ, **environment}
            )
        self.started.append(self.process)

    @property
    def log(self):
        return self._log.read_text()

    def finish(self, seconds=1200):
        assert self.process.wait(seconds) == 0, self.log


@pytest.fixture(autouse=True)
def none_left_running():
    """End what a failed test has left."""
    yield
    while Training.started:
        process = Training.started.pop()
        process.kill()
        process.wait()


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
    """Return a folder of compiled programs, which all runs share."""
    return tmp_path_factory.mktemp('compiled')


def prepare(run):
    """Give a run the latency table that an adaptive supernet needs, and return its configuration."""
    config = parse(None, args=[*SMALL, '--run', str(run)])
    graph = graph_of(config, load_data(config))
    (run / 'latency').mkdir(parents=True)
    flops_table(graph).save(run / 'latency' / 'table.json')
    return config


def carry_of(config):
    """Read the last checkpoint: parameters, statistics, optimiser, width statistics and draws."""
    dataset = load_data(config)
    optimiser, _ = optimiser_of(config.supernet, len(dataset.train))
    like = start_of(config, graph_of(config, dataset), optimiser)
    with Checkpoints(paths(config).supernet / 'checkpoints') as checkpoints:
        return checkpoints.latest_step, checkpoints.restore(like)[0]


@pytest.fixture(scope='module')
def undisturbed(cache, tmp_path_factory):
    run = tmp_path_factory.mktemp('undisturbed') / 'run'
    config = prepare(run)
    Training(cache, run).finish()
    return carry_of(config)


@pytest.mark.slow
def test_killed_at_ten_random_moments_an_adaptive_run_ends_with_the_same_bits(cache, undisturbed, tmp_path):
    """Kills fall on starts, steps and writes alike; each start goes on from what the one before it left."""
    run, moments = tmp_path / 'run', random.Random(0)
    config = prepare(run)
    metrics = paths(config).supernet / 'metrics.jsonl'
    for kill in range(11):
        training = Training(cache, run)
        if kill % 4 == 3:
            time.sleep(moments.uniform(0, 6))
        else:
            before = metrics.stat().st_mtime_ns if metrics.exists() else 0
            while not metrics.exists() or metrics.stat().st_mtime_ns == before:
                assert training.process.poll() is None, training.log
                time.sleep(0.01)
            time.sleep(moments.uniform(0, 0.4))
        assert training.process.poll() is None, f'finished before kill {kill}: {training.log}'
        training.process.kill()
        training.process.wait()
    Training(cache, run).finish()
    (step, found), (last, expected) = carry_of(config), undisturbed
    assert step == last == STEPS
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_two_processes_train_the_supernet_of_one(cache, tmp_path):
    """Each reads its half of the batch; the update, batch statistics and width statistics are those of one process.

    One step, and the update as a whole. Batch statistics agree to 1e-6 of their change, which is rounding in another
    order of summation; updates to 4e-3, and after a second step to no more than a half. Where rounding carries the
    input of a ReLU over 0, the gradient jumps: with the smooth swish in its place updates agree to 3e-6, and to 1e-5
    after four steps. Leaves of a gradient of 0, such as scales that the next normalisation divides out, are rounding.
    """
    short = ('--supernet.no-adaptive', '--supernet.epochs', '0.025')
    Training(cache, tmp_path / 'one', *short).finish()
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        address = f'127.0.0.1:{free.getsockname()[1]}'
    launch = ('--launch.coordinator', address, '--launch.num-processes', '2', '--launch.process-id')
    both = [Training(None, tmp_path / 'two', *short, *launch, str(process)) for process in (0, 1)]
    for training in both:
        training.finish()
    assert 'accuracy of subnets' in both[0].log
    assert 'Training the supernet' not in both[1].log
    config, other = (parse(None, args=[*SMALL, '--run', str(tmp_path / n), *short]) for n in ('one', 'two'))
    dataset = load_data(config)
    optimiser, _ = optimiser_of(config.supernet, len(dataset.train))
    begun = start_of(config, graph_of(config, dataset), optimiser)
    (last, expected), (step, found) = carry_of(config), carry_of(other)
    assert step == last == 1
    np.testing.assert_allclose(found[1].gram, expected[1].gram, rtol=1e-5)
    for part, most in (('batch_stats', 1e-4), ('params', 2e-2), ('opt_state', 2e-2)):
        moved = [flat(getattr(carry[0], part)) - flat(getattr(begun[0], part)) for carry in (expected, found)]
        error = np.linalg.norm(moved[1] - moved[0]) / np.linalg.norm(moved[0])
        print(f'{part}: moved by {np.linalg.norm(moved[0]):.3g}, two processes differ by {error:.1e} of it')
        assert error < most, part
    rewards = [flat(carry[1]) for carry in (expected, found)]
    assert np.linalg.norm(rewards[1] - rewards[0]) < 1e-2 * np.linalg.norm(rewards[0])


def flat(tree):
    """Return all numbers of a tree as one vector."""
    return np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree)])
