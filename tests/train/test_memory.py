"""A process that keeps the memory it has freed: a program's temporary memory costs no page faults again."""

import json
import subprocess
import sys

import pytest

from jcw.train import memory

PROGRAM = """
import json, resource, sys
import jax, jax.numpy as jnp
from jcw.train import memory
if sys.argv[1] == 'keep':
    memory.keep_freed()

@jax.jit
def program(x):
    return jnp.sort(jnp.outer(x, x) @ jnp.outer(x, x), axis=1).sum()  # 36 MB arrays: glibc never keeps blocks beyond 32

x = jnp.ones(3000)
faults = []
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    program(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(json.dumps({'faults': min(faults[1:])}))
"""


def run(mode: str) -> dict:
    out = subprocess.run([sys.executable, '-c', PROGRAM, mode], capture_output=True, text=True, check=True)
    return json.loads(out.stdout)


def test_a_programs_temporary_memory_is_used_again():
    kept, plain = run('keep'), run('plain')
    assert plain['faults'] > 0
    assert 50 * kept['faults'] < plain['faults'] or not memory._glibc()  # only of glibc can it be asked


@pytest.mark.parametrize('answer', [None, '', 'musl 1.2'])
def test_nothing_happens_with_another_allocator(monkeypatch, answer):
    monkeypatch.setattr(memory.os, 'confstr', lambda name: answer)
    monkeypatch.setattr(memory.ctypes, 'CDLL', lambda name: pytest.fail('it was told'))
    memory.keep_freed()
