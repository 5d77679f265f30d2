"""Time networks on a device over adb or ssh: what a program of runtime `command` does with each line it is asked.

The network's file is copied to the device once; LiteRT's own `benchmark_model`, which lies there already, times it anew
in each request. Whatever goes wrong is an answer with its reason, so that one network is lost and not the run.
"""

import collections
import dataclasses
import hashlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Protocol, runtime_checkable

from jcw.latency.runtimes.interface import RuntimeFailure

KEPT = 16  # networks that stay on the device: those that are timed in turn, and the reference


@runtime_checkable
class Link(Protocol):
    """A way to a device."""

    def push(self, local: Path, remote: str, time_limit_s: float) -> None:
        """Copy a file to the device, whole or not at all."""

    def run(self, command: Sequence[str], time_limit_s: float) -> str:
        """Run a command there and return what it printed."""


@dataclasses.dataclass(frozen=True)
class Adb:
    """A phone, by its serial number or the only one.

    Attributes:
      serial: of the phone, as `adb devices` lists it.
      program: adb itself.
    """

    serial: str | None = None
    program: str = 'adb'

    def push(self, local: Path, remote: str, time_limit_s: float) -> None:
        call([*self._adb(), 'push', str(local), f'{remote}.partial'], time_limit_s)
        self.run(['mv', f'{remote}.partial', remote], time_limit_s)

    def run(self, command: Sequence[str], time_limit_s: float) -> str:
        return call([*self._adb(), 'shell', shlex.join(command)], time_limit_s)

    def _adb(self) -> list[str]:
        return [self.program, *(['-s', self.serial] if self.serial else [])]


@dataclasses.dataclass(frozen=True)
class Ssh:
    """A board that lets us in without a password.

    Attributes:
      host: `user@host`, or a name of `~/.ssh/config`.
      program: ssh itself.
    """

    host: str
    program: str = 'ssh'

    def push(self, local: Path, remote: str, time_limit_s: float) -> None:
        part, whole = shlex.quote(f'{remote}.partial'), shlex.quote(remote)
        with local.open('rb') as content:
            call([*self._ssh(), f'cat > {part} && mv {part} {whole}'], time_limit_s, content)

    def run(self, command: Sequence[str], time_limit_s: float) -> str:
        return call([*self._ssh(), shlex.join(command)], time_limit_s)

    def _ssh(self) -> list[str]:
        return [self.program, '-o', 'BatchMode=yes', '-o', 'ConnectTimeout=10', self.host]


