"""Train a few networks briefly, fit the accuracy field to them, and choose the next where the field may be best.

In rounds: exact optima, under the budgets and the latency table, of draws from what is believed of the field (Thompson
sampling) are timed; those that hold their budget as measured are trained; then both tables are corrected. It ends when
no draw has a new optimum, or the trainings are used up.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import pictures, progress, proposals, spent
from experiments.baseline_widths import baselines_of
from experiments.budget import budgets_ms, describe, load_table
from experiments.config import Config, SubnetConfig
from experiments.limits import limits_of, stated
from experiments.locks import exclusive
from experiments.paths import paths
from experiments.run_folder import Usage, claim, read_json, save_json
from experiments.space import graph_of, settings_of
from experiments.start import recorded
from experiments.train_supernet import Supernet, train
from experiments.trainers import Trained, Trainers
from experiments.training import load_data
from jcw import data
from jcw.accuracy import design, prior, report, samples
from jcw.accuracy.table import UNITS, AccuracyTable, untrained
from jcw.graph import Graph, Widths
from jcw.latency.table import LatencyTable, flops_table
from jcw.search import baselines, stats


def fit(config: Config, dataset: data.Dataset, graph: Graph, table: LatencyTable) -> AccuracyTable:
    """Train what is missing and fit; read back where that was done."""
    where = paths(config)
    limits = budgets_ms(config, table)
    claim(
        where.accuracy,
        data=config.data,
        space=settings_of(config, graph),
        supernet=recorded(config, graph),
        subnet=config.subnet,
        accuracy=config.accuracy,
        budgets=config.accuracy.budgets or config.search.budget_ms or config.search.budget,
        also=stated(config),
        seed=config.seed,
    )
    path = where.accuracy / 'table.json'
    if not path.exists():
        with Trainers(_short(config), dataset, graph) as trainers:
            trainings = Trainings(config, dataset, graph, trainers)
            found = _rounds(config, dataset, graph, table, limits, trainings)
        found.save(path)
        save_json(where.accuracy / 'report.json', _report(found, graph))
        pictures.save(
            config, 'accuracy.png', pictures.accuracy(read_json(where.accuracy / 'report.json', 'measured'))
        )
    return AccuracyTable.load(path)


def fitted(config: Config, dataset: data.Dataset, graph: Graph, table: LatencyTable) -> AccuracyTable | None:
    """Return the table; None where nothing is to be trained for it."""
    return fit(config, dataset, graph, table) if config.accuracy.trainings else None


def _rounds(
    config: Config,
    dataset: data.Dataset,
    graph: Graph,
    table: LatencyTable,
    limits: Sequence[float],
    trainings: 'Trainings',
) -> AccuracyTable:
    """Propose, time and train until nothing is left to propose or to train with."""
    asked = paths(config).accuracy / 'asked.json'
    networks = np.array(read_json(asked, 'networks')['networks'] if asked.exists() else [], np.int64)
    networks = networks.reshape(-1, graph.num_sites)
    accuracy = believed(config, graph, trainings.supernet, trainings.unit)
    while True:
        trained = trainings(networks)
        if len(trained.trained):
            accuracy = report.fit_samples(accuracy, trained, trainings.unit)
        left = max(config.accuracy.trainings - len(networks), 0)
        new, first = networks[:0], max(design.FIRST, len(limits))
        if left and not len(networks):
            entrants = baselines_of(config, dataset, graph, table, trainings.supernet)
            new = proposals.entered(config, graph, table, entrants, limits)[:left]
        count = min(max(first - len(networks) - len(new), design.EACH), left - len(new))
        known = np.concatenate([networks, new])
        last = count == left - len(new)
        new = np.concatenate(
            [new, proposals.propose(config, graph, table, accuracy, limits, known, count, last)]
        )
        if not len(new):
            return accuracy
        networks = np.concatenate([networks, new])
        if len({*graph.networks(networks), *(sample.widths for sample in trained.trained)}) == 1:
            raise Usage(
                'one network alone was found to train, which says nothing about widths: set another budget, or '
                '--accuracy.trainings to 2 or more, or to 0 to go by the supernet alone'
            )
        save_json(asked, {'networks': networks})


class Trainings:
    """Short trainings on file, shared by all budgets of a run: a network is trained once.

    What random search has trained is in a file of its own: no evidence for joint search, to which it is compared.
    """

    def __init__(
        self,
        config: Config,
        dataset: data.Dataset,
        graph: Graph,
        trainers: Trainers,
        file: str = 'samples.jsonl',
        part: str = 'short trainings',
    ) -> None:
        settings = config.accuracy
        self.unit = UNITS[settings.measure == 'loss']
        self.supernet = train(config, dataset, graph)
        self._run, self._graph = config, graph
        recipe = {
            'subnet': {name: v for name, v in vars(config.subnet).items() if name != 'from_start'},
            'epochs': settings.epochs,
            'from_supernet': settings.from_supernet,
        }
        recipe = json.loads(json.dumps({**recipe, 'data': vars(config.data), 'seed': config.seed}))
        self._header = samples.Header(graph.site_names, graph.width_choices, config.data.name, recipe)
        self._path, self._part = paths(config).accuracy.parent / file, part
        self._trainers = trainers

    def __call__(self, networks: np.ndarray) -> samples.Samples:
        """Train the networks that the file lacks, choices [networks sites]; return all that it holds."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with spent.on(self._run.run, self._part), exclusive(self._path.parent, 'training'):
            held = samples.resume(self._path, self._header)
            missing = {row: self._missing(row, held) for row in self._graph.networks(networks)}
            left = {row: folders for row, folders in missing.items() if folders}
            for trained in self._trainers.results(left, 'Candidate'):
                samples.append(self._path, self._sample(trained))
        return samples.read(self._path)

    def _missing(self, widths: Widths, held: samples.Samples) -> dict[int, Path]:
        """Return the seeds that a network was not trained with, each with its folder: a final one's, by one recipe."""
        known = {(each.widths, each.seed) for each in held.samples}
        folder = paths(self._run).trained if whole(self._run) else paths(self._run).briefly
        own = {self._run.seed + seed: seed for seed in self._run.accuracy.seeds}
        return {each: folder(widths, each) for each, seed in own.items() if (widths, seed) not in known}

    def _sample(self, trained: Trained) -> samples.Sample:
        widths, seed = trained.widths, trained.seed - self._run.seed
        if trained.failure:
            return samples.Sample(widths, seed, failure=trained.failure)
        accuracy, loss = 100 * trained.found['validation_accuracy'], trained.found['validation_loss']
        return samples.Sample(widths, seed, accuracy, loss, trained.seconds)


