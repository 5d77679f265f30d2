"""Damaged files of a run folder, two processes in it, and a full disk: said in a line, and nothing is mixed."""

import contextlib
import dataclasses
import errno
import json
import os
import re
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from rich.table import Table

from experiments import (
    fit_latency,
    measure_latency,
    progress,
    spent,
    stage,
    timing_process,
    train_supernet,
    training,
)
from experiments.baseline_widths import Losses
from experiments.config import Config, DataConfig, SpaceConfig, SupernetConfig
from experiments.locks import alone, exclusive, if_free
from experiments.run_folder import Usage, claim, read_json, save_json
from experiments.space import graph_of
from jcw import records
from jcw.latency import samples
from jcw.train import loop
from tests.hostile import attacks
from tests.hostile.timed import timed_file

ROOT = Path(__file__).parents[2]
RESULT = {'accuracy': 0.913, 'methods': {'joint': {'widths': [8, 16, 24], 'ms': 1.25}}, 'note': None}

needs_full_device = pytest.mark.skipif(
    not Path('/dev/full').exists(), reason='needs a device that is always full'
)


class Metrics(NamedTuple):
    loss: float


def test_a_damaged_result_is_named_and_never_passes_for_another(tmp_path):
    path, rng, said = tmp_path / 'result.json', np.random.default_rng(0), []
    save_json(path, RESULT)
    content = path.read_bytes()
    for _ in range(1000):
        path.write_bytes(attacks.damaged(content, rng))
        try:
            assert read_json(path) == RESULT
        except Usage as error:
            said.append(str(error))
    print(f'1000 attacks on a result: {len(said)} refused, the others read the same')
    assert len(said) > 900
    told = re.compile(rf'{re.escape(str(path))} is damaged .*put back a copy, or remove it')
    assert all(map(told.match, said))


@pytest.mark.parametrize(
    'content', ['null', '[]', '[{"accuracy": 0.9}]', '0.9', '"0.9"', '{}', '{"accuracy": 0.9}']
)
def test_a_result_is_an_object_with_its_checksum(tmp_path, content):
    """What is no object has no checksum, and would be taken as it is."""
    path = tmp_path / 'result.json'
    path.write_text(content)
    with pytest.raises(Usage, match=f'{path} is damaged'):
        read_json(path)


def test_a_copy_of_another_file_is_told_by_what_it_lacks(tmp_path):
    path = tmp_path / 'asked.json'
    save_json(path, RESULT)
    with pytest.raises(
        Usage, match=r'asked.json is damaged \(it lacks networks, .* of another version or another place'
    ):
        read_json(path, 'networks', 'accuracy')
    assert read_json(path, 'accuracy', 'methods') == RESULT


def test_damaged_settings_are_named(tmp_path):
    claim(tmp_path, seed=0)
    path = tmp_path / 'settings.json'
    path.write_bytes(path.read_bytes().replace(b'"seed": 0', b'"seed": 1'))
    with pytest.raises(Usage, match=r'settings.json is damaged \(its checksum differs\)'):
        claim(tmp_path, seed=1)


def test_results_whose_settings_are_gone_are_not_taken_for_those_of_others(tmp_path):
    claim(tmp_path, seed=0)
    (tmp_path / 'training.lock').touch()
    settings = (tmp_path / 'settings.json').read_bytes()
    (tmp_path / 'settings.json').unlink()
    claim(tmp_path, seed=1)  # there is no result yet
    save_json(tmp_path / 'result.json', RESULT)
    (tmp_path / 'settings.json').unlink()
    with pytest.raises(Usage, match=f'{tmp_path} holds results, but no settings.json'):
        claim(tmp_path, seed=0)
    assert not (tmp_path / 'settings.json').exists()
    (tmp_path / 'settings.json').write_bytes(settings)
    claim(tmp_path, seed=0)


def test_damaged_metrics_lines_are_left_out_with_a_word(tmp_path):
    def run(steps: int):
        def step(carry, index):
            return {'value': carry['value'] + 1}, Metrics(1.0)

        start = {'value': np.zeros(2, np.float32)}
        return loop.run(start, step, steps, folder=tmp_path, batch=1, save_every=2, report_every=1)

    run(4)
    path = tmp_path / 'metrics.jsonl'
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b''.join([lines[0], b'\xff' + lines[1], b'[3]\n', *lines[3:]]))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        assert run(6)['value'][0] == 6
    said = [str(w.message) for w in said if 'metrics.jsonl' in str(w.message)]
    assert ['line 2 is damaged' in said[0], 'line 3 is damaged' in said[1], len(said)] == [True, True, 2]
    assert [json.loads(line)['step'] for line in path.read_text().splitlines()] == [1, 4, 5, 6]


