"""A program that is asked lines and answers lines: bounded in time and memory, and ended with all its children."""

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence

from jcw.latency.runtimes.interface import RuntimeFailure

LONGEST = 2**20
"""Bytes of an answer; a program that writes more without ending the line is not answering."""


class Lines:
    """A running program. It is read without a thread, so that nothing is left behind when it is ended.

    Raises:
      RuntimeFailure: it cannot be started.
    """

    def __init__(self, command: Sequence[str]) -> None:
        try:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise RuntimeFailure(f'could not start the command: {error}') from None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)
        self._heard = b''

    def ask(self, line: str, time_limit_s: float) -> bytes:
        """Send a line and return the one that answers it.

        Raises:
          RuntimeFailure: something was said unasked, the program has ended or closed its output, says nothing in time,
            or does not come to the end of a line.
        """
        deadline = time.monotonic() + time_limit_s
        self._refuse_unasked()
        self._send((line + '\n').encode(), deadline, time_limit_s)
        while b'\n' not in self._heard:
            if len(self._heard) > LONGEST:
                raise RuntimeFailure(f'no end of line within {LONGEST} bytes')
            self._wait(self._out, selectors.EVENT_READ, deadline, time_limit_s)
            self._hear()
        answer, _, self._heard = self._heard.partition(b'\n')
        return answer

    def close(self) -> None:
        """End the program and every process it started that did not leave its group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in filter(None, (self._process.stdin, self._process.stdout)):
            with contextlib.suppress(OSError):
                stream.close()

    def _refuse_unasked(self) -> None:
        """Refuse what came after the last answer: with it, every answer would belong to the question before."""
        with contextlib.suppress(BlockingIOError):
            self._heard += os.read(self._out, LONGEST)
        if self._heard:
            raise RuntimeFailure(f'answered more than once: {self._heard[:80]!r}')

    def _send(self, rest: bytes, deadline: float, time_limit_s: float) -> None:
        while rest:
            self._wait(self._in, selectors.EVENT_WRITE, deadline, time_limit_s)
            try:
                rest = rest[os.write(self._in, rest) :]
            except BlockingIOError:
                continue
            except OSError:
                raise RuntimeFailure(self._ended(deadline)) from None

    def _hear(self) -> None:
        try:
            heard = os.read(self._out, 2**16)
        except BlockingIOError:
            return
        if not heard:
            raise RuntimeFailure(self._ended(time.monotonic() + 1.0))
        self._heard += heard

    def _wait(self, file: int, event: int, deadline: float, time_limit_s: float) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(file, event)
            if not selector.select(max(deadline - time.monotonic(), 0)):
                raise RuntimeFailure(f'no answer within {time_limit_s:g} s')

    def _ended(self, deadline: float) -> str:
        try:
            return f'command ended with status {self._process.wait(max(deadline - time.monotonic(), 0.1))}'
        except subprocess.TimeoutExpired:
            return 'command closed its pipes, and lives on'
