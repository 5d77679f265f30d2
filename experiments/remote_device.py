"""The command lines of `scripts/time_on_phone` and `scripts/time_over_ssh`: one request in, one answer out."""

import dataclasses
import sys
from pathlib import PurePosixPath

import tyro

from jcw.latency.runtimes import remote


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What both have in common."""

    folder: str = '/data/local/tmp'
    """On the device: where networks go, and where benchmark_model lies."""
    benchmark: str = 'benchmark_model'
    """Path of LiteRT's benchmark_model on the device, from that folder."""
    threads: int = 1
    """Of a call."""
    runs: int = 20
    """Calls that an answer is the median of."""
    warmup_runs: int = 3
    """Untimed calls before them."""
    warmup_seconds: float = 0.0
    """Go on with untimed calls for so long: some seconds time sustained load, 0 times bursts."""
    mask: str | None = None
    """Of cores, hexadecimal, for taskset: f0 for the last four of eight. By default none is set."""
    time_limit: float = 50.0
    """Seconds for a copy or an answer, warm-up not counted."""
    option: tuple[str, ...] = ()
    """Further ones of benchmark_model, such as --use_gpu=true."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phone(Options):
    """A phone over adb."""

    serial: str | None = None
    """Of the phone, as `adb devices` lists it; by default the only one."""

    @property
    def link(self) -> remote.Link:
        return remote.Adb(self.serial)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Board(Options):
    """A board over ssh."""

    host: tyro.conf.Positional[str]
    """user@host, or a name of ~/.ssh/config; it lets us in without a password."""
    folder: str = '/tmp'
    """On the device: where networks go, and where benchmark_model lies."""

    @property
    def link(self) -> remote.Link:
        return remote.Ssh(self.host)


def main(device: type[Phone] | type[Board], description: str | None) -> None:
    """Answer requests from standard input until it ends."""
    options = tyro.cli(device, description=description)
    bench = remote.Bench(
        options.link,
        benchmark=str(PurePosixPath(options.folder) / options.benchmark),
        folder=options.folder,
        threads=options.threads,
        runs=options.runs,
        warmup_runs=options.warmup_runs,
        warmup_s=options.warmup_seconds,
        mask=options.mask,
        options=options.option,
        time_limit_s=options.time_limit,
    )
    for answer in remote.answers(bench, sys.stdin):
        print(answer, flush=True)
