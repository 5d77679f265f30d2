"""Anything that answers: a user's own program, kept running, one JSON line in and one out."""

import contextlib
import json
import math
import queue
import statistics
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jcw.latency.runtimes.protocol import RuntimeFailure

Export = Callable[[Sequence[int]], bytes]


class CommandProgram:
    """A network known to the command by its widths and, if it was exported, its file."""

    def __init__(self, runtime: 'CommandRuntime', request: dict[str, Any]) -> None:
        self._runtime = runtime
        self._request = request

    def time_ms(self) -> float:
        """Ask for one timing; of several times in the answer the median counts."""
        return self._runtime.ask(self._request)

    def close(self) -> None:
        if 'network' in self._request:
            Path(self._request['network']).unlink(missing_ok=True)


class CommandRuntime:
    """Time networks by a program on this machine that knows how to reach the device.

    The program reads lines `{"widths": [...], "network": "/path"}` and answers each with one line: `{"ms":
    3.1}`, `{"ms": [3.1, 3.2]}` for several calls, or `{"error": "why not"}`. It is started when first needed.
    If it ends, stays silent longer than `time_limit_s`, or answers anything else, the timing fails with that
    reason and the program is started anew. Every answer should be one measurement: repeats are asked for by
    repeating the line, alternating with the reference's.

    Args:
      command: the program and its arguments.
      device: the device in full.
      time_limit_s: for one answer, s.
      export: from widths to the bytes of a file that the program wants; without it there is no "network".
      suffix: of that file's name.
      versions: of the software that decides speed.
      details: further facts of the device.
    """

    name = 'command'

    def __init__(
        self,
        command: Sequence[str],
        *,
        device: str,
        time_limit_s: float = 60.0,
        export: Export | None = None,
        suffix: str = '.onnx',
        versions: Mapping[str, str] | None = None,
        details: Mapping[str, str] | None = None,
    ) -> None:
        if not command:
            raise ValueError('command must name a program')
        if not time_limit_s > 0:
            raise ValueError(f'time_limit_s must be positive, got {time_limit_s}')
        self.device = device
        self.versions = dict(versions or {})
        self.details = {**(details or {}), 'command': ' '.join(command)}
        self._command = list(command)
        self._time_limit_s = time_limit_s
        self._export = export
        self._suffix = suffix
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[str | None] = queue.Queue()

    def open(self, widths: Sequence[int]) -> CommandProgram:
        request: dict[str, Any] = {'widths': [int(w) for w in widths]}
        if self._export is not None:
            try:
                content = self._export(widths)
            except Exception as error:
                raise RuntimeFailure(f'could not export: {error}') from error
            with tempfile.NamedTemporaryFile(suffix=self._suffix, delete=False) as file:
                file.write(content)
            request['network'] = file.name
        return CommandProgram(self, request)

    def prefetch(self, networks: Sequence[Sequence[int]]) -> None:
        """Do nothing: the program is asked for one network at a time."""

    def ask(self, request: Mapping[str, Any]) -> float:
        """Send one line and read the milliseconds of its answer."""
        try:
            return read_answer(self._exchange(json.dumps(request)))
        except RuntimeFailure:
            self.close()
            raise

    def close(self) -> None:
        """End the program."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            _close_quietly(stream)
        self._process = None

    def _exchange(self, line: str) -> str:
        process = self._started()
        try:
            assert process.stdin is not None
            process.stdin.write(line + '\n')
            process.stdin.flush()
            answer = self._answers.get(timeout=self._time_limit_s)
        except queue.Empty:
            raise RuntimeFailure(f'no answer within {self._time_limit_s:g} s') from None
        except OSError as error:
            raise RuntimeFailure(f'command ended: {error}') from None
        if answer is None:
            raise RuntimeFailure(f'command ended with status {process.wait()}')
        return answer

    def _started(self) -> 'subprocess.Popen[str]':
        if self._process is None:
            try:
                self._process = subprocess.Popen(
                    self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
            except OSError as error:
                raise RuntimeFailure(f'could not start the command: {error}') from None
            self._answers = queue.Queue()
            threading.Thread(target=_listen, args=(self._process, self._answers), daemon=True).start()
        return self._process


def read_answer(line: str) -> float:
    """Read milliseconds from one line of JSON.

    Raises:
      RuntimeFailure: an error was reported, or the line is not an answer.
    """
    try:
        answer = json.loads(line)
    except ValueError:
        raise RuntimeFailure(f'not a line of JSON: {line.strip()[:80]!r}') from None
    if isinstance(answer, dict) and 'error' in answer:
        raise RuntimeFailure(str(answer['error'])[:200])
    times = answer.get('ms') if isinstance(answer, dict) else None
    times = times if isinstance(times, list) else [times]
    if not times or not all(type(t) in (int, float) and math.isfinite(t) and t > 0 for t in times):
        raise RuntimeFailure(f'no positive time under "ms": {line.strip()[:80]!r}')
    return float(statistics.median(times))


def _listen(process: 'subprocess.Popen[str]', answers: 'queue.Queue[str | None]') -> None:
    assert process.stdout is not None
    with contextlib.suppress(ValueError):  # closed while reading: nobody waits for an answer any more
        for line in process.stdout:
            answers.put(line)
    answers.put(None)


def _close_quietly(stream: Any) -> None:
    """Close a pipe whose other end may be gone with a line still unsent."""
    with contextlib.suppress(OSError):
        stream.close()
