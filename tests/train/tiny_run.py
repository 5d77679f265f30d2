"""A small supernet run on digits-like noise; also a program: `tiny_run.py FOLDER STEPS [PROCESS COUNT PORT]`.

The program prints a digest of the final state, which is equal only where every bit is.
"""

import hashlib
import os
import sys
import time
from pathlib import Path

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    os.environ['JAX_PLATFORMS'] = 'cpu'

import jax
import jax.numpy as jnp
import numpy as np

from jcw import data
from jcw.nets import training
from jcw.train import loop, mutation, optim, parallel, steps
from jcw.train.state import TrainState, init_state
from tests.tiny_graph import chain

# Two sites, since a step of more takes longer to compile than all else.
GRAPH = chain(
    [('conv', 6, 3, 1), ('separable', 8, 3, 2)], (8, 7, 3), 5, min_multiplier=0.5, levels=3, divisor=2
)
BATCH, SAVE_EVERY = 16, 4
RECIPE = steps.Recipe((0.5,) * 3, (0.25,) * 3, steps.Augmentation(1, True, 0.2), 0.1)


def examples(count=80) -> data.Examples:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, *GRAPH.input_shape), np.uint8)
    return data.Examples(images, rng.integers(0, GRAPH.num_classes, count).astype(np.int32))


def draw(keys, probabilities):
    return mutation.draw_of(GRAPH, 'example')(keys, (probabilities, jnp.int32(0)))


def build_step(
    axis_name, num_steps=40, *, optimiser=None, recipe=RECIPE, draw=draw, accumulate=1, supernet=None
):
    """Return the start and the supernet step of a device."""
    largest, smallest = (
        training.functions_of(graph, axis_name=axis_name) for graph in (GRAPH, GRAPH.fixed(GRAPH.smallest))
    )
    optimiser = optimiser or optim.sgd(0.05, num_steps, warmup_steps=3)
    state = jax.jit(lambda key: init_state(key, largest, optimiser))(jax.random.key(0))
    step = steps.supernet_step(
        supernet or largest, smallest, GRAPH, optimiser, recipe, draw, axis_name, accumulate=accumulate
    )
    return state, step


def loop_step(step, pause=0.0):
    """Return a step for the loop, which takes this process's share of each batch, and `pause` seconds more."""
    spread = parallel.data_parallel(
        step, batch_args=(False, False, True, True, False), batch_outputs=(False, False, True)
    )
    train, probabilities = examples(), np.asarray(mutation.even_probabilities(GRAPH))
    share = BATCH // jax.process_count()
    first = share * jax.process_index()

    def run(state: TrainState, index: int):
        time.sleep(pause)
        rows = data.batch_rows(index, len(train), BATCH, seed=0)[first : first + share]
        key = jax.random.fold_in(jax.random.key(7), index)
        state, metrics, _ = spread(state, key, *train.take(rows), probabilities)
        return state, metrics

    return run


def digest(state) -> str:
    total = hashlib.sha256()
    for leaf in jax.tree.leaves(jax.device_get(state)):
        total.update(np.ascontiguousarray(leaf).tobytes())
    return total.hexdigest()


def main(folder, num_steps, process=0, count=1, port=0):
    num_steps, process, count = int(num_steps), int(process), int(count)
    if count > 1:
        parallel.join(f'127.0.0.1:{port}', count, process)
    state, step = build_step(parallel.AXIS)
    hang_seconds = float(os.environ['HANG_SECONDS']) if 'HANG_SECONDS' in os.environ else None
    print('ready', flush=True)
    try:
        state = loop.run(
            state,
            loop_step(step, float(os.environ.get('PAUSE', 0))),
            num_steps,
            folder=folder,
            batch=BATCH,
            save_every=SAVE_EVERY,
            report_every=2,
            report=lambda p: print(p.step, flush=True),
            hang_seconds=hang_seconds,
        )
    except loop.Interrupted as stop:
        print(stop, file=sys.stderr)
        return
    print('digest', digest(state), flush=True)


if __name__ == '__main__':
    main(*sys.argv[1:])
