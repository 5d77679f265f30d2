"""Time the best candidates on the device, correct the table and search again, until the measured latency holds.

What joint search returns was measured, some standard errors included, to lie within the budget, and no candidate
is left that the corrected table puts within it and that would be better. The baselines are brought to hold the same
measured budget: each is asked for the network of a budget corrected by how much slower its last one was than
predicted, until that network has been timed.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import progress
from experiments.config import Config
from experiments.measure_latency import time_networks
from experiments.presets import parse
from experiments.run_folder import Usage, claim, read_json, save_json, space_of
from experiments.search_widths import field_of, folder_of, losses_of, search, slim
from experiments.train_supernet import Supernet, train
from experiments.training import load_data
from jcw import data
from jcw.field import Field
from jcw.latency.table import LatencyTable
from jcw.search import baselines
from jcw.search import repair as measured
from jcw.space import SearchSpace

Widths = tuple[int, ...]
At = Callable[[float], np.ndarray]
"""From a budget in ms to choices; ValueError where nothing is so small."""
SAMPLES = 'repair.jsonl'


def repair(
    config: Config, dataset: data.Dataset, space: SearchSpace, table: LatencyTable, supernet: Supernet
) -> dict[str, Any]:
    """Return what `search` does, every method's widths as they hold the measured budget, and the rounds it took."""
    found = search(config, dataset, space, table, supernet)
    settings = config.repair
    if not settings.rounds:
        return found
    folder = claim(folder_of(config) / 'repair', repair=settings)
    if (folder / 'result.json').exists():
        return read_json(folder / 'result.json')
    losses = losses_of(config, dataset, space, supernet)
    at = {
        'uniform': lambda limit: baselines.uniform(space, table.to_cost(), limit),
        'greedy': lambda limit: slim(config, space, table, losses, limit),
    }
    held = hold(
        config,
        space,
        table,
        found['budget_ms'],
        {'joint': field_of(config, supernet, space)},
        {name: choose for name, choose in at.items() if name in found['methods']},
    )
    result = {
        **found,
        'methods': held.methods,
        'rounds': [timed._asdict() for timed in held.rounds['joint']],
        'confidence': settings.confidence,
    }
    save_json(folder / 'result.json', result)
    return read_json(folder / 'result.json')


class Held(NamedTuple):
    """Networks that hold a measured budget, by method, and what was timed to find those of joint search."""

    methods: dict[str, dict[str, Any]]
    rounds: dict[str, tuple[measured.Round, ...]]


def hold(
    config: Config,
    space: SearchSpace,
    table: LatencyTable,
    budget_ms: float,
    fields: dict[str, Field],
    at: 'dict[str, At]',
) -> Held:
    """Find every method's network within the measured budget.

    Args:
      fields: by method, the accuracy field that joint search maximises.
      at: by baseline, what it chooses for a budget in predicted milliseconds; it must have something for this one.
    """
    settings = config.repair
    others = [
        Baseline(name, choose, space, table, budget_ms, settings.confidence) for name, choose in at.items()
    ]
    bench = Bench(config, space, others)
    found = {
        name: measured.repair(
            space,
            field,
            table.to_cost(),
            budget_ms,
            bench,
            k=settings.candidates,
            max_rounds=settings.rounds,
            confidence=settings.confidence,
        )
        for name, field in fields.items()
    }
    while bench.calls < settings.rounds and any(other.wanted is not None for other in others):
        bench(np.zeros((0, space.num_layers), np.int32))
    methods = {name: _searched(each) for name, each in found.items()}
    methods |= {other.name: other.result() for other in others}
    return Held(methods, {name: each.rounds for name, each in found.items()})


def _searched(found: measured.Repaired) -> dict[str, Any]:
    return {
        'widths': found.widths,
        'ms': found.predicted,
        'measured_ms': found.measured,
        'measured_error': found.error,
        'holds': found.feasible,
        'complete': found.complete,
        'rounds': len(found.rounds),
        'timed': sum(len(timed.widths) for timed in found.rounds),
    }


