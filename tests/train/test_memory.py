"""Freed memory that stays with the process costs no page faults when it is used again."""

import subprocess
import sys

from jcw.train import memory

PROGRAM = """
import ctypes, resource, sys
from jcw.train import memory
assert sys.argv[1] == 'plain' or memory.keep_freed()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
def use(size=2**27):
    block = libc.malloc(size)
    ctypes.memset(block, 1, size)
    libc.free(block)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    out = subprocess.run([sys.executable, '-c', PROGRAM, mode], capture_output=True, text=True, check=True)
    return int(out.stdout)


def test_a_block_used_again_is_already_there():
    assert faults('plain') > 20 * max(faults('kept'), 1)


def test_where_the_allocator_has_no_such_call_nothing_happens(monkeypatch):
    monkeypatch.setattr(memory.ctypes, 'CDLL', lambda name: object())
    assert not memory.keep_freed()
