"""End a process whose step does not come back, because a peer of a distributed run has failed or hangs.

A thread blocked in a collective cannot be interrupted, and an orderly end would wait for the lost peer: so the process
says what happened and ends at once. Checkpoints already committed stay whole.
"""

import os
import sys
import threading
from typing import Any

EXIT_CODE = 75
"""Temporary failure: starting the same command again continues the run."""


FIRST = 10


class Watchdog:
    """Ends the process unless `beat` is called every `seconds`; a context. None never ends it.

    The first step, which compiles, may take `FIRST` times as long.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._beaten = threading.Event()
        self._done = False
        self._message = 'nothing has run yet'

    def __enter__(self) -> 'Watchdog':
        if self._seconds is not None:
            threading.Thread(target=self._watch, args=[self._seconds], daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._done = True
        self._beaten.set()

    def beat(self, message: str) -> None:
        """Note progress, and what to say should it be the last."""
        self._message = message
        self._beaten.set()

    def _watch(self, seconds: float) -> None:
        limit = FIRST * seconds
        while self._beaten.wait(limit):
            self._beaten.clear()
            if self._done:
                return
            limit = seconds
        end(f'no step finished within {limit:g} s: a peer hangs or is lost; {self._message}')


def end(message: str) -> None:
    """Write a message to standard error and end the process without waiting for anything."""
    sys.stderr.write(f'{message}\n')
    sys.stderr.flush()
    os._exit(EXIT_CODE)
