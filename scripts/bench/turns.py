"""Processes that take turns: each does its work when it is asked and sleeps meanwhile, its threads with it.

What is compared so sees the same machine, and no library's threads disturb another's.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from typing import Any


class Worker:
    """A process that calls `serve`; as a context, it is ended on leaving."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def __enter__(self) -> 'Worker':
        return self

    def __exit__(self, *error: object) -> None:
        self._process.stdin.close()
        self._process.wait()

    def ask(self) -> Any:
        """Have the process do its work once, and return its answer."""
        try:
            print(file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ''
        if not line:
            raise SystemExit(f'a process ended instead of answering: {" ".join(self._process.args)}')
        return json.loads(line)


def serve(answers: Iterable[Any]) -> None:
    """Give the next answer, as JSON, for every line that comes in; what libraries print goes elsewhere."""
    out = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    for _, answer in zip(sys.stdin, answers, strict=False):
        print(json.dumps(answer), file=out, flush=True)
