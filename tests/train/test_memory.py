"""A program that restarts with huge pages: once, as it was called, and with far fewer page faults."""

import json
import os
import subprocess
import sys

import pytest

from jcw.train import memory

PROGRAM = """
import ctypes, json, os, resource, sys
from jcw.train import memory
print('started')
if sys.argv[1] == 'huge':
    memory.restart_with_huge_pages()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
size = 2**27
ctypes.memset(libc.malloc(size), 1, size)
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
inherited = {name: os.environ.get(name) for name in (memory.TUNABLES, memory.BEFORE)}
print(json.dumps({'faults': faults, 'arguments': sys.argv[1:], 'inherited': inherited}))
"""


def run(mode: str, **environment: str) -> tuple[int, dict]:
    """Return how often the program started, and what it found."""
    clean = {name: value for name, value in os.environ.items() if name != memory.TUNABLES}
    command = [sys.executable, '-c', PROGRAM, mode, 'an argument']
    out = subprocess.run(command, capture_output=True, text=True, check=True, env={**clean, **environment})
    *starts, found = out.stdout.splitlines()
    return len(starts), json.loads(found)


MAY_CHOOSE = memory._matter()  # on this kernel, with this allocator


def test_a_program_restarts_for_few_page_faults_where_it_may_choose():
    starts, plain = run('plain')
    assert starts == 1
    starts, huge = run('huge')
    assert starts == 1 + MAY_CHOOSE
    assert huge['arguments'] == ['huge', 'an argument']
    assert not MAY_CHOOSE or plain['faults'] > 50 * huge['faults']


@pytest.mark.parametrize('tunables', [None, 'glibc.malloc.tcache_count=8'])
def test_the_environment_is_left_as_it_was(tunables):
    starts, found = run('huge', **({memory.TUNABLES: tunables} if tunables else {}))
    assert starts == 1 + MAY_CHOOSE
    assert found['inherited'] == {memory.TUNABLES: tunables, memory.BEFORE: None}


def test_a_setting_of_the_users_own_is_left_alone():
    own = f'{memory.HUGE_PAGES}=0'
    starts, found = run('huge', **{memory.TUNABLES: own})
    assert starts == 1
    assert found['inherited'][memory.TUNABLES] == own


@pytest.mark.parametrize('mode', ['[always] madvise never', 'always madvise [never]', None])
def test_nothing_happens_where_programs_have_no_choice(tmp_path, monkeypatch, mode):
    path = tmp_path / 'enabled'
    if mode is not None:
        path.write_text(mode)
    monkeypatch.setattr(memory, 'MODE', path)
    monkeypatch.delenv(memory.TUNABLES, raising=False)
    monkeypatch.setattr(memory.os, 'execve', lambda *args: pytest.fail('it restarted'))
    memory.restart_with_huge_pages()


@pytest.mark.parametrize('library', ['', 'glibc 2.34', 'other'])
def test_nothing_happens_without_an_allocator_that_knows(tmp_path, monkeypatch, library):
    path = tmp_path / 'enabled'
    path.write_text('always [madvise] never')
    monkeypatch.setattr(memory, 'MODE', path)
    monkeypatch.delenv(memory.TUNABLES, raising=False)
    monkeypatch.setattr(memory.os, 'confstr', lambda name: library)
    monkeypatch.setattr(memory.os, 'execve', lambda *args: pytest.fail('it restarted'))
    memory.restart_with_huge_pages()
