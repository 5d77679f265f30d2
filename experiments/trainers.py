"""Train small networks side by side on a CPU: in processes of their own, each on its share of the cores.

A step of a small network is too short to be divided: on two cores it takes as long as on one, and compiling the next
network meanwhile takes from both (docs/benchmarks.md). So each process compiles and trains a network at a time.
"""

import contextlib
import dataclasses
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import jax

from experiments import launch, progress, train_subnet
from experiments.config import Config
from experiments.locks import if_free
from experiments.run_folder import Usage
from experiments.training import one_ahead
from jcw import data
from jcw.data import mapped
from jcw.graph import Graph, Widths
from jcw.latency.table import flops_table
from jcw.train.loop import Diverged, Interrupted, stop_signals

MOST = 4
"""Processes, where nothing else is said."""
EACH = 4 * 2**30
"""Bytes of memory that each should find free: with 100 classes at 32x32 one takes 3.5 GB, most of it from compiling."""
SMALL = 5e9
"""FLOPs of a step's forward pass below which a network is small."""
PATIENCE_S = 60.0
"""How long a process that is asked to end may take to save."""


def shares_of(config: Config, graph: Graph) -> list[list[int]]:
    """Return the cores of each process; nothing where networks are trained by this one, on all its cores.

    So they are on accelerators, on several devices, in a run of several processes, and where networks are large.
    """
    if jax.default_backend() != 'cpu' or max(jax.device_count(), jax.process_count()) > 1:
        return []
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else []
    wanted = config.launch.trainers
    if wanted is None:
        small = float(flops_table(graph).predict(graph.base)) * config.subnet.batch < SMALL
        wanted = min(MOST, _free_memory() // EACH) if small else 1
    count = min(wanted, len(cores))
    return [cores[first::count] for first in range(count)] if count > 1 else []


def _free_memory() -> int:
    """Return the bytes that processes could still have; where the system does not say, enough for all."""
    try:
        lines = Path('/proc/meminfo').read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith('MemAvailable')).split()[1])
    except (OSError, StopIteration):
        return MOST * EACH


TAKEN = 'another start of this run is at it'
"""Of a training that was left to others."""


class Trained(NamedTuple):
    """What came of a training."""

    widths: Widths
    seed: int
    found: dict[str, Any]  # accuracies and losses; nothing where it failed
    failure: str  # why it diverged, or `TAKEN`; else ''
    seconds: float