def best_of_random(
    config: Config, dataset: data.Dataset, graph: Graph, table: LatencyTable, limit: float
) -> np.ndarray:
    """Return the best of as many random networks just within a limit, ms, as joint search trains, by their trainings.

    Raises:
      ValueError: there is none.
    """
    key = jax.random.key(config.seed + 8)
    count, limits = max(config.accuracy.trainings, 1), limits_of(config, graph)
    drawn = baselines.random_within(key, graph, table.to_cost(), limit, count, limits)
    if not len(drawn):
        raise ValueError(f'no configuration found just within {limit:.4g} ms')
    file, part = 'random_samples.jsonl', 'trainings of random search'
    with Trainers(_short(config), dataset, graph) as trainers:
        trainings = Trainings(config, dataset, graph, trainers, file, part)
        known = trainings(drawn)
    utility: dict[Widths, list[float]] = {}
    for sample, value in zip(known.trained, known.utility(trainings.unit), strict=True):
        utility.setdefault(sample.widths, []).append(float(value))
    values = [np.mean(utility.get(widths, [-np.inf])) for widths in graph.networks(drawn)]
    return drawn[int(np.argmax(values))]


def whole(config: Config) -> bool:
    """Return whether short trainings are final ones: their recipe is the same."""
    return shortened(config) == config.subnet


def _short(config: Config) -> Config:
    return dataclasses.replace(config, subnet=shortened(config))


def shortened(config: Config) -> SubnetConfig:
    """Return the recipe of the short trainings: the final one with a part of its epochs, its schedule and all."""
    settings = config.subnet
    return dataclasses.replace(
        settings,
        epochs=settings.epochs * config.accuracy.epochs,
        warmup_epochs=settings.warmup_epochs * config.accuracy.epochs,
        from_supernet=config.accuracy.from_supernet and not settings.from_start,
    )


def believed(config: Config, graph: Graph, supernet: Supernet, unit: str) -> AccuracyTable:
    """Return the table before anything is trained, which listens to the supernet's heights where these are clear."""
    unary = stats.to_unary(supernet.width_stats, graph.num_choices, config.search.ridge)
    heard = prior.from_supernet(graph.width_choices, unary.mean, unary.std)
    return untrained(graph.site_names, graph.width_choices, believed=heard, unit=unit)


def _report(table: AccuracyTable, graph: Graph) -> dict[str, Any]:
    choices = table.evidence.choices
    widths = graph.to_widths(choices)
    logs = np.log(np.maximum(widths, 1)).sum(1)
    others = {'FLOPs': flops_table(graph).predict(widths), 'log(width)': logs}
    compared = report.compare(table, others)
    return {
        'unit': table.unit,
        'measured': compared.measured,
        'predicted': compared.predicted,
        'error': table.leave_one_out().std,
        'networks': widths,
        'rank': compared.table.rank,
        'rmse': compared.table.rmse,
        'others': {name: each._asdict() for name, each in compared.others.items()},
        'warnings': compared.warnings,
        'said': str(compared),
    }


def main(config: Config) -> None:
    table = load_table(config)
    progress.console.print(describe(config, table), highlight=False)
    dataset = load_data(config)
    graph = graph_of(config, dataset)
    fit(config, dataset, graph, table)
    progress.console.print(read_json(paths(config).accuracy / 'report.json', 'said')['said'], highlight=False)


if __name__ == '__main__':
    from experiments.command_line import parse
    from experiments.stage import run_stage

    run_stage(main, parse(__doc__, 'accuracy', 'search', 'subnet'), keep_freed=True)
