"""Run a stage: its settings are kept, what the user did wrong is said in a line, and what it took is noted."""

import errno
import logging
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import jax

from experiments import kept, launch, progress, spent
from experiments.config import Config
from experiments.run_folder import Usage
from jcw.train import memory
from jcw.train.loop import Diverged, Interrupted

STAGES = (
    *('check_data', 'measure_latency', 'fit_latency', 'train_supernet', 'fit_accuracy'),
    *('search_widths', 'repair_widths', 'train_subnet', 'export'),
)
"""In the order in which they follow each other."""
FULL = os.strerror(errno.ENOSPC)
STOPPED = 130
"""Exit status of a program that Ctrl-C has ended."""


def run_stage(
    main: Callable[[Config], None], config: Config, *, distributed: bool = False, keep_freed: bool = False
) -> None:
    """Run a stage's main; what the user did wrong is said in a line, without a traceback.

    Settings are kept in the run folder: of its first start at once, unless it is refused; later ones that change
    something, once they have come to their end.

    Args:
      main: of the stage.
      config: given on the command line.
      distributed: whether several processes may run it together.
      keep_freed: whether the process keeps the memory it has freed, which training on a CPU wants.
    """
    new = False
    logging.getLogger('absl').setLevel(logging.ERROR)  # what tensorflow-datasets would rather have installed
    try:
        if not distributed and (config.launch.distributed or config.launch.coordinator):
            raise Usage('this stage runs in one process: several train the supernet or a found network')
        if keep_freed:
            memory.keep_freed()
        launch.start(config)
        new = kept.begin(config)
        if new:
            progress.console.print(
                f'A new run with the preset {config.preset!r}; {kept.file_of(config.run)} keeps its settings.',
                highlight=False,
            )
        with spent.on(config.run, 'starting and reading'):
            main(config)
        kept.keep(config)
        stage = Path(sys.argv[0]).stem
        if stage in STAGES[:-1]:
            following = STAGES[STAGES.index(stage) + 1]
            progress.console.print(
                f'Next: python -m experiments.{following} --run {config.run}', highlight=False
            )
        launch.stop()
    except (Usage, ValueError, Diverged) as error:
        if new:
            kept.forget(config.run)
        _end(f'{type(error).__name__}: {error}', 1)
    except Interrupted as error:
        kept.keep(config)
        _end(f'{type(error).__name__}: {error}', 0)
    except KeyboardInterrupt:
        kept.keep(config)
        _end('Stopped by Ctrl-C; the same command goes on where it was.', STOPPED)
    except Exception as error:
        if disk_full(error):
            _end(f'the disk is full: {error}; free some space, then the same command goes on', 1)
        if isinstance(error, OSError) and error.filename is not None:
            _end(f'{error.filename} cannot be read or written: {error.strerror}', 1)
        if not jax.distributed.is_initialized():
            raise
        if isinstance(error, jax.errors.JaxRuntimeError):
            _end(f'another process of this run was lost, and says why; start all of them again ({error})', 1)
        _end(''.join(traceback.format_exception(error)), 1)


def disk_full(error: BaseException | None) -> bool:
    """Return whether an error, or one that it follows from, says that no more can be written.

    Libraries that write in threads of their own pass it on in words.
    """
    while error is not None:
        if getattr(error, 'errno', None) in (errno.ENOSPC, errno.EDQUOT) or FULL in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _end(words: str, status: int) -> NoReturn:
    """Say why and end; a distributed run's process that failed at once, since an orderly end waits for the others."""
    print(words, file=sys.stderr, flush=True)
    if status and jax.distributed.is_initialized():
        os._exit(status)
    sys.exit(status)
