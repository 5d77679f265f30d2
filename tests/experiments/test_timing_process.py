"""Where the processes run that time networks and compile the next ones."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else []


def pinned(inherited: list[int], wanted: list[int]) -> list[int]:
    """Return the cores of a process that was started on some and asks for others."""
    code = (
        f'import os; os.sched_setaffinity(0, {inherited})\n'
        f'from experiments.timing_process import _pin; _pin({wanted})\n'
        'print(*sorted(os.sched_getaffinity(0)))'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    return [int(core) for core in done.stdout.split()]


@pytest.mark.skipif(len(CORES) < 2, reason='needs two cores to tell them apart')
def test_a_process_started_on_one_core_moves_to_the_core_it_is_given():
    first, second = CORES[:2]
    assert pinned([first], [second]) == [second]


@pytest.mark.skipif(not CORES, reason='needs a system with processor affinity')
@pytest.mark.parametrize('wanted', [[], [10_000]])
def test_cores_that_do_not_exist_leave_a_process_where_it_is(wanted):
    assert pinned(CORES[:1], wanted) == CORES[:1]
