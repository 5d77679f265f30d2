"""Train small networks side by side on a CPU: in processes of their own, each on its share of the cores.

A step of a small network is too short to be divided: on two cores it takes as long as on one, and compiling the next
network meanwhile takes from both (docs/benchmarks.md). So each process compiles and trains a network at a time.
"""

import contextlib
import dataclasses
import functools
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments import launch, progress, train_subnet, train_supernet
from experiments.config import Config
from experiments.locks import if_free
from experiments.paths import paths
from experiments.run_folder import Usage, read_json, save_json
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
CGROUP = Path('/sys/fs/cgroup')
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
    """Return the bytes that processes could still have, here and within a container's limit."""
    try:
        lines = dict(line.split(':') for line in Path('/proc/meminfo').read_text().splitlines())
        free = 1024 * int(lines['MemAvailable'].split()[0])
    except (OSError, ValueError, KeyError):
        return MOST * EACH
    with contextlib.suppress(OSError, ValueError):  # no such limit, or 'max'
        limit, used = (int((CGROUP / f'memory.{each}').read_text()) for each in ('max', 'current'))
        free = min(free, max(limit - used, 0))
    return free


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
        self._processes: list[subprocess.Popen[str]] = []
        self._threads: list[threading.Thread] = []  # one a process, which speaks with it
        self._lock, self._ended = threading.Lock(), False
        self._images = tempfile.TemporaryDirectory(prefix='images-')
        self._request: dict[str, Any] = {}

    def __enter__(self) -> 'Trainers':
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._ended = True
        for _thread in self._threads:
            self._jobs.put({})
        until = time.monotonic() + PATIENCE_S
        try:
            for process in self._processes:
                _close(process)
            for process in self._processes:
                process.wait(max(until - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            pass
        finally:  # also of a second Ctrl-C
            for process in self._processes:
                process.kill()
            for thread in self._threads:
                thread.join(PATIENCE_S)
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
                folder = networks[trained.widths][trained.seed]
                lock = folder / 'training.lock'
                who = lock.read_text().strip() if lock.exists() else ''
                raise Usage(f'{folder} is in use: {who or TAKEN}; wait for it, or end it')

    def _results(self, networks: Mapping[Widths, Mapping[int, Path]], title: str) -> Iterator[Trained]:
        known = [widths for widths, folders in networks.items() if finished(folders.values())]
        left = [widths for widths in networks if widths not in known]
        for widths in known:
            yield from self._in_turn(widths, networks[widths], title)
        if self._shares and len(left) > 1:
            yield from self._side_by_side({widths: networks[widths] for widths in left}, title)
            return
        make_ready = functools.partial(train_subnet.make_ready, self._config, self._dataset, self._graph)
        for widths in one_ahead(left, make_ready) if jax.process_count() == 1 else left:
            number = f'{left.index(widths) + 1} of {len(left)}'
            yield from self._in_turn(widths, networks[widths], f'{title} {number}')

    def _in_turn(self, widths: Widths, folders: Mapping[int, Path], title: str) -> Iterator[Trained]:
        for seed, folder in folders.items():
            said = f'{title}, seed {seed}'
            yield train(self._config, self._dataset, self._graph, widths, seed, folder, said)

    def _side_by_side(self, networks: Mapping[Widths, Mapping[int, Path]], title: str) -> Iterator[Trained]:
        self._begin()
        for widths, folders in networks.items():
            paths = {int(seed): str(path.absolute()) for seed, path in folders.items()}
            self._jobs.put({'widths': [int(width) for width in widths], 'folders': paths})
        trainings = [(widths, seed) for widths in networks for seed in networks[widths]]
        done = 0
        with progress.bar(f'{title}s', len(trainings)) as update, stop_signals(listen=True) as stopping:
            for training in trainings:
                while training not in self._known:
                    if stopping.is_set():
                        raise _stopped()
                    last = self._receive(stopping)
                    done += last is not None
                    if last is not None:
                        update(done, last.failure or f'accuracy {last.found["validation_accuracy"]:.0%}')
                yield self._known.pop(training)
            if stopping.is_set():
                raise _stopped()

    def _receive(self, stopping: threading.Event) -> Trained | None:
        """Return what came of a training, once it is known; nothing where nothing happens for a while."""
        try:
            answer = self._answers.get(timeout=0.2)
        except queue.Empty:
            return None
        if 'error' in answer:
            if stopping.wait(1):  # all processes may have been told to end, this one the last
                raise _stopped()
            raise Usage(answer['error'])
        trained = Trained(**answer)._replace(widths=tuple(answer['widths']))
        self._known[trained.widths, trained.seed] = trained
        return trained

    def _begin(self) -> None:
        """Have what processes need to know ready, and a thread for each of them."""
        if self._threads:
            return
        if self._config.subnet.from_supernet:  # or each process would train it
            train_supernet.train(self._config, self._dataset, self._graph)
        images = self._images.name if mapped.write(self._dataset, Path(self._images.name)) else None
        config = json.loads(json.dumps(dataclasses.asdict(self._config), default=str))
        self._request = {'config': config, 'graph': self._graph.to_json(), 'images': images}
        self._threads = [
            threading.Thread(target=self._serve, args=(cores,), daemon=True) for cores in self._shares
        ]
        for thread in self._threads:
            thread.start()

    def _serve(self, cores: list[int]) -> None:
        """Give a process one network after another; it is started with the first."""
        process: subprocess.Popen[str] | None = None
        try:
            while (job := self._jobs.get()) and not self._ended:
                if process is None:
                    process = self._started()
                    _say(process, {**self._request, 'cores': cores})
                _say(process, job)
                assert process.stdout is not None
                for _ in job['folders']:
                    self._answers.put(json.loads(process.stdout.readline()))
        except Exception as error:
            self._answers.put({'error': f'a process that trains networks {_end_of(process, error)}'})
        finally:
            if process is not None:
                _close(process)
                process.wait()
                assert process.stdout is not None
                process.stdout.close()

    def _started(self) -> 'subprocess.Popen[str]':
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
        return process


def _say(process: 'subprocess.Popen[str]', words: dict[str, Any]) -> None:
    assert process.stdin is not None
    print(json.dumps(words), file=process.stdin, flush=True)


def _close(process: 'subprocess.Popen[str]') -> None:
    """Let a process know that nothing is wanted of it any more: it saves, and ends."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()


def _end_of(process: 'subprocess.Popen[str] | None', error: Exception) -> str:
    if process is None:
        return f'could not be started: {error}'
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(1)
    if process.poll() is None:
        process.kill()
        return f'answered nonsense: {error}'
    if process.returncode == -signal.SIGKILL:
        return 'was killed, as for lack of memory: --launch.trainers 1 trains in this process alone'
    return f'ended with status {process.returncode}; its words are above'


def _stopped() -> Interrupted:
    return Interrupted('stopped, and saved; the same command goes on from there')


def finished(folders: Iterable[Path]) -> bool:
    """Return whether all trainings of a network are known; of several processes the first one says so."""
    return launch.first_says(all((folder / 'result.json').exists() for folder in folders))


def train_all(
    config: Config,
    dataset: data.Dataset,
    graph: Graph,
    networks: Mapping[Widths, Mapping[int, Path]],
    *,
    shared: bool = False,
) -> dict[Widths, list[dict[str, Any]]]:
    """Train networks with each of their seeds, in a folder each; return what is known of each, by seed.

    Where the work is `shared`, networks that other starts of the run are still at are left out.

    Raises:
      Diverged: one of them did.
    """
    with Trainers(config, dataset, graph) as trainers:
        for trained in trainers.results(networks, 'Network', shared=shared):
            if trained.failure:
                raise Diverged(trained.failure)
    return {
        widths: [read_json(folder / 'result.json', *train_subnet.TESTED) for folder in folders.values()]
        for widths, folders in networks.items()
        if finished(folders.values())
    }


def train_finals(
    config: Config,
    dataset: data.Dataset,
    graph: Graph,
    networks: Iterable[Widths],
    seeds: Sequence[int],
    *,
    shared: bool = False,
) -> dict[Widths, list[dict[str, Any]]]:
    """Do what `train_all` does, in the folders of final networks, which whoever finds them shares."""
    folders = {widths: {seed: paths(config).trained(widths, seed) for seed in seeds} for widths in networks}
    return train_all(config, dataset, graph, folders, shared=shared)


def train(
    config: Config, dataset: data.Dataset, graph: Graph, widths: Widths, seed: int, folder: Path, title: str
) -> Trained:
    """Train a network once, in this process, unless another one is at it; what it took is kept beside it."""
    found, failure, began = {}, '', time.monotonic()
    result, took = folder / 'result.json', folder / 'seconds.json'
    known = result.exists()
    with if_free(folder / 'taken.lock') as free:
        try:
            if free or jax.process_count() > 1 or result.exists():
                found = train_subnet.train(config, dataset, graph, widths, folder, title, seed)
            else:
                failure = TAKEN
        except Diverged as error:
            failure = str(error)
    seconds = time.monotonic() - began
    if known and took.exists():
        seconds = float(read_json(took, 'seconds')['seconds'])
    elif found and not known:
        save_json(took, {'seconds': seconds})
    return Trained(widths, seed, found, failure, seconds)
