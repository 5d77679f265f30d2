"""Anything that answers: a user's own program, kept running, one JSON line in and one out."""

import json
import math
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jcw import records
from jcw.latency.runtimes.interface import RuntimeFailure
from jcw.latency.runtimes.lines import Lines

Export = Callable[[Sequence[int]], bytes]

LEAST_MS, MOST_MS = 1e-9, 1e9
"""Of an answer: beyond them ratios to the reference leave the range of numbers."""


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

    The program reads lines `{"id": 1, "widths": [...], "network": "/path"}`, with further `facts` where there are any,
    and answers each with one line: `{"ms": 3.1}`, `{"ms": [3.1, 3.2]}` for several calls, or `{"error": "why not"}`. It
    may repeat the id, so that no answer passes for that of another question. Every answer should be one measurement:
    repeats are asked for by repeating the line, alternating with the reference's.

    The program is started when first needed. If it ends, stays silent longer than `time_limit_s`, says something
    unasked, or answers anything else, the timing fails with that reason, the program is ended with all processes that
    it has started, and started anew for the next.

    Args:
      command: the program and its arguments.
      device: the device in full.
      time_limit_s: for one answer, s.
      export: from widths to the bytes of a file that the program wants; without it there is no "network".
      suffix: of that file's name.
      facts: that every line states besides, JSON values: the batch, the file of the graph.
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
        facts: Mapping[str, Any] | None = None,
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
        self._facts = dict(facts or {})
        self._program: Lines | None = None
        self._asked = 0

    def open(self, widths: Sequence[int]) -> CommandProgram:
        request: dict[str, Any] = {'widths': list(widths), **self._facts}
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
        self._asked += 1
        try:
            self._program = self._program or Lines(self._command)
            line = json.dumps({'id': self._asked, **request})
            return read_answer(self._program.ask(line, self._time_limit_s), self._asked)
        except RuntimeFailure:
            self.close()
            raise

    def close(self) -> None:
        """End the program."""
        if self._program is not None:
            self._program.close()
            self._program = None


def read_answer(line: bytes | str, number: int | None = None) -> float:
    """Read milliseconds from one line of JSON.

    Raises:
      RuntimeFailure: an error was reported, the answer names another question than `number`, or is none.
    """
    shown = repr((line if isinstance(line, str) else line.decode(errors='replace')).strip()[:80])
    try:
        answer = records.parse(line, finite=False)
    except ValueError as error:
        raise RuntimeFailure(f'not a line of JSON: {shown} ({error})') from None
    if isinstance(answer, dict) and 'error' in answer:
        raise RuntimeFailure(str(answer['error'])[:200])
    if isinstance(answer, dict) and answer.get('id', number) != number:
        raise RuntimeFailure(f'answered question {answer["id"]!r} instead of {number}'[:200])
    times = answer.get('ms') if isinstance(answer, dict) else None
    times = times if isinstance(times, list) else [times]
    if not times or not all(type(t) in (int, float) and math.isfinite(t) and t > 0 for t in times):
        raise RuntimeFailure(f'no positive time under "ms": {shown}')
    if not LEAST_MS <= min(times) <= max(times) <= MOST_MS:
        raise RuntimeFailure(f'no time of a network, from {LEAST_MS:g} to {MOST_MS:g} ms: {shown}')
    return float(statistics.median(times))
