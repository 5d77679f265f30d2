"""What tells which of two networks near a budget is better: a short training, the supernet, or arithmetic?

Random networks just within the budget are trained whole with several seeds; the means of their test accuracies and
losses are the truth. Against it stand short trainings with another seed, from scratch and from the supernet, on
validation images, the supernet's own losses and rewards, `log(width)` and FLOPs: Spearman's rank correlations with 95 %
bootstrap intervals, and the seconds that each takes for a network, compilation aside, on as many cores as it has.
"""

import dataclasses
import functools
import itertools
import time
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from experiments import fit_latency, measure_latency, progress, train_supernet
from experiments.budget import budget_ms
from experiments.config import Config
from experiments.fit_accuracy import shortened
from experiments.limits import limits_of
from experiments.paths import named
from experiments.ranking_study import Correlation, spearman
from experiments.run_folder import claim, save_json
from experiments.search_widths import rewards_of
from experiments.space import graph_of, settings_of
from experiments.subnet_loss import SubnetLoss
from experiments.trainers import Trainers
from experiments.training import load_data
from jcw import data
from jcw.field import scores
from jcw.graph import Graph, Widths
from jcw.latency.table import flops_table
from jcw.search import baselines
from jcw.train.loop import Diverged

PARTS = (0.25, 0.5)
"""Of the final epochs, that short trainings have."""
OTHER = 100
"""Added to the run's seed for the seed of the short trainings, which the truth does not have."""


class Row(NamedTuple):
    """What ranks, how well, and what it takes."""

    ranks: str
    accuracy: Correlation  # with the mean test accuracy of whole trainings
    loss: Correlation  # with their mean test loss, negative
    seconds: float  # for a network


def main(config: Config) -> None:
    dataset = load_data(config)
    graph = graph_of(config, dataset)
    limit, drawn = _near_the_budget(config, graph)
    networks = graph.networks(drawn)
    trained = functools.partial(_trained, dataset, graph, networks)
    seeds, other = [config.seed + seed for seed in config.ranking.seeds], config.seed + OTHER
    *whole, again = trained(config, [*seeds, other])
    ways = {'1 of the epochs': again}
    for part, start in itertools.product(PARTS, ('', ' from the supernet')):
        (ways[f'{part:g} of the epochs{start}'],) = trained(_short(config, part, bool(start)), [other])
    found = {**_untrained(config, dataset, graph, drawn), **_values(ways)}
    truth = {
        of: np.mean([[each[f'test_{of}'] for each in run] for run in whole], 0) for of in ('accuracy', 'loss')
    }
    rows = [
        Row(name, spearman(values, truth['accuracy']), spearman(values, -truth['loss']), seconds)
        for name, (values, seconds) in found.items()
    ]
    folder = config.run / 'training_study'
    spread = {of: float(values.std(ddof=1)) for of, values in truth.items()}
    save_json(
        folder / 'results.json',
        {
            'budget_ms': limit,
            'networks': networks,
            'whole': [[[each[f'test_{of}'] for of in truth] for each in run] for run in whole],
            'spread': spread,
            'rows': [row._asdict() for row in rows],
        },
    )
    (folder / 'table.md').write_text(markdown(rows))
    progress.console.print(
        f'{len(networks)} networks within {limit:.4g} ms; their mean accuracies deviate by {spread["accuracy"]:.2%}, '
        f'losses by {spread["loss"]:.3f}\n{markdown(rows)}',
        highlight=False,
    )


def _near_the_budget(config: Config, graph: Graph) -> tuple[float, np.ndarray]:
    """Return the budget, ms, and random networks just within it: choices [networks sites]."""
    measure_latency.measure(config)
    table = fit_latency.fit(config)
    limit, limits = budget_ms(config, table), limits_of(config, graph)
    key, count = jax.random.key(config.seed + 9), config.ranking.standalone
    return limit, baselines.random_within(key, graph, table.to_cost(), limit, count, limits)


def _values(ways: dict[str, list[dict[str, float]]]) -> dict[str, tuple[np.ndarray, float]]:
    """Return what each way of training says of the networks by accuracy and by loss, and seconds a network."""
    found = {}
    for name, runs in ways.items():
        seconds = float(np.median([each['seconds'] for each in runs]))
        found[f'{name}, accuracy'] = np.array([each['validation_accuracy'] for each in runs]), seconds
        found[f'{name}, loss'] = -np.array([each['validation_loss'] for each in runs]), seconds
    return found


def _untrained(
    config: Config, dataset: data.Dataset, graph: Graph, choices: np.ndarray
) -> dict[str, tuple[np.ndarray, float]]:
    """Return what ranks without training a network: values [networks], and seconds a network."""
    widths = graph.to_widths(choices)
    supernet = train_supernet.train(config, dataset, graph)
    measure = SubnetLoss(config, dataset, graph, supernet.variables, config.search.greedy_images)
    measure(widths[0])  # compiled
    began = time.monotonic()
    losses = np.array([float(measure(each).loss) for each in widths])
    seconds = (time.monotonic() - began) / len(widths)
    return {
        'FLOPs': (flops_table(graph).predict(widths), 0.0),
        'log(width)': (np.log(np.maximum(widths, 1)).sum(1), 0.0),
        "supernet's rewards": (scores(rewards_of(config, supernet, graph), choices), 0.0),
        "supernet's loss": (-losses, seconds),
    }


def _short(config: Config, part: float, from_supernet: bool) -> Config:
    accuracy = dataclasses.replace(config.accuracy, epochs=part, from_supernet=from_supernet)
    return dataclasses.replace(config, subnet=shortened(dataclasses.replace(config, accuracy=accuracy)))


def _trained(
    dataset: data.Dataset, graph: Graph, networks: list[Widths], config: Config, seeds: list[int]
) -> list[list[dict[str, float]]]:
    """Train every network by a recipe with every seed; return what came of it, and seconds [seeds][networks].

    What was trained is read back.
    """
    folders = {seed: _folder(config, graph, seed) for seed in seeds}
    wanted = {
        widths: {seed: folder / named(widths) for seed, folder in folders.items()} for widths in networks
    }
    found = {}
    with Trainers(config, dataset, graph) as trainers:
        for trained in trainers.results(wanted, f'{config.subnet.epochs:g} epochs, network'):
            if trained.failure:
                raise Diverged(trained.failure)
            found[trained.widths, trained.seed] = {**trained.found, 'seconds': trained.seconds}
    return [[found[widths, seed] for widths in networks] for seed in seeds]


def _folder(config: Config, graph: Graph, seed: int) -> Path:
    settings = config.subnet
    start = '_from_supernet' if settings.from_supernet else ''
    return claim(
        config.run / 'training_study' / f'{settings.epochs:g}_epochs{start}_seed_{seed}',
        data=config.data,
        space=settings_of(config, graph),
        subnet=settings,
        seed=config.seed,
    )


def markdown(rows: list[Row]) -> str:
    """Return the table as Markdown, the best first."""
    lines = [
        '| what ranks | against mean accuracy | against mean loss | seconds a network |\n|---|---|---|---|\n'
    ]
    for row in sorted(rows, key=lambda row: -row.accuracy.value):
        lines.append(f'| {row.ranks} | {row.accuracy} | {row.loss} | {row.seconds:.2f} |\n')
    return ''.join(lines)


if __name__ == '__main__':
    from experiments.command_line import parse
    from experiments.stage import run_stage

    run_stage(main, parse(__doc__, 'ranking', 'search', 'subnet', 'accuracy'), keep_freed=True)