class Trainers:
    """Trains networks by one recipe, side by side where that is faster, else one after another in this process.

    At the end of the context what is still being trained is saved and left.
    """

    def __init__(self, config: Config, dataset: data.Dataset, graph: Graph) -> None:
        self._config, self._dataset, self._graph = config, dataset, graph
        self._shares = shares_of(config, graph)
        self._jobs: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._known: dict[tuple[Widths, int], Trained] = {}
        self._added: set[Widths] = set()
        self._processes: list[subprocess.Popen[str]] = []
        self._threads: list[threading.Thread] = []  # one a process, which speaks with it
        self._lock, self._ended = threading.Lock(), False
        self._images = tempfile.TemporaryDirectory(prefix='images-')
        self._mapped = False

    def __enter__(self) -> 'Trainers':
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        with self._lock:
            self._ended = True
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
        for _ in self._threads:
            self._jobs.put({})
        for thread in self._threads:
            thread.join()
        self._images.cleanup()

    def results(
        self, networks: Mapping[Widths, Mapping[int, Path]], title: str, *, shared: bool = False
    ) -> Iterator[Trained]:
        """Train networks with each of their seeds, in a folder each; yield what came of it.

        First comes what is known of networks that were trained before, then the others in their order. Where the work
        is `shared` with other starts of the run, what these are at is left out.

        Raises:
          Usage: a process that trains was refused, or died; another start is at one of the trainings.
          Interrupted: SIGTERM or Ctrl-C.
        """
        for trained in self._results(networks, title):
            if trained.failure != TAKEN:
                yield trained
            elif not shared:
                raise Usage(
                    f'{networks[trained.widths][trained.seed]} is in use: {TAKEN}; wait for it, or end it'
                )

    def _results(self, networks: Mapping[Widths, Mapping[int, Path]], title: str) -> Iterator[Trained]:
        known = [widths for widths, folders in networks.items() if finished(folders.values())]
        left = [widths for widths in networks if widths not in known]
        for widths in known:
            yield from self._in_turn(widths, networks[widths], title)
        if self._shares and len(left) > 1:
            for widths in left:
                self._add(widths, networks[widths])
            yield from self._answered([(widths, seed) for widths in left for seed in networks[widths]], title)
            return
        for widths in one_ahead(left, self._make_ready):
            number = f'{left.index(widths) + 1} of {len(left)}'
            yield from self._in_turn(widths, networks[widths], f'{title} {number}')

    def _in_turn(self, widths: Widths, folders: Mapping[int, Path], title: str) -> Iterator[Trained]:
        for seed, folder in folders.items():
            yield train(
                self._config, self._dataset, self._graph, widths, seed, folder, f'{title}, seed {seed}'
            )

    def _make_ready(self, widths: Widths) -> None:
        train_subnet.make_ready(self._config, self._dataset, self._graph, widths)

    def _add(self, widths: Widths, folders: Mapping[int, Path]) -> None:
        if not self._threads:
            self._mapped = mapped.write(self._dataset, Path(self._images.name))
            self._threads = [threading.Thread(target=self._serve, args=(cores,)) for cores in self._shares]
            for thread in self._threads:
                thread.start()
        if widths not in self._added:
            self._added.add(widths)
            self._jobs.put({'widths': widths, 'folders': {seed: str(path) for seed, path in folders.items()}})

    def _answered(self, trainings: Sequence[tuple[Widths, int]], title: str) -> Iterator[Trained]:
        with progress.bar(f'{title}s', len(trainings)) as update, stop_signals(listen=True) as stopping:
            for training in trainings:
                while training not in self._known:
                    if stopping.is_set():
                        raise Interrupted('stopped, and saved; the same command goes on from there')
                    self._receive()
                    known = [self._known[each] for each in trainings if each in self._known]
                    if known:
                        last = known[-1]
                        update(
                            len(known), last.failure or f'accuracy {last.found["validation_accuracy"]:.0%}'
                        )
                yield self._known[training]

    def _receive(self) -> None:
        try:
            answer = self._answers.get(timeout=0.2)
        except queue.Empty:
            return
        if 'error' in answer:
            raise Usage(answer['error'])
        trained = Trained(**answer)._replace(widths=tuple(answer['widths']))
        self._known[trained.widths, trained.seed] = trained

    def _serve(self, cores: list[int]) -> None:
        """Give a process one network after another; it is started with the first."""
        with contextlib.ExitStack() as stack:
            process: subprocess.Popen[str] | None = None
            while (job := self._jobs.get()) and not self._ended:
                try:
                    process = process or stack.enter_context(self._started(cores))
                    self._ask(process, job)
                except (OSError, ValueError):
                    status = '' if process is None else f' with status {process.wait()}'
                    self._answers.put(
                        {'error': f'a process that trains networks ended{status}; its words are above'}
                    )
                    return

    def _ask(self, process: 'subprocess.Popen[str]', job: dict[str, Any]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        print(json.dumps(job), file=process.stdin, flush=True)
        for _ in job['folders']:
            self._answers.put(json.loads(process.stdout.readline()))

    def _started(self, cores: list[int]) -> 'subprocess.Popen[str]':
        with self._lock:
            if self._ended:
                raise ValueError('nothing is trained any more')
            process = subprocess.Popen(
                [sys.executable, '-m', 'experiments.training_process'],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,  # Ctrl-C is this process's to pass on
            )
            self._processes.append(process)
        assert process.stdin is not None
        images = self._images.name if self._mapped else None
        request = {'config': dataclasses.asdict(self._config), 'cores': cores, 'images': images}
        print(json.dumps(request, default=str), file=process.stdin, flush=True)
        return process


def finished(folders: Iterable[Path]) -> bool:
    """Return whether all trainings of a network are known; of several processes the first one says so."""
    return launch.first_says(all((folder / 'result.json').exists() for folder in folders))


def train(
    config: Config, dataset: data.Dataset, graph: Graph, widths: Widths, seed: int, folder: Path, title: str
) -> Trained:
    """Train a network once, in this process, unless another one is at it."""
    found, failure, began = {}, '', time.monotonic()
    with if_free(folder / 'taken.lock') as free:
        try:
            if free or jax.process_count() > 1:
                found = train_subnet.train(config, dataset, graph, widths, folder, title, seed)
            else:
                failure = TAKEN
        except Diverged as error:
            failure = str(error)
    return Trained(widths, seed, found, failure, time.monotonic() - began)
