"""Train a few networks briefly, fit the accuracy field to them, and choose the next where the field may be best.

In rounds: exact optima, under the budgets and the latency table, of draws from what is believed of the field (Thompson
sampling) are timed; those that hold their budget as measured are trained; then both tables are corrected. It ends when
no draw has a new optimum, or the trainings are used up.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import candidates, pictures, progress, spent
from experiments.baseline_widths import At, baselines_of
from experiments.budget import budgets_ms, describe, load_table
from experiments.config import Config, SubnetConfig
from experiments.limits import limits_of, stated
from experiments.locks import exclusive
from experiments.paths import paths
from experiments.run_folder import claim, read_json, save_json
from experiments.space import graph_of, settings_of
from experiments.start import recorded
from experiments.train_supernet import Supernet, train
from experiments.trainers import Trained, Trainers
from experiments.training import load_data
from jcw import data
from jcw.accuracy import design, prior, report, samples
from jcw.accuracy.table import UNITS, AccuracyTable, untrained
from jcw.field import Field, add, independent, scores
from jcw.graph import Graph, Widths
from jcw.latency.sample import Sample
from jcw.latency.table import LatencyTable, flops_table
from jcw.search import baselines, ows, stats
from jcw.search.repair import TABLE_ERROR, correction

OWN_ERROR = 0.02
"""Part of a table's error, relative, that networks alike do not share: as much as it errs on networks held out."""


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
            new = _entered(config, graph, table, entrants, limits)[:left]
        count = min(max(first - len(networks) - len(new), design.EACH), left - len(new))
        known = np.concatenate([networks, new])
        last = count == left - len(new)
        new = np.concatenate([new, propose(config, graph, table, accuracy, limits, known, count, last)])
        if not len(new):
            return accuracy
        networks = np.concatenate([networks, new])
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


def _entered(
    config: Config, graph: Graph, table: LatencyTable, baselines: Mapping[str, At], limits: Sequence[float]
) -> np.ndarray:
    """Return the baselines' networks that hold the budgets as measured, as far as they reach: choices [networks sites].

    Without rounds of repair they are those of the table.
    """
    found: list[np.ndarray] = []
    for limit in limits:
        reach = {
            name: choices for name, choose in baselines.items() if (choices := _at(choose, limit)) is not None
        }
        if config.repair.rounds:
            held = candidates.hold(config, graph, table, limit, {}, {name: baselines[name] for name in reach})
            reach = {name: graph.to_choices(each.widths) for name, each in held.items() if each.feasible}
        found += reach.values()
    different = {tuple(choices.tolist()): None for choices in found}
    return np.array([*different], np.int64).reshape(-1, graph.num_sites)


def _at(choose: At, limit: float) -> np.ndarray | None:
    """Return what a baseline chooses; nothing where it has nothing so small, as the search will say."""
    try:
        return np.asarray(choose(limit))
    except ValueError:
        return None


def propose(
    config: Config,
    graph: Graph,
    table: LatencyTable,
    accuracy: AccuracyTable,
    limits: Sequence[float],
    known: np.ndarray,
    count: int,
    last: bool,
) -> np.ndarray:
    """Choose what to train next, besides what is known: optima of draws that hold their budgets as measured.

    The optima of a table are the networks that it flatters. So they are timed before they are trained, the table is
    corrected, and others take the place of those that do not hold. Where nothing holds, known or new, or one network
    alone, those timed nearest to the budget are returned all the same; without rounds of repair, what the table says.
    """
    wanted = [limits[(len(known) + place) % len(limits)] for place in range(count)]
    held, over = known[:0], known[:0]
    timed = _timed(config, graph, known)
    for _ in range(max(config.repair.rounds, 1)):
        seen = np.concatenate([known, held, over])
        key = jax.random.fold_in(jax.random.key(config.seed + 7), len(seen))
        solve = _Solve(config, graph, _corrected(config, graph, table, timed))
        if not wanted or not len(
            new := design.propose(key, accuracy, solve, wanted, len(wanted), trained=seen, last=last)
        ):
            break
        timed = _timed(config, graph, new)
        times = {sample.widths: candidates.most_ms(config, sample) for sample in timed}
        for choices, widths in zip(new, graph.networks(new), strict=True):
            budget = solve.budgets[tuple(choices.tolist())]
            if times.get(widths, np.inf) <= budget or not config.repair.rounds:
                held = np.concatenate([held, choices[None]])
                wanted.remove(budget if budget in wanted else wanted[0])
            else:
                over = np.concatenate([over, choices[None]])
    most = {sample.widths: candidates.most_ms(config, sample) for sample in timed}
    enough = len(known) + len(held) > 1  # one network says nothing about widths
    if enough and (len(held) or any(most.get(w, np.inf) <= max(limits) for w in graph.networks(known))):
        return held
    others = most.keys() - {*graph.networks(known), *graph.networks(held)}
    nearest = sorted(others, key=lambda widths: abs(most[widths] - max(limits)))[: max(count - len(held), 0)]
    return np.concatenate([held, graph.to_choices(nearest)]) if nearest else held


class _Solve:
    """Maximises a drawn utility within a budget, ms, and remembers for which budget a network was first found."""

    def __init__(self, config: Config, graph: Graph, cost: Field) -> None:
        self._graph, self._limits, self._cost = graph, limits_of(config, graph), cost
        self.budgets: dict[tuple[int, ...], float] = {}

    def __call__(self, unary: np.ndarray, limit: float) -> np.ndarray:
        utility = add(independent(np.where(self._graph.present, unary, -np.inf)), ows.flat(self._graph))
        choices = np.asarray(self._limits.solve(utility, self._cost, limit).choices)
        self.budgets.setdefault(tuple(choices.tolist()), limit)
        return choices


def _timed(config: Config, graph: Graph, networks: np.ndarray) -> tuple[Sample, ...]:
    """Time the networks that were not timed; return all candidates of the run that were."""
    if not len(networks) and not paths(config).candidates.exists():
        return ()
    return candidates.samples_of(config, graph, graph.networks(networks)).timed


def _corrected(config: Config, graph: Graph, table: LatencyTable, timed: Sequence[Sample]) -> Field:
    """Return the latency field, ms, corrected where networks were timed, standard errors to spare included."""
    cost = table.to_cost()
    if not timed:
        return cost
    chosen = graph.to_choices([sample.widths for sample in timed])
    ms = np.array([candidates.most_ms(config, sample) for sample in timed])
    scale = _scale(ms / scores(cost, chosen))
    cost = cost.replace(unary=scale * cost.unary, tables=scale * cost.tables)
    noise = ms * np.hypot([sample.error for sample in timed], OWN_ERROR)
    error = TABLE_ERROR * float(ms.mean())
    shift = correction(chosen, ms - scores(cost, chosen), noise, error, cost.unary.shape)
    return cost.replace(unary=cost.unary + shift)


def _scale(slower: np.ndarray) -> float:
    """Return by how much a device is slower or faster than its table beyond what may be the table's error.

    A shift would be right for networks as large as those timed alone.
    """
    beyond = float(np.median(slower)) - 1
    return 1 + float(np.sign(beyond)) * max(abs(beyond) - TABLE_ERROR, 0.0)


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
