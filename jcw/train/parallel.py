"""Spread a training step over all devices: the only place that knows `pmap`.

The state is the same on every device, the batch is split evenly. Gradients and metrics are averaged inside the step
(`axis_name`), and a network built with the same `axis_name` takes its batch statistics over all devices.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jcw import compilation

AXIS = 'data'


def join(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Make this process one of several; without arguments they find each other, on TPU slices, SLURM and Open MPI.

    The first collective waits for the others half a minute only: so it takes place here, before data and compilation
    take longer in one process than in another.
    """
    jax.distributed.initialize(coordinator, num_processes, process_id)
    multihost_utils.sync_global_devices('joined')


def told_by_all(text: str) -> list[str]:
    """Return what each process of the run says here, in their order; all must come here.

    What a file, a lock or a clock says may differ between processes. Where it decides what they do next together, they
    ask each other first: a process that goes another way is waited for without end.
    """
    if jax.process_count() == 1:
        return [text]
    own = np.frombuffer(text.encode(), np.uint8)
    longest = int(multihost_utils.process_allgather(np.int32(len(own))).max())
    padded = np.zeros(-(-longest // 256) * 256, np.uint8)  # few lengths, few programs
    padded[: len(own)] = own
    return [bytes(row).rstrip(b'\0').decode() for row in multihost_utils.process_allgather(padded)]


def told_differently(text: str) -> str:
    """Return what the processes say where they do not say the same, else nothing."""
    said = told_by_all(text)
    return '; '.join(f'process {i} {each}' for i, each in enumerate(said)) if len({*said}) > 1 else ''


def data_parallel(
    step: Callable[..., tuple], *, batch_args: Sequence[bool], batch_outputs: Sequence[bool]
) -> Callable[..., tuple]:
    """Map a step over all local devices; what is not a batch goes in and comes out unreplicated.

    Args:
      step: returns a tuple, and uses `AXIS` for its collectives.
      batch_args: for each argument, whether it has a leading batch axis; it then holds this process's share.
      batch_outputs: for each output, whether it has a leading batch axis; if not, it must be equal on all devices.

    Returns:
      A function of the same arguments. It raises `ValueError` where a batch does not divide by the local devices.
    """
    devices = jax.local_devices()
    mapped = jax.pmap(
        step,
        axis_name=AXIS,
        in_axes=tuple(0 if batch else None for batch in batch_args),
        out_axes=tuple(0 if batch else None for batch in batch_outputs),
    )
    # Several processes: pmap itself makes the global arrays of theirs that a program compiled ahead wants.
    program = mapped if jax.process_count() > 1 else compilation.ToTrain(mapped)
    # Arguments placed the way pmap places its results compile once; unplaced ones compile a second program at the
    # second call, when the first call's results come back in.
    mesh = jax.sharding.Mesh(np.array(devices), (AXIS,))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    parts = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))

    def split(array: Any) -> Any:
        if len(array) % len(devices):
            raise ValueError(f'a batch of {len(array)} does not divide by {len(devices)} devices')
        return array.reshape(len(devices), -1, *array.shape[1:])

    def run(*args: Any) -> tuple:
        placed = [
            jax.device_put(jax.tree.map(split, arg), parts) if batch else _place(arg, whole)
            for arg, batch in zip(args, batch_args, strict=True)
        ]
        return tuple(
            jax.tree.map(_join, output) if batch else output
            for output, batch in zip(program(*placed), batch_outputs, strict=True)
        )

    return run


def _place(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    """Put arrays on devices; `device_put` takes 8 us for each even where it has nothing to do, 2 ms for a state."""
    if all(isinstance(leaf, jax.Array) and leaf.sharding == sharding for leaf in jax.tree.leaves(tree)):
        return tree
    return jax.device_put(tree, sharding)


def gathered(rows: Any) -> Any:
    """Return the rows of all devices, in the order of the batch, on every device; inside a step only."""
    return jax.lax.all_gather(rows, AXIS, tiled=True)


def _join(array: jax.Array) -> jax.Array:
    return array.reshape(-1, *array.shape[2:])