def test_a_run_whose_last_checkpoint_is_damaged_ends_as_if_nothing_had_happened(tmp_path):
    def step(carry, index):
        return {'value': np.sin(carry['value'] * 3 + index).astype(np.float32)}, Metrics(1.0)

    def run(folder: str, steps: int):
        start = {'value': np.arange(4, dtype=np.float32)}
        return loop.run(start, step, steps, folder=tmp_path / folder, batch=1, save_every=2)['value']

    whole = run('whole', 8)
    run('parts', 6)
    meta = tmp_path / 'parts' / 'checkpoints' / '6' / 'meta' / 'metadata'
    meta.write_bytes(attacks.flipped(meta.read_bytes(), np.random.default_rng(0)))
    with pytest.warns(UserWarning, match=r'step 6 .*set aside as damaged_6, and step 4 is used'):
        np.testing.assert_array_equal(run('parts', 8), whole)


def test_a_finished_training_without_its_last_checkpoint_is_refused_with_what_to_do(tmp_path):
    from jcw.train.checkpoint import Checkpoints

    carry = {'value': np.zeros(2, np.float32)}
    with Checkpoints(tmp_path / 'checkpoints') as checkpoints:
        checkpoints.save(3, carry, {'step': 3})
    assert training.read_back(tmp_path, carry, 3)['value'].shape == (2,)
    with pytest.raises(Usage, match=r'last step, 6, only of step 3: remove .*result.json'):
        training.read_back(tmp_path, carry, 6)


def test_a_damaged_line_of_remembered_losses_is_asked_for_again(tmp_path):
    asked = []

    def loss(choices):
        asked.append(tuple(choices))
        return float(sum(choices))

    path = tmp_path / 'losses.jsonl'
    for choices in [(1, 2), (3, 4)]:
        Losses(path, loss)(np.array(choices))
    path.write_bytes(path.read_bytes().replace(b'3.0', b'9.0'))
    again = Losses(path, loss)
    assert [again(np.array(choices)) for choices in [(1, 2), (3, 4)]] == [3.0, 7.0]
    assert asked == [(1, 2), (3, 4), (1, 2)]


def test_losses_that_threads_ask_for_at_once_are_all_remembered_in_whole_lines(tmp_path):
    path = tmp_path / 'losses.jsonl'
    wanted = [np.array([i, j]) for i in range(20) for j in range(20)]
    with ThreadPoolExecutor(8) as pool:
        values = list(pool.map(Losses(path, lambda choices: float(choices.sum())), wanted))
    again = Losses(path, lambda choices: pytest.fail('asked again'))
    assert [again(choices) for choices in wanted] == values == [float(choices.sum()) for choices in wanted]


def test_a_line_of_losses_that_sums_right_and_remembers_nothing_is_asked_for_again(tmp_path):
    path = tmp_path / 'losses.jsonl'
    nonsense = [
        {},
        {'choices': [1]},
        {'choices': 3, 'loss': 1.0},
        {'choices': [1], 'loss': None},
        {'choices': ['x'], 'loss': 1},
    ]
    path.write_text(''.join(json.dumps(records.summed(each)) + '\n' for each in nonsense))
    held = Losses(path, lambda choices: 7.0)
    assert len(held) == 0
    assert held(np.array([1])) == 7.0


@pytest.mark.parametrize('name', ['training.lock', 'spent.jsonl'])
def test_a_pipe_or_a_folder_in_the_place_of_a_log_or_a_lock_is_refused_and_not_waited_for(tmp_path, name):
    path = tmp_path / name
    for put in (os.mkfifo, lambda path: (path.unlink(), path.mkdir())):
        put(path)
        with (
            pytest.raises(ValueError, match=f'{path} is not a file'),
            spent.on(tmp_path, 'work'),
            alone(tmp_path / 'training.lock'),
        ):
            pass
        if name == 'training.lock':
            with pytest.raises(ValueError, match=f'{path} is not a file'), exclusive(tmp_path, 'training'):
                pass


def test_what_files_and_programs_are_called_is_shown_as_it_is(capsys):
    """Brackets are no commands to the terminal, whatever stands in them."""
    said = 'no [/dev/board], and no [bold] folder'
    progress.console.print(said)
    with progress.bar('Timing [/x]', 2) as update:
        update(2, said)
    progress.console.print(Table('[b]', said))
    assert capsys.readouterr().out.count('[/dev/board], and no [bold] folder') == 3


