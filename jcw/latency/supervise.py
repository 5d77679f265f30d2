"""Keep a process that times networks going: it is ended when it falls silent and started again when it dies."""

import contextlib
import queue
import subprocess
import threading
import weakref
from collections.abc import Generator, Iterator, Sequence


class Stopped(Exception):
    """The process ended again and again without getting on; the message says how."""


class Kept:
    """A process that is asked one thing after another: a line each; its answer is lines, and an empty one as their end.

    It starts when it is asked first, and starts again and is asked again when it dies. One that resumes, as `measure`
    does, loses nothing: it finds out for itself which network it died of. It ends when its input does, with the
    process that asks at the latest.

    Args:
      command: the program and its arguments.
      silence_s: without a line for so long it hangs, and is killed, s.
      deaths: in a row, without a line between them, that are put up with.
    """

    def __init__(self, command: Sequence[str], *, silence_s: float = 300.0, deaths: int = 8) -> None:
        if silence_s <= 0 or deaths < 1:
            raise ValueError(f'silence_s and deaths must be positive, got {silence_s} and {deaths}')
        self._command, self._silence_s, self._deaths = list(command), silence_s, deaths
        self._process: subprocess.Popen[str] | None = None
        self._heard: queue.Queue[str | None] = queue.Queue()
        self._answering = False

    def ask(self, request: str) -> Generator[str, None, None]:
        """Yield the answer's lines; the process is ended where they are not read to the end.

        Raises:
          Stopped: it died too often.
          RuntimeError: another answer is not read to its end yet.
        """
        if self._answering:
            raise RuntimeError('the process is asked while it answers something else')
        self._answering = True
        try:
            yield from self._answer(request)
        finally:
            self._answering = False

    def _answer(self, request: str) -> Iterator[str]:
        dead = 0
        while True:
            process = self._running()
            try:
                with contextlib.suppress(BrokenPipeError):  # it has died since, so its output ends, too
                    print(request, file=process.stdin, flush=True)
                while (line := self._heard.get(timeout=self._silence_s)) is not None:
                    if line == '\n':
                        return
                    dead = 0
                    yield line
                reason = f'ended with status {process.wait(timeout=self._silence_s)}'
            except (queue.Empty, subprocess.TimeoutExpired):
                reason = f'said nothing for {self._silence_s:g} s'
            except BaseException:
                self.close()
                raise
            self.close()
            dead += 1
            if dead >= self._deaths:
                raise Stopped(f'{reason}, the last of {dead} attempts without a result')

    def close(self) -> None:
        """End the process; the next request starts it again."""
        if self._process is not None:
            self._end()
            self._process = None

    def _running(self) -> 'subprocess.Popen[str]':
        if self._process is None:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            self._end = weakref.finalize(self, _end, self._process)
            self._heard = queue.Queue()
            threading.Thread(target=_listen, args=(self._process, self._heard), daemon=True).start()
        return self._process


def _end(process: 'subprocess.Popen[str]') -> None:
    process.kill()
    process.wait()
    for stream in filter(None, (process.stdin, process.stdout)):
        with contextlib.suppress(OSError):  # a request that it did not read
            stream.close()


def _listen(process: 'subprocess.Popen[str]', heard: 'queue.Queue[str | None]') -> None:
    assert process.stdout is not None
    try:
        for line in process.stdout:
            heard.put(line)
    finally:
        heard.put(None)