class Bench:
    """Times networks of joint search's rounds and, in the same call, what the baselines want timed."""

    def __init__(self, config: Config, space: SearchSpace, others: 'list[Baseline]') -> None:
        self.calls = 0
        self._config, self._space, self._others = config, space, others

    def __call__(self, networks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return measured latency, ms, and its relative standard error."""
        self.calls += 1
        asked = [(other, other.wanted) for other in self._others if other.wanted is not None]
        wanted: list[Widths] = [*map(tuple, networks.tolist()), *(widths for _, widths in asked)]
        path = self._config.run / 'latency' / SAMPLES
        title = f'Timing candidates, round {self.calls}'
        read = time_networks(self._config, self._space, wanted, path, title)
        times = {sample.widths: sample for sample in read.timed}
        for widths in wanted:
            if widths not in times:
                reasons = [sample.failure for sample in read.samples if sample.widths == widths]
                raise Usage(
                    f'network {list(widths)} could not be timed: {"; ".join(reasons)}; '
                    f'remove its lines from {path} to try again'
                )
        for other, widths in asked:
            other.tell(widths, times[widths].ms, times[widths].error)
        rows = [times[widths] for widths in wanted[: len(networks)]]
        return np.array([row.ms for row in rows]), np.array([row.error for row in rows])


class Baseline:
    """A method that answers a budget with widths, asked again with corrected budgets until its network holds.

    Attributes:
      name: of the method.
      wanted: the network to time next, None when nothing is left to try.
    """

    def __init__(
        self,
        name: str,
        at: At,
        space: SearchSpace,
        table: LatencyTable,
        budget_ms: float,
        confidence: float,
    ) -> None:
        self.name = name
        self._at, self._space, self._table = at, space, table
        self._budget, self._confidence = budget_ms, confidence
        self.wanted: Widths | None = self._widths_at(budget_ms)
        self._timed: dict[Widths, tuple[float, float]] = {}

    def tell(self, widths: Widths, ms: float, error: float) -> None:
        """Take the time of the wanted network, and choose the next."""
        self._timed[widths] = (ms, error)
        slower = self._upper(widths) / self._predicted(widths)
        try:
            following = self._widths_at(self._budget / slower)
        except ValueError:  # the method has no network so small
            following = widths
        self.wanted = None if following in self._timed else following

    def result(self) -> dict[str, Any]:
        """Return the greatest network that held the budget, or the fastest if none did."""
        holding = [widths for widths in self._timed if self._upper(widths) <= self._budget]
        widths = max(holding, key=self._predicted) if holding else min(self._timed, key=self._upper)
        ms, error = self._timed[widths]
        return {
            'widths': widths,
            'ms': self._predicted(widths),
            'measured_ms': ms,
            'measured_error': error,
            'holds': bool(holding),
            'complete': self.wanted is None,
            'rounds': len(self._timed),
            'timed': len(self._timed),
        }

    def _widths_at(self, limit: float) -> Widths:
        return tuple(int(w) for w in self._space.to_widths(self._at(limit)))

    def _upper(self, widths: Widths) -> float:
        ms, error = self._timed[widths]
        return ms * (1 + self._confidence * error)

    def _predicted(self, widths: Widths) -> float:
        return float(self._table.predict(widths))


def result_file(config: Config) -> Path:
    """Return where the networks are written that are to be trained: those repaired, or as searched."""
    folder = folder_of(config)
    return (folder / 'repair' if config.repair.rounds else folder) / 'result.json'


def describe(result: dict[str, Any]) -> str:
    """Say in a line or two how prediction, measurement and budget of the joint network compare."""
    joint = result['methods']['joint']
    if 'measured_ms' not in joint:
        return f'joint: predicted {joint["ms"]:.3f} ms, budget {result["budget_ms"]:.3f} ms, not repaired'
    times = 'round' if joint['rounds'] == 1 else 'rounds'
    holds = 'holds' if joint['holds'] else 'does not hold'
    left = 'no better candidate is left' if joint['complete'] else 'better candidates were left untimed'
    return (
        f'joint: predicted {joint["ms"]:.3f} ms, measured {joint["measured_ms"]:.3f} ms '
        f'± {joint["measured_error"]:.1%}, budget {result["budget_ms"]:.3f} ms; it {holds} the budget with '
        f'{result["confidence"]:g} standard errors to spare, after {joint["rounds"]} {times} '
        f'({joint["timed"]} networks timed); {left}'
    )


def main(config: Config) -> None:
    dataset = load_data(config)
    space = space_of(config, dataset)
    path = config.run / 'latency' / 'table.json'
    if not (folder_of(config) / 'result.json').exists() or not path.exists():
        raise Usage(f'{folder_of(config)} holds no widths: run experiments.search_widths first')
    result = repair(config, dataset, space, LatencyTable.load(path), train(config, dataset, space))
    progress.console.print(describe(result), highlight=False)
    for name, found in result['methods'].items():
        progress.console.print(f'{name:8} {found["ms"]:.3f} ms predicted  {found["widths"]}', highlight=False)


if __name__ == '__main__':
    from experiments.run_folder import run_stage

    run_stage(main, parse(__doc__), keep_freed=True)
