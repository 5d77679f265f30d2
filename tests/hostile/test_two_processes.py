"""Two processes of a run that do not see the same of its folder: they agree, or refuse, and neither waits for ever."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from experiments.locks import exclusive
from tests.hostile import attacks
from tests.train import pair

PROGRAM = Path(pair.__file__)
ROOT = Path(__file__).parents[2]
SECONDS = 120
STEPS = 8


class Ended(NamedTuple):
    code: int
    out: str
    errors: str


def run(folders: tuple[Path, Path], steps: int = STEPS, *mishap: str) -> list[Ended]:
    """Run both processes to their ends, each with the folder that it takes for the run's."""
    port = free_port()
    return both(
        [str(PROGRAM), str(folder), str(steps), str(number), port, *mishap]
        for number, folder in enumerate(folders)
    )


def free_port() -> str:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return str(free.getsockname()[1])


def both(commands: Iterable[list[str]]) -> list[Ended]:
    """Run Python with each command, and wait for all, but not for ever."""
    environment = {**os.environ, 'JAX_NUM_CPU_DEVICES': '1'}
    pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE}
    processes = [
        subprocess.Popen([sys.executable, *command], **pipes, text=True, env=environment, cwd=ROOT)
        for command in commands
    ]
    try:
        told = [process.communicate(timeout=SECONDS) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [Ended(p.returncode, out, errors) for p, (out, errors) in zip(processes, told, strict=True)]


@pytest.fixture(scope='module')
def whole(tmp_path_factory) -> Path:
    """Return the folder of a run that took six steps, of which the fourth and the sixth are saved."""
    folder = tmp_path_factory.mktemp('whole') / 'run'
    for ended in run((folder, folder), 6):
        assert ended.code == 0, ended.errors
    assert sorted(path.name for path in (folder / 'checkpoints').iterdir()) == ['4', '6']
    return folder


@pytest.fixture(scope='module')
def undisturbed(whole, tmp_path_factory) -> str:
    """Return the state that the run ends with."""
    (folder,) = attacks.copies(whole, tmp_path_factory.mktemp('undisturbed') / 'run', 1)
    return state_of(run((folder, folder)), 6)


def state_of(runs: list[Ended], began: int) -> str:
    """Return the state that both ended with, having gone on from the same step."""
    for ended in runs:
        assert ended.code == 0, ended.errors
    first, second = (ended.out.splitlines()[-1].split(': ') for ended in runs)
    assert first == second
    assert first[0] == f'from {began}'
    return first[1]


@pytest.mark.slow
@pytest.mark.parametrize('part', ['account', 'arrays'])
@pytest.mark.parametrize('who', [0, 1])
def test_damage_that_one_of_two_processes_reads_counts_for_both(whole, undisturbed, tmp_path, part, who):
    (folder,) = attacks.copies(whole, tmp_path / 'run', 1)
    runs = run((folder, folder), STEPS, str(who), part)
    assert state_of(runs, 4) == undisturbed
    for number, ended in enumerate(runs):
        assert 'the checkpoint of step 6' in ended.errors
        assert (f'process {who} reads:' in ended.errors) == (number != who)
    assert (folder / 'checkpoints' / 'damaged_6').is_dir()


@pytest.mark.slow
@pytest.mark.parametrize('who', [0, 1])
def test_damage_in_the_copy_of_one_process_refuses_both(whole, tmp_path, who):
    folders = tuple(next(attacks.copies(whole, tmp_path / name, 1)) for name in ('one', 'other'))
    account = folders[who] / 'checkpoints' / '6' / 'meta' / 'metadata'
    account.write_bytes(attacks.flipped(account.read_bytes(), np.random.default_rng(0)))
    for ended in run(folders):
        assert ended.code == 1
        assert 'process 0 sees the steps 4; process 1 sees the steps 4, 6' in ended.errors


@pytest.mark.slow
@pytest.mark.parametrize('lacks', ['6', '4', 'all'])
def test_processes_that_see_other_steps_refuse_both(whole, tmp_path, lacks):
    (folder,) = attacks.copies(whole, tmp_path / 'run', 1)
    (seen,) = attacks.copies(whole, tmp_path / 'other', 1)
    shutil.rmtree(seen / 'checkpoints' / lacks if lacks != 'all' else seen / 'checkpoints')
    views = {'6': 'sees the steps 4', '4': 'sees the steps 6', 'all': 'sees none'}
    for ended in run((folder, seen)):
        assert ended.code == 1
        assert 'ValueError: the processes of this run do not find the same checkpoints' in ended.errors
        assert f'process 0 sees the steps 4, 6; process 1 {views[lacks]}' in ended.errors
        assert 'a folder that all of them share' in ended.errors
    assert len(attacks.files(folder)) == len(attacks.files(whole)), 'nothing is moved'


@pytest.mark.slow
def test_processes_that_read_another_checkpoint_of_the_same_step_refuse_both(whole, tmp_path):
    (folder,) = attacks.copies(whole, tmp_path / 'run', 1)
    (seen,) = attacks.copies(whole, tmp_path / 'other', 1)
    shutil.rmtree(seen / 'checkpoints' / '6')
    shutil.copytree(folder / 'checkpoints' / '4', seen / 'checkpoints' / '6')
    for ended in run((folder, seen)):
        assert ended.code == 1
        assert 'do not find the same checkpoints' in ended.errors
        assert 'process 1 reads step 6 of sum' in ended.errors


@pytest.mark.slow
def test_a_process_that_lacks_memory_to_read_ends_both(whole, tmp_path):
    (folder,) = attacks.copies(whole, tmp_path / 'run', 1)
    first, second = run((folder, folder), STEPS, '1', 'memory')
    assert (first.code, second.code) == (1, 1)
    assert 'process 1 of this run cannot read checkpoints: MemoryError: no memory for it here' in first.errors
    assert 'MemoryError: no memory for it here' in second.errors
    assert (folder / 'checkpoints' / '6').is_dir()


STAGE = """
import sys
from pathlib import Path
from experiments import launch
from experiments.config import Config, LaunchConfig
from experiments.locks import exclusive
from experiments.run_folder import claim
from experiments.stage import run_stage

def main(config):
    with exclusive(claim(config.run, seed=config.seed), 'training'):
        launch.meet('trained')

folder, seed, process, port = sys.argv[1:]
launched = LaunchConfig(coordinator=f'127.0.0.1:{port}', num_processes=2, process_id=int(process))
run_stage(main, Config(run=Path(folder), seed=int(seed), launch=launched), distributed=True)
"""


def stage(folders: tuple[Path, Path], seeds: tuple[int, int] = (0, 0)) -> list[Ended]:
    """Run a stage that claims its folder and keeps others out, in two processes."""
    port = free_port()
    return both(
        ['-c', STAGE, str(folder), str(seed), str(process), port]
        for process, (folder, seed) in enumerate(zip(folders, seeds, strict=True))
    )


@pytest.mark.slow
def test_a_stage_of_two_processes_ends_well(tmp_path):
    for ended in stage((tmp_path, tmp_path)):
        assert ended.code == 0, ended.errors


@pytest.mark.slow
def test_a_process_given_other_settings_ends_both(tmp_path):
    first, second = stage((tmp_path, tmp_path), (0, 1))
    assert 'Usage: ' in second.errors
    assert 'holds results of other settings: seed was 0, now 1' in second.errors
    assert first.code != 0
    assert second.code == 1


@pytest.mark.slow
def test_a_process_with_a_folder_of_its_own_ends_both(tmp_path):
    first, second = stage((tmp_path / 'one', tmp_path / 'other'))
    assert 'all processes need one --run folder, on a disk that they share' in second.errors
    assert first.code != 0
    assert second.code == 1


@pytest.mark.slow
def test_a_run_of_two_processes_keeps_off_a_folder_in_use(tmp_path):
    with exclusive(tmp_path, 'training'):
        first, second = stage((tmp_path, tmp_path))
    assert f'Usage: {tmp_path} is in use: process {os.getpid()} on ' in first.errors
    assert first.code == 1
    assert second.code != 0
