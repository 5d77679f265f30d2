"""The processes of a run: how they find each other, and what only the first of them does."""

from typing import Any

import jax
from jax.experimental import multihost_utils

from experiments import progress
from experiments.config import Config
from jcw.train import parallel


def start(config: Config) -> None:
    """Join the other processes of a distributed run; only the first then prints.

    Raises:
      ValueError: a coordinator without the number of processes and this one's.
    """
    settings = config.launch
    if settings.coordinator is not None:
        if settings.num_processes is None or settings.process_id is None:
            raise ValueError('launch.coordinator needs launch.num_processes and launch.process_id, too')
        parallel.join(settings.coordinator, settings.num_processes, settings.process_id)
    elif settings.distributed:
        parallel.join()
    progress.console.quiet = not is_first()


def loop_settings(config: Config, steps_per_epoch: int) -> dict[str, Any]:
    """Return the arguments of `loop.run` that say what is saved, and when a run counts as hung."""
    settings = config.launch
    return {
        'save_every': settings.save_every or max(steps_per_epoch, 100),
        'keep': settings.keep,
        'keep_best': settings.keep_best,
        'hang_seconds': settings.hang_seconds,
    }


def is_first() -> bool:
    """Return whether this process writes results: the only one, or the first."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def meet(name: str) -> None:
    """Wait until all processes have come here."""
    if jax.distributed.is_initialized():
        multihost_utils.sync_global_devices(name)


def first_says(yes: bool) -> bool:
    """Return what the first process says, where what it finds in a folder decides what all of them do next."""
    return parallel.told_by_all(str(yes))[0] == str(True) if jax.distributed.is_initialized() else yes


def stop() -> None:
    """Leave the other processes, once they are done as well."""
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()
