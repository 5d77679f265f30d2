"""Small networks trained side by side: as in one process, whatever happens to one that trains."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time

import jax
import pytest

from experiments import trainers
from experiments.config import SpaceConfig, SubnetConfig
from experiments.locks import if_free
from experiments.paths import paths
from experiments.presets import DIGITS
from experiments.run_folder import Usage
from experiments.space import graph_of
from experiments.trainers import Trainers, shares_of
from experiments.training import load_data
from jcw.train.loop import Interrupted

SHORT = SubnetConfig(epochs=2, batch=64, warmup_epochs=0, label_smoothing=0, mixup=0)


NETWORK = """
def net(g):
    return g.classify(g.conv(g.images, g.site('stem', 16), kernel=3, stride=2))
"""


@pytest.fixture(scope='module')
def setting(tmp_path_factory):
    path = tmp_path_factory.mktemp('network') / 'net.py'
    path.write_text(NETWORK)
    data = dataclasses.replace(DIGITS.data, limit=200)
    space = SpaceConfig(network=f'{path}:net', levels=2)
    config = dataclasses.replace(DIGITS, data=data, space=space, subnet=SHORT)
    dataset = load_data(config)
    return config, dataset, graph_of(config, dataset)


@pytest.fixture
def two(monkeypatch):
    """Have two processes train, on whatever cores there are."""
    core = min(os.sched_getaffinity(0))
    monkeypatch.setattr(trainers, 'shares_of', lambda config, graph: [[core], [core]])


def asked(graph, folder, seeds=(0,), count=2):
    """Return networks, the narrowest first, each with a folder for every seed."""
    rows = [(*graph.smallest.tolist(),), (*graph.largest.tolist(),)][:count]
    return {row: {seed: folder / f'{place}_{seed}' for seed in seeds} for place, row in enumerate(rows)}


def test_side_by_side_is_one_after_another(setting, two, tmp_path, monkeypatch):
    config, dataset, graph = setting
    with Trainers(config, dataset, graph) as several:
        found = [*several.results(asked(graph, tmp_path / 'several', (0, 1)), 'Network')]
    assert all(process.poll() is not None for process in several._processes)
    monkeypatch.setattr(trainers, 'shares_of', lambda config, graph: [])
    with Trainers(config, dataset, graph) as one:
        expected = [*one.results(asked(graph, tmp_path / 'one', (0, 1)), 'Network')]
    assert [each[:2] for each in found] == [each[:2] for each in expected]
    for own, other in zip(found, expected, strict=True):
        assert own.found['validation_loss'] == pytest.approx(other.found['validation_loss'], rel=1e-3)
        assert own.seconds > 0
    with Trainers(config, dataset, graph) as again:
        compiled: list[tuple] = []
        monkeypatch.setattr(trainers.train_subnet, 'make_ready', lambda *what: compiled.append(what))
        known = [*again.results(asked(graph, tmp_path / 'several', (0, 1)), 'Network')]
    assert [each.found for each in known] == [each.found for each in found]
    assert not compiled


def test_a_training_that_diverges_is_an_answer(setting, two, tmp_path):
    config, dataset, graph = setting
    wild = dataclasses.replace(config, subnet=dataclasses.replace(SHORT, learning_rate=1e30))
    with Trainers(wild, dataset, graph) as several:
        found = [*several.results(asked(graph, tmp_path), 'Network')]
    assert all(each.failure and not each.found for each in found)


def test_a_training_that_another_start_is_at_is_named_or_left_to_it(setting, two, tmp_path):
    config, dataset, graph = setting
    with if_free(tmp_path / '1_0' / 'taken.lock') as free, Trainers(config, dataset, graph) as several:
        assert free
        (found,) = several.results(asked(graph, tmp_path), 'Network', shared=True)
        assert found.widths == (*graph.smallest.tolist(),)
        with pytest.raises(Usage, match=r'1_0 is in use: .*wait for it'):
            [*several.results(asked(graph, tmp_path), 'Network')]


def test_a_process_that_dies_is_said(setting, two, tmp_path, monkeypatch):
    config, dataset, graph = setting
    popen = subprocess.Popen
    dying = [sys.executable, '-c', 'import sys; sys.exit(3)']
    monkeypatch.setattr(trainers.subprocess, 'Popen', lambda command, **how: popen(dying, **how))
    with (
        pytest.raises(Usage, match='ended with status 3; its words are above'),
        Trainers(config, dataset, graph) as several,
    ):
        [*several.results(asked(graph, tmp_path), 'Network')]


def test_sigterm_saves_what_all_processes_are_at_and_the_next_start_goes_on(setting, two, tmp_path):
    config, dataset, graph = setting
    long = dataclasses.replace(config, subnet=dataclasses.replace(SHORT, epochs=1e6))

    def stop_once_both_train():
        while not all((tmp_path / name / 'metrics.jsonl').exists() for name in ('0_0', '1_0')):
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_once_both_train, daemon=True).start()
    with (
        pytest.raises(Interrupted, match='the same command goes on'),
        Trainers(long, dataset, graph) as several,
    ):
        [*several.results(asked(graph, tmp_path), 'Network')]
    assert [process.returncode for process in several._processes] == [0, 0]
    for name in ('0_0', '1_0'):
        assert [*(tmp_path / name / 'checkpoints').iterdir()]
        assert not (tmp_path / name / 'result.json').exists()


def test_a_process_whose_starter_is_gone_saves_and_ends(setting, tmp_path):
    config, _, graph = setting
    long = dataclasses.replace(config, subnet=dataclasses.replace(SHORT, epochs=1e6))
    request = {'config': dataclasses.asdict(long), 'graph': graph.to_json(), 'images': None, 'cores': []}
    job = {'widths': graph.smallest.tolist(), 'folders': {0: str(tmp_path / 'one'), 1: str(tmp_path / 'two')}}
    command = [sys.executable, '-m', 'experiments.training_process']
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        for line in (request, job):
            print(json.dumps(line, default=str), file=process.stdin, flush=True)
        while not (tmp_path / 'one' / 'metrics.jsonl').exists():
            time.sleep(0.1)
        process.stdin.close()
        assert process.wait(60) == 0
    assert [*(tmp_path / 'one' / 'checkpoints').iterdir()]
    assert not (tmp_path / 'two').exists()


@pytest.mark.parametrize(
    ('given', 'free', 'devices', 'backend', 'expected'),
    [
        ({}, 64, 1, 'cpu', [[0, 4], [1, 5], [2], [3]]),
        ({}, 13, 1, 'cpu', [[0, 3], [1, 4], [2, 5]]),
        ({}, 5, 1, 'cpu', []),
        ({'trainers': 2}, 5, 1, 'cpu', [[0, 2, 4], [1, 3, 5]]),
        ({'trainers': 1}, 64, 1, 'cpu', []),
        ({}, 64, 4, 'cpu', []),
        ({}, 64, 1, 'gpu', []),
    ],
)
def test_cores_are_shared_out_where_one_device_is_a_cpu(
    setting, monkeypatch, given, free, devices, backend, expected
):
    config, _, graph = setting
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: {*range(6)})
    monkeypatch.setattr(trainers, '_free_memory', lambda: free * 2**30)
    monkeypatch.setattr(jax, 'device_count', lambda: devices)
    monkeypatch.setattr(jax, 'default_backend', lambda: backend)
    config = dataclasses.replace(config, launch=dataclasses.replace(config.launch, **given))
    assert shares_of(config, graph) == expected


def test_large_networks_are_trained_on_all_cores(setting, monkeypatch):
    config, dataset, _ = setting
    monkeypatch.setattr(jax, 'device_count', lambda: 1)
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: {0, 1})
    monkeypatch.setattr(trainers, '_free_memory', lambda: 2**40)
    large = dataclasses.replace(config, space=SpaceConfig(base_multiplier=1.0, levels=2))
    large = dataclasses.replace(large, subnet=dataclasses.replace(SHORT, batch=4096))
    assert shares_of(large, graph_of(large, dataset)) == []
    assert shares_of(config, graph_of(config, dataset)) == [[0], [1]]


def test_what_a_training_took_is_known_when_it_is_read_back(setting, two, tmp_path):
    config, dataset, graph = setting
    networks = asked(graph, tmp_path)
    with Trainers(config, dataset, graph) as several:
        took = {each.widths: each.seconds for each in several.results(networks, 'Network')}
    with Trainers(config, dataset, graph) as several:
        assert {each.widths: each.seconds for each in several.results(networks, 'Network')} == took
    assert min(took.values()) > 0


def test_the_supernet_that_trainings_begin_from_is_trained_before_them_and_once(setting, two, tmp_path):
    config, dataset, graph = setting
    supernet = dataclasses.replace(config.supernet, epochs=1, warmup_epochs=0, recalibration_images=64)
    start = dataclasses.replace(config.subnet, from_supernet=True)
    config = dataclasses.replace(config, run=tmp_path / 'run', supernet=supernet, subnet=start)
    with Trainers(config, dataset, graph) as several:
        found = [*several.results(asked(graph, tmp_path), 'Network')]
    assert [each.failure for each in found] == ['', '']
    assert (paths(config).supernet / 'result.json').exists()
