"""A run of two processes without a network; a program: `pair.py FOLDER STEPS PROCESS PORT [WHO MISHAP]`.

Each step adds, over both processes, so that they must walk in step. The program prints where it began and what it ended
with; a mishap befalls one process only.
"""

import os
import sys
from pathlib import Path

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    os.environ['JAX_PLATFORMS'] = 'cpu'

from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from jcw import records
from jcw.train import loop, parallel

SAVE_EVERY = 2


class Metrics(NamedTuple):
    loss: float


def add(carry: dict, index: int) -> tuple[dict, Metrics]:
    total = multihost_utils.process_allgather(carry['value']).sum(0)
    return {'value': (np.sin(total) + index).astype(np.float32)}, Metrics(1.0)


def befall(mishap: str) -> None:
    """Have this process lack memory to read, or misread of step 6 its arrays or what stands beside them."""
    restore, read = ocp.StandardCheckpointer.restore, records.read

    def lack_memory(*_, **__):
        raise MemoryError('no memory for it here')

    def misread(self, path, like):
        found = restore(self, path, like)
        return jax.tree.map(lambda a: a + 1, found) if '/6/' in str(path) else found

    def misread_account(path):
        return read(path).replace(b'6', b'7') if '/6/' in str(path) else read(path)

    if mishap == 'account':
        records.read = misread_account
    else:
        ocp.StandardCheckpointer.restore = {'memory': lack_memory, 'arrays': misread}[mishap]


def main(folder: str, num_steps: int, process: str = '', mishap: str = '') -> None:
    if process == str(jax.process_index()):
        befall(mishap)
    began: list[int] = []

    def step(carry: dict, index: int) -> tuple[dict, Metrics]:
        began.append(index)
        return add(carry, index)

    start = {'value': np.arange(4, dtype=np.float32)}
    end = loop.run(start, step, num_steps, folder=folder, batch=1, save_every=SAVE_EVERY, report_every=1)
    print(f'from {began[0]}: {end["value"].tobytes().hex()}', flush=True)


if __name__ == '__main__':
    parallel.join(f'127.0.0.1:{sys.argv[4]}', 2, int(sys.argv[3]))
    try:
        main(sys.argv[1], int(sys.argv[2]), *sys.argv[5:])
    except (ValueError, MemoryError) as error:
        sys.exit(f'{type(error).__name__}: {error}')
