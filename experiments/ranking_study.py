"""How well does each way of training and reading a supernet rank channel configurations?

For every variation a supernet is trained with the same compute. Random configurations are then ranked by the field's
score, and the ranking is set against the supernet's own validation loss and, for some of them, against the accuracy of
networks trained alone. The numbers are Spearman's rank correlations with 95 % bootstrap intervals.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import stats as scipy_stats

from experiments import progress, train_supernet
from experiments.config import Config, SupernetConfig
from experiments.paths import named, paths
from experiments.run_folder import claim, read_json, save_json
from experiments.space import graph_of
from experiments.subnet_loss import SubnetLoss
from experiments.trainers import train_all
from experiments.training import forget_programs, load_data
from jcw import data
from jcw.field import Field
from jcw.graph import Graph, Widths
from jcw.latency.table import flops_table
from jcw.search import ows, stats

VARIATIONS: dict[str, Callable[[SupernetConfig], SupernetConfig]] = {
    'one site, the same in a step': lambda s: dataclasses.replace(s, mutation='site'),
    'one site, per example': lambda s: dataclasses.replace(s, mutation='example'),
    'one site, labels instead of distillation': lambda s: dataclasses.replace(
        s, mutation='site', distillation=False
    ),
}


class Correlation(NamedTuple):
    """Spearman's rank correlation and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f'{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]'


def spearman(predicted: np.ndarray, truth: np.ndarray, resamples: int = 2000) -> Correlation:
    """Return the rank correlation of two vectors; its interval from resampling pairs, by a fixed generator.

    It is not a number where one of them does not vary.
    """
    if min(len(np.unique(predicted)), len(np.unique(truth))) < 2:
        return Correlation(np.nan, np.nan, np.nan)
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(truth), (resamples, len(truth)))
    ranks = [scipy_stats.rankdata(values[rows], axis=1) for values in (predicted, truth)]
    centred = [r - r.mean(1, keepdims=True) for r in ranks]
    scale = np.sqrt((centred[0] ** 2).sum(1) * (centred[1] ** 2).sum(1))
    drawn = (centred[0] * centred[1]).sum(1)[scale > 0] / scale[scale > 0]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Correlation(float(scipy_stats.spearmanr(predicted, truth).statistic), float(low), float(high))


def main(config: Config) -> None:
    dataset = load_data(config)
    graph = graph_of(config, dataset)
    rng = np.random.default_rng(config.seed + 5)
    drawn = graph.settled(
        (rng.random((config.ranking.random, graph.num_sites)) * graph.num_choices).astype(np.int32)
    )
    widths = graph.to_widths(drawn)
    accuracy = standalone(config, dataset, graph, graph.networks(drawn[: config.ranking.standalone]))
    flops = np.array([float(flops_table(graph).predict(w)) for w in widths])
    rows = []
    for name, vary in VARIATIONS.items():
        folder = config.run / 'ranking' / name.replace(' ', '_').replace(',', '')
        varied = dataclasses.replace(config, run=folder, supernet=vary(config.supernet))
        rows.append({'variation': name, **_study(varied, dataset, graph, drawn, widths, flops, accuracy)})
        forget_programs()
        save_json(config.run / 'ranking' / 'results.json', rows)
    (config.run / 'ranking' / 'table.md').write_text(markdown(rows))
    progress.console.print(markdown(rows), highlight=False)


def standalone(config: Config, dataset: data.Dataset, graph: Graph, networks: list[Widths]) -> np.ndarray:
    """Train networks alone; return their mean test accuracy over seeds."""
    folder = config.run / 'ranking' / 'standalone'
    folders = {
        widths: {seed: folder / named(widths) / f'seed_{seed}' for seed in config.ranking.seeds}
        for widths in networks
    }
    known = train_all(config, dataset, graph, folders)
    return np.array([np.mean([each['test_accuracy'] for each in known[widths]]) for widths in networks])


def _study(
    config: Config,
    dataset: data.Dataset,
    graph: Graph,
    choices: np.ndarray,
    widths: np.ndarray,
    flops: np.ndarray,
    accuracy: np.ndarray,
) -> dict[str, Any]:
    """Return all correlations of one variation."""
    supernet = train_supernet.train(config, dataset, graph)
    loss, raw = (_losses(config, dataset, graph, supernet, widths, again) for again in (True, False))
    unaries = {
        'regression': stats.to_unary(supernet.width_stats, graph.num_choices, config.search.ridge),
        'marginal means': stats.marginal_means(supernet.width_stats, graph.num_choices),
    }
    scores = {name: _scores(ows.to_field(unary, graph), choices) for name, unary in unaries.items()}
    alone = len(accuracy)
    against_loss = {**scores, 'FLOPs': flops}
    against_alone = {**against_loss, 'loss': -loss, 'loss, not recalibrated': -raw}
    return {
        'loss': {name: spearman(values, -loss) for name, values in against_loss.items()},
        'standalone': {name: spearman(values[:alone], accuracy) for name, values in against_alone.items()},
        'accuracies': read_json(paths(config).supernet / 'result.json', 'largest'),
    }


def _losses(
    config: Config,
    dataset: data.Dataset,
    graph: Graph,
    supernet: train_supernet.Supernet,
    widths: np.ndarray,
    recalibrated: bool,
) -> np.ndarray:
    folder = claim(config.run / f'losses{"" if recalibrated else "_raw"}', networks=widths)
    if not (folder / 'result.json').exists():
        measure = SubnetLoss(
            config,
            dataset,
            graph,
            supernet.variables,
            config.search.greedy_images,
            recalibrated=recalibrated,
        )
        with progress.bar('Losses of random subnets', len(widths)) as update:
            values = []
            for each in widths:
                values.append(float(measure(each).loss))
                update(len(values), '')
        save_json(folder / 'result.json', {'losses': values})
    return np.array(read_json(folder / 'result.json', 'losses')['losses'])


def _scores(field: Field, choices: np.ndarray) -> np.ndarray:
    values = np.asarray(field.unary)[np.arange(choices.shape[1]), choices].sum(1)
    return np.where(np.isfinite(values), values, values[np.isfinite(values)].min() - 1)


COLUMNS = (
    ('loss', 'regression'),
    ('loss', 'marginal means'),
    ('loss', 'FLOPs'),
    ('standalone', 'regression'),
    ('standalone', 'marginal means'),
    ('standalone', 'FLOPs'),
    ('standalone', 'loss'),
    ('standalone', 'loss, not recalibrated'),
)


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return the table as Markdown: what ranks, against what."""
    names = [f'{ranks} / {"supernet loss" if truth == "loss" else "alone"}' for truth, ranks in COLUMNS]
    head = f'| variation | accuracy largest, base, smallest | {" | ".join(names)} |\n'
    lines = [head, '|---' * (len(names) + 2) + '|\n']
    for row in rows:
        accuracies = ', '.join(f'{value["accuracy"]:.0%}' for value in row['accuracies'].values())
        cells = [str(Correlation(*row[truth][ranks])) for truth, ranks in COLUMNS]
        lines.append(f'| {row["variation"]} | {accuracies} | {" | ".join(cells)} |\n')
    return ''.join(lines)


if __name__ == '__main__':
    from experiments.command_line import parse
    from experiments.stage import run_stage

    run_stage(main, parse(__doc__, 'ranking', 'supernet', 'subnet'), keep_freed=True)