def test_a_table_is_fitted_anew_when_samples_of_the_same_count_differ(tmp_path):
    config = Config(run=tmp_path)
    (tmp_path / 'latency').mkdir()
    path = tmp_path / 'latency' / 'samples.jsonl'
    held = samples.read(timed_file(path, 40))
    first = fit_latency.fit(config)
    changed = (tmp_path / 'latency' / 'table.json').stat().st_mtime_ns
    fit_latency.fit(config)
    assert (tmp_path / 'latency' / 'table.json').stat().st_mtime_ns == changed
    path.unlink()
    samples.create(path, held.header)
    for sample in held.samples:
        calls = tuple(tuple(2 * c for c in visit) for visit in sample.calls_ms)
        samples.append(path, dataclasses.replace(sample, ms=2 * sample.ms, calls_ms=calls))
    second = fit_latency.fit(config)
    widths = held.widths
    assert second.predict(widths).mean() == pytest.approx(2 * first.predict(widths).mean(), rel=0.05)


HOLDING = """
import sys, time
from pathlib import Path
from experiments.locks import exclusive
with exclusive(Path(sys.argv[1]), 'training'):
    print('held', flush=True)
    time.sleep(600)
"""


def test_two_processes_do_not_meet_in_a_folder_and_death_lets_go(tmp_path):
    with subprocess.Popen(
        [sys.executable, '-c', HOLDING, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == 'held\n'
            told = rf'{re.escape(str(tmp_path))} is in use: process {other.pid} on .* is training there'
            with pytest.raises(Usage, match=told), exclusive(tmp_path, 'training'):
                pass
            with exclusive(tmp_path, 'fitting'):
                pass
        finally:
            other.kill()
            other.wait()
    with exclusive(tmp_path, 'training'):
        pass


def test_training_timing_and_fitting_each_refuse_a_folder_in_use(tmp_path):
    config = Config(
        run=tmp_path,
        data=DataConfig(limit=64),
        space=SpaceConfig(base_multiplier=0.25, levels=2),
        supernet=SupernetConfig(epochs=1, batch=32),
    )
    (tmp_path / 'latency').mkdir()
    timed_file(tmp_path / 'latency' / 'samples.jsonl', 2)
    dataset = training.load_data(config)
    graph = graph_of(config, dataset)
    stages = {
        'supernet/training': lambda: train_supernet.train(config, dataset, graph),
        'latency/timing': lambda: measure_latency.time_networks(
            config, graph, [graph.base], tmp_path / 'latency' / 'finals.jsonl', ''
        ),
        'latency/fitting': lambda: fit_latency.fit(config),
    }
    for name, start in stages.items():
        with if_free(tmp_path / f'{name}.lock') as free:
            assert free
            with pytest.raises(Usage, match='is in use'):
                start()


@needs_full_device
def test_a_full_disk_is_said_in_a_line(tmp_path, capsys):
    def main(config):
        with open('/dev/full', 'w') as file:
            file.write('a result')

    with pytest.raises(SystemExit) as ended:
        stage.run_stage(main, Config(run=tmp_path))
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith('the disk is full: [Errno 28] No space left on device')
    assert said.count('\n') == 1


@needs_full_device
def test_a_disk_that_fills_while_a_run_trains_is_said_in_a_line(tmp_path, capsys):
    def fill(progress):
        (tmp_path / 'metrics.jsonl').unlink()
        (tmp_path / 'metrics.jsonl').symlink_to('/dev/full')

    def main(config):
        start = {'value': np.zeros(2, np.float32)}
        loop.run(
            start, lambda c, _: (c, Metrics(1.0)), 4, folder=config.run, batch=1, save_every=2, report=fill
        )

    with pytest.raises(SystemExit):
        stage.run_stage(main, Config(run=tmp_path))
    assert 'the disk is full: [Errno 28]' in capsys.readouterr().err


@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EDQUOT])
def test_the_timing_process_says_that_the_disk_is_full_instead_of_being_started_again(code, monkeypatch):
    def full(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(timing_process, '_timed', full)
    (answer,) = timing_process.answers(None, contextlib.nullcontext())
    assert 'the disk is full' in answer['refused']


def test_a_full_disk_is_told_through_what_libraries_make_of_it():
    inner = ValueError('RESOURCE_EXHAUSTED: No space left on device [write]')
    outer = RuntimeError('saving failed')
    outer.__cause__ = inner
    assert stage.disk_full(outer)
    assert not stage.disk_full(RuntimeError('no space between letters'))


def test_other_errors_are_no_full_disk(tmp_path):
    def main(config):
        raise KeyError('a mistake of ours')

    with pytest.raises(KeyError):
        stage.run_stage(main, Config(run=tmp_path))
