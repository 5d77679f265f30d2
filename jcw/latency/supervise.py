"""Keep a process that times networks going: it is ended when it falls silent and started again when it dies."""

import queue
import subprocess
import threading
from collections.abc import Iterator, Sequence


class Stopped(Exception):
    """The process ended again and again without getting on; the message says how."""


def lines(command: Sequence[str], *, silence_s: float = 300.0, deaths: int = 8) -> Iterator[str]:
    """Run a command until it succeeds, yielding its lines of output.

    A command that resumes, as `measure` does, loses nothing: it finds out for itself which network it died of.

    Args:
      command: the program and its arguments.
      silence_s: without a line for so long it hangs, and is killed, s.
      deaths: ends without success, in a row and without a line between them, that are put up with.

    Raises:
      Stopped: more ends than that.
    """
    if silence_s <= 0 or deaths < 1:
        raise ValueError(f'silence_s and deaths must be positive, got {silence_s} and {deaths}')
    dead = 0
    while True:
        with subprocess.Popen(list(command), stdout=subprocess.PIPE, text=True) as process:
            try:
                for line in _until_silent(process, silence_s):
                    dead = 0
                    yield line
                reason = f'ended with status {process.wait(timeout=silence_s)}'
            except (queue.Empty, subprocess.TimeoutExpired):
                reason = f'said nothing for {silence_s:g} s'
            finally:
                process.kill()
        if reason == 'ended with status 0':
            return
        dead += 1
        if dead >= deaths:
            raise Stopped(f'{reason}, the last of {dead} attempts without a result')


def _until_silent(process: 'subprocess.Popen[str]', silence_s: float) -> Iterator[str]:
    heard: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_listen, args=(process, heard), daemon=True).start()
    while (line := heard.get(timeout=silence_s)) is not None:
        yield line


def _listen(process: 'subprocess.Popen[str]', heard: 'queue.Queue[str | None]') -> None:
    assert process.stdout is not None
    try:
        for line in process.stdout:
            heard.put(line)
    finally:
        heard.put(None)
