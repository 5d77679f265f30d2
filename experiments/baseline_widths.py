"""What the baselines choose: the uniform network, and greedy slimming by the supernet's losses, kept in a file."""

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from experiments import progress, spent
from experiments.config import Config
from experiments.limits import limits_of
from experiments.paths import paths
from experiments.run_folder import Usage
from experiments.subnet_loss import SubnetLoss
from experiments.train_supernet import Supernet
from jcw import data, records
from jcw.graph import Graph
from jcw.latency.table import LatencyTable
from jcw.search import baselines, greedy

AT_ONCE = 2
"""Subnets whose losses are computed at a time: a narrow one's operations are too short to be divided among cores."""

At = Callable[[float], np.ndarray]
"""From a budget in ms to choices; ValueError where nothing is so small."""


def baselines_of(
    config: Config, dataset: data.Dataset, graph: Graph, table: LatencyTable, supernet: Supernet
) -> dict[str, At]:
    """Return what the baselines choose at a budget in ms."""
    losses, cost = losses_of(config, dataset, graph, supernet), table.to_cost()
    limits = limits_of(config, graph)
    return {
        'uniform': lambda limit: baselines.uniform(graph, cost, limit, limits),
        'greedy': lambda limit: slim(config, graph, table, losses, limit),
    }


def within_reach(baselines: Mapping[str, At], limit: float, say: bool = False) -> dict[str, np.ndarray]:
    """Return what the baselines choose; without those that have no network within the budget, ms, which may be said."""
    found = {}
    for name, choose in baselines.items():
        try:
            found[name] = choose(limit)
        except ValueError as error:
            if say:
                progress.console.print(f'{name} is left out: {error}', highlight=False)
    return found


def slim(
    config: Config,
    graph: Graph,
    table: LatencyTable,
    loss: Callable[[np.ndarray], float],
    limit: float,
) -> np.ndarray:
    """Slim greedily to the limit; the way down to a lower limit goes on from there, every loss remembered."""
    limits, latency = limits_of(config, graph), table.to_cost()
    begin, steps = 0.0, 0

    def cost(choices: np.ndarray) -> float:
        return limit * float(limits.shares(latency, limit, choices[None])[0])

    with (
        spent.on(config.run, 'greedy slimming'),
        progress.bar('Greedy slimming', 100) as update,
        ThreadPoolExecutor(AT_ONCE) as pool,
    ):

        def report(step: greedy.Step) -> None:
            nonlocal begin, steps
            begin, steps = max(begin, step.cost), steps + 1
            done = (begin - step.cost) / max(begin - limit, 1e-9)
            update(min(int(100 * done), 100), f'{step.cost:.3f} ms, loss {step.loss:.3f}, {steps} steps')

        way = greedy.slim(
            graph,
            loss,
            cost,
            limit,
            per_cost=config.search.greedy_per_ms,
            present=limits.present,
            report=report,
            over=pool.map,
        )
    return np.asarray(way[-1].choices)


def losses_of(config: Config, dataset: data.Dataset, graph: Graph, supernet: Supernet) -> 'Losses':
    """Return the loss of the supernet's subnets on validation images, by choices, remembered beside the supernet."""
    images = config.search.greedy_images
    if images < 1:
        raise Usage(f'search.greedy_images must be positive, got {images}')
    measure = SubnetLoss(config, dataset, graph, supernet.variables, images)
    path = paths(config).supernet / f'losses_{images}.jsonl'
    return Losses(path, lambda choices: float(measure(graph.to_widths(choices)).loss))


class Losses:
    """A loss function that remembers, in a file of JSON lines, what it has been asked."""

    def __init__(self, path: Path, loss: Callable[[np.ndarray], float]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._loss, self._writing = path, loss, threading.Lock()
        text = records.read(path) if path.exists() else b''
        whole = text[: text.rfind(b'\n') + 1]
        if whole != text:
            os.truncate(path, len(whole))  # a line that was being written when the process died
        self._known = dict(self._read(whole.split(b'\n')[:-1]))

    def __len__(self) -> int:
        return len(self._known)

    def __call__(self, choices: np.ndarray) -> float:
        key = tuple(int(c) for c in choices)
        if key not in self._known:
            value = float(self._loss(choices))
            if not np.isfinite(value):
                raise Usage(
                    f'the validation loss of the subnet of choices {list(key)} is {value}: nothing to search by'
                )
            with self._writing, self._path.open('a') as file:
                self._known[key] = value
                file.write(json.dumps(records.summed({'choices': key, 'loss': value})) + '\n')
        return self._known[key]

    def _read(self, lines: list[bytes]) -> Iterator[tuple[tuple[int, ...], float]]:
        """Yield what the lines remember; what a damaged one did is asked for again."""
        for number, line in enumerate(lines, 1):
            try:
                record = records.checked(records.parse(line))
                known = tuple(map(int, record['choices'])), float(record['loss'])
            except (ValueError, TypeError, KeyError) as error:
                progress.console.print(f'{self._path}, line {number} is damaged ({error}): taken anew')
                continue
            yield known
