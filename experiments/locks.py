"""Where processes of one run must not meet: locks on files, which a process that dies lets go of."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from experiments import launch
from experiments.run_folder import Usage
from jcw import records


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Wait until no other process is in here."""
    path.parent.mkdir(parents=True, exist_ok=True)
    records.refuse_other_than_file(path)
    with path.open('w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def if_free(path: Path) -> Iterator[bool]:
    """Say whether no other process is in here, and keep others out meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    records.refuse_other_than_file(path)
    with path.open('a+') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


@contextmanager
def exclusive(folder: Path, doing: str) -> Iterator[None]:
    """Keep other processes from doing the same in a folder; of a distributed run the first does it for all.

    Raises:
      Usage: another process is at it.
    """
    if not launch.is_first():
        if not launch.first_says(True):
            raise Usage(f'{folder}: the first process of this run does not begin {doing}, and says why')
        yield
        return
    path = folder / f'{doing}.lock'
    with if_free(path) as free:
        if not launch.first_says(free):
            raise Usage(
                f'{folder} is in use: {path.read_text().strip() or "another process"} is {doing} there; '
                'wait for it, end it, or give another --run folder'
            )
        path.write_text(f'process {os.getpid()} on {socket.gethostname()}\n')
        yield