@dataclasses.dataclass
class Bench:
    """What times networks on a device.

    Attributes:
      link: to the device.
      benchmark: path of LiteRT's benchmark_model there.
      folder: there, for networks.
      threads: of a call.
      runs: calls that an answer is the median of.
      warmup_runs: calls before them.
      warmup_s: go on with calls before them for so long, s: 0 times bursts on a device that has rested between
        requests, some seconds time sustained load, after which a phone has lowered its clock.
      mask: of cores, hexadecimal, for taskset; by default none is set.
      options: further ones of benchmark_model, such as `--use_gpu=true`.
      time_limit_s: for a copy or an answer, s.
    """

    link: Link
    benchmark: str
    folder: str
    threads: int = 1
    runs: int = 20
    warmup_runs: int = 3
    warmup_s: float = 0.0
    mask: str | None = None
    options: Sequence[str] = ()
    time_limit_s: float = 50.0

    def __post_init__(self) -> None:
        self._pushed: collections.OrderedDict[str, str] = collections.OrderedDict()

    def time_ms(self, network: Path) -> float:
        """Time a network, ms.

        Raises:
          RuntimeFailure: it did not get there, or benchmark_model did not say how long it takes.
        """
        output = self.link.run(self._command(self._there(network)), self.warmup_s + self.time_limit_s)
        return parse(output)

    def _command(self, graph: str) -> list[str]:
        return [
            *(['taskset', self.mask] if self.mask else []),
            self.benchmark,
            f'--graph={graph}',
            f'--num_threads={self.threads}',
            f'--num_runs={self.runs}',
            '--min_secs=0',
            f'--warmup_runs={self.warmup_runs}',
            f'--warmup_min_secs={self.warmup_s:g}',
            *self.options,
        ]

    def _there(self, network: Path) -> str:
        """Return the network's path on the device; it is copied if it is not there, the oldest one making room."""
        try:
            content = network.read_bytes()
        except OSError as error:
            raise RuntimeFailure(f'cannot read the network: {error}') from None
        digest = hashlib.sha256(content).hexdigest()[:16]
        remote = self._pushed.get(digest, f'{self.folder}/jcw-{digest}.tflite')
        if not self._pushed:  # what a program left there that was killed
            left = f'rm -f {shlex.quote(self.folder)}/jcw-*.tflite*'
            self.link.run(['sh', '-c', left], self.time_limit_s)
        if digest not in self._pushed:
            self.link.push(network, remote, self.time_limit_s)
        self._pushed[digest] = remote
        self._pushed.move_to_end(digest)
        if len(self._pushed) > KEPT:
            _, oldest = self._pushed.popitem(last=False)
            self.link.run(['rm', '-f', oldest], self.time_limit_s)
        return remote

    def close(self) -> None:
        """Remove the networks from the device, if it can be reached."""
        if self._pushed:
            try:
                self.link.run(['rm', '-f', *self._pushed.values()], self.time_limit_s)
            except RuntimeFailure as failure:
                print(f'networks stay on the device: {failure}', file=sys.stderr)


def answers(bench: Bench, lines: Iterable[str]) -> Iterator[str]:
    """Yield one line for each line of requests, until there are no more."""
    for line in lines:
        try:
            answer: dict[str, float | str] = {'ms': bench.time_ms(_network(line))}
        except RuntimeFailure as failure:
            answer = {'error': str(failure)}
        yield json.dumps(answer)
    bench.close()


def _network(line: str) -> Path:
    try:
        return Path(json.loads(line)['network'])
    except (ValueError, TypeError, KeyError):
        raise RuntimeFailure(
            'the request names no file: set --latency.command-format to tflite or int8'
        ) from None


def parse(output: str) -> float:
    """Read the milliseconds of a call from what benchmark_model printed: the median where it is told, or the mean.

    Raises:
      RuntimeFailure: there is no time; its last words are the reason.
    """
    number = r'([0-9.]+(?:e[+-]?[0-9]+)?)\b'
    counted = re.findall(rf'count=\d+ first=.*?\bmedian={number}', output)
    averages = re.findall(rf'Inference \(avg\): {number}', output)
    if not averages:  # without it, what was counted may be the warm-up
        raise RuntimeFailure(f'benchmark_model told no time: {last_words(output)}')
    try:
        milliseconds = float((counted or averages)[-1]) / 1000
    except ValueError:
        milliseconds = 0.0
    if not milliseconds > 0:
        raise RuntimeFailure(f'benchmark_model told no positive time: {last_words(output)}')
    return milliseconds


def last_words(output: str) -> str:
    """Return the last line that says anything."""
    said = [line.strip() for line in output.splitlines() if line.strip()]
    return said[-1][:160] if said else 'it said nothing'


def call(command: Sequence[str], time_limit_s: float, content: int | IO[bytes] = subprocess.DEVNULL) -> str:
    """Run a program on this machine, away from our own standard input, which it would read requests from.

    Raises:
      RuntimeFailure: it does not exist, takes too long or fails.
    """
    try:
        done = subprocess.run(
            list(command),
            stdin=content,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=time_limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeFailure(f'{command[0]}: no answer within {time_limit_s:g} s') from None
    except OSError as error:
        raise RuntimeFailure(f'could not start {command[0]}: {error}') from None
    output: str = done.stdout.decode(errors='replace')
    if done.returncode:
        raise RuntimeFailure(f'{command[0]} failed with status {done.returncode}: {last_words(output)}')
    return output
