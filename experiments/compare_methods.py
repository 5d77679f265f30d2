"""Compare joint search with greedy slimming and other baselines: every method's networks, trained alike and timed.

For each budget every method chooses widths; each network so found is trained from scratch by one recipe with several
seeds, in random order, and timed on the device. Different methods that find the same widths share their trainings.
Everything is kept in the run folder, and the same command goes on where it was; started several times at once, the
processes share the trainings among them.
"""

import dataclasses
import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import (
    fit_latency,
    measure_latency,
    plots,
    progress,
    search_widths,
    train_subnet,
    train_supernet,
)
from experiments.config import Config, parse
from experiments.run_folder import budget_name, claim, read_json, save_json, space_of
from jcw import data
from jcw.latency.table import LatencyTable, flops_table
from jcw.search import baselines
from jcw.space import SearchSpace

Widths = tuple[int, ...]

COLOURS = {
    'joint': '#0b6e4f',
    'adaptive': '#6bbf59',
    'greedy': '#3d5a80',
    'uniform': '#b0413e',
    'random': '#c69c6d',
    'flops': '#7b5ea7',
}


class Setting(NamedTuple):
    """What all methods share."""

    config: Config
    dataset: data.Dataset
    space: SearchSpace
    table: LatencyTable


def main(config: Config) -> None:
    setting = _prepare(config)
    chosen = {budget: choose(setting, budget) for budget in config.compare.budgets}
    networks = sorted({widths for found in chosen.values() for widths in found.values()})
    accuracies = _train_all(setting, networks)
    if accuracies is None:
        progress.console.print('Other processes still train the rest; call again for the table.')
        return
    with _alone(config.run / 'preparing.lock'):
        times = train_subnet.measured(config, setting.space, [list(widths) for widths in networks])
    rows = table_of(setting, chosen, accuracies, {w: times[w] for w in networks})
    folder = config.run / 'comparison'
    save_json(folder / 'results.json', rows)
    (folder / 'table.md').write_text(markdown(rows))
    plots.save(folder / 'accuracy.png', draw(rows))
    if 'adaptive' in config.compare.methods:
        plots.save(folder / 'entropy.png', draw_narrowing(config))
    progress.console.print(markdown(rows), highlight=False)
    progress.console.print(f'Written to {folder}')


def _prepare(config: Config) -> Setting:
    dataset = train_supernet.load_data(config)
    with _alone(config.run / 'preparing.lock'):
        measure_latency.measure(config)
        table = fit_latency.fit(config)
        progress.console.print(fit_latency.describe(config.run / 'latency'), highlight=False)
    return Setting(config, dataset, space_of(config, dataset), table)


def choose(setting: Setting, budget: float) -> dict[str, Widths]:
    """Return the widths of every method at a budget, read back where they were chosen before.

    A baseline that has no network within the budget is left out, and said to be.
    """
    config = at_budget(setting.config, budget)
    folder = claim(
        config.run / 'chosen' / budget_name(config),
        data=config.data,
        space=config.space,
        supernet=config.supernet,
        search=config.search,
        seed=config.seed,
    )
    found: dict[str, Widths] = {}
    for name in config.compare.methods:
        path = folder / f'{name}.json'
        with _alone(config.run / 'preparing.lock'):
            if not path.exists():
                save_json(path, _chosen(name, setting._replace(config=config)))
        stated = read_json(path)
        if 'none' in stated:
            progress.console.print(f'{name} is left out: {stated["none"]}', highlight=False)
            continue
        found[name] = tuple(stated['widths'])
        search_widths.refuse_other_table(path.parent, stated['ms'], float(setting.table.predict(found[name])))
    return found


def _chosen(name: str, setting: Setting) -> dict[str, Any]:
    """Return what a method chooses, or why a baseline has nothing to choose."""
    try:
        widths = setting.space.to_widths(CHOOSE[name](setting))
    except ValueError as error:
        if name in ('joint', 'adaptive'):
            raise
        return {'none': str(error)}
    return {'widths': widths, 'ms': float(setting.table.predict(widths))}


def at_budget(config: Config, budget: float, *, adaptive: bool = False) -> Config:
    """Return the configuration of a run at one of the budgets."""
    search = dataclasses.replace(config.search, budget=budget, budget_ms=None)
    supernet = dataclasses.replace(config.supernet, adaptive=adaptive)
    return dataclasses.replace(config, search=search, supernet=supernet)


def _joint(setting: Setting) -> np.ndarray:
    return _solved(setting, setting.config)


def _adaptive(setting: Setting) -> np.ndarray:
    return _solved(setting, at_budget(setting.config, setting.config.search.budget, adaptive=True))


def _solved(setting: Setting, config: Config) -> np.ndarray:
    from jcw import budget

    limit, cost = search_widths.budget_ms(config, setting.table), setting.table.to_cost()
    supernet = train_supernet.train(config, setting.dataset, setting.space)
    utility = search_widths.field_of(config, supernet, setting.space)
    return np.asarray(budget.solve(utility, cost, limit).choices)


def _uniform(setting: Setting) -> np.ndarray:
    limit = search_widths.budget_ms(setting.config, setting.table)
    return baselines.uniform(setting.space, setting.table.to_cost(), limit)


def _losses(setting: Setting) -> search_widths.Losses:
    config, dataset, space, _ = setting
    return search_widths.losses_of(config, dataset, space, train_supernet.train(config, dataset, space))


def _greedy(setting: Setting) -> np.ndarray:
    limit = search_widths.budget_ms(setting.config, setting.table)
    return search_widths.slim(setting.config, setting.space, setting.table, _losses(setting), limit)


def _random(setting: Setting) -> np.ndarray:
    """Search at random with as many evaluations as greedy needed, or needs, for this budget."""
    config, _, space, table = setting
    limit, cost, losses = search_widths.budget_ms(config, table), table.to_cost(), _losses(setting)
    asked: dict[Widths, None] = {}

    def noted(choices: np.ndarray) -> float:
        asked[tuple(choices.tolist())] = None
        return losses(choices)

    search_widths.slim(config, space, table, noted, limit)
    evaluations = len(asked)
    asked.clear()
    with progress.bar('Random search', evaluations) as update:

        def shown(choices: np.ndarray) -> float:
            value = noted(choices)
            update(len(asked), '')
            return value

        key = jax.random.key(config.seed + 4)
        return baselines.random_search(key, space, shown, cost, limit, evaluations)


def _flops(setting: Setting) -> np.ndarray:
    config, dataset, space, table = setting
    supernet = train_supernet.train(config, dataset, space)
    utility = search_widths.field_of(config, supernet, space)
    limit = search_widths.budget_ms(config, table)
    return baselines.by_proxy(utility, flops_table(space).to_cost(), table.to_cost(), limit)


CHOOSE = {
    'joint': _joint,
    'adaptive': _adaptive,
    'greedy': _greedy,
    'uniform': _uniform,
    'random': _random,
    'flops': _flops,
}


def _train_all(setting: Setting, networks: list[Widths]) -> dict[Widths, list[float]] | None:
    """Train every network with every seed; None where another process is still at one of them."""
    seeds = setting.config.compare.seeds
    jobs = [(widths, seed) for widths in networks for seed in seeds]
    order = np.random.default_rng(setting.config.seed).permutation(len(jobs))
    for place, index in enumerate(order):
        widths, seed = jobs[index]
        folder = _final_folder(setting.config, widths, seed)
        config = dataclasses.replace(setting.config, seed=seed)
        if (folder / 'result.json').exists():
            train_subnet.claim_for(config, list(widths), folder)
            continue
        with _if_free(folder / 'training.lock') as free:
            if free:
                title = f'Network {place + 1} of {len(jobs)}'
                train_subnet.train(
                    setting.config, setting.dataset, setting.space, list(widths), folder, title, seed
                )
    results = [_final_folder(setting.config, *job) / 'result.json' for job in jobs]
    if not all(path.exists() for path in results):
        return None
    accuracy = [read_json(path)['test_accuracy'] for path in results]
    return {widths: accuracy[i * len(seeds) : (i + 1) * len(seeds)] for i, widths in enumerate(networks)}


def _final_folder(config: Config, widths: Widths, seed: int) -> Path:
    return config.run / 'finals' / '-'.join(map(str, widths)) / f'seed_{seed}'


def table_of(
    setting: Setting,
    chosen: dict[float, dict[str, Widths]],
    accuracies: dict[Widths, list[float]],
    times: dict[Widths, Any],
) -> list[dict[str, Any]]:
    """Return a row per budget and method; gains are relative, with the standard error over seeds."""
    flops = flops_table(setting.space)
    rows = []
    for budget, found in chosen.items():
        for name, widths in found.items():
            values = np.array(accuracies[widths])
            rows.append(
                {
                    'budget': budget,
                    'budget_ms': budget * float(setting.table.predict(setting.space.base)),
                    'method': name,
                    'predicted_ms': float(setting.table.predict(widths)),
                    'measured_ms': times[widths].ms,
                    'measured_error': times[widths].error,
                    'mflops': float(flops.predict(widths)) / 1e6,
                    'test_accuracies': values,
                    'mean': values.mean(),
                    'error': standard_error(values),
                    **{
                        f'gain_over_{other}': gain(values, np.array(accuracies[found[other]]))
                        for other in ('greedy', 'uniform')
                        if other in found and found[other] != widths
                    },
                    'widths': widths,
                }
            )
    return rows


def standard_error(values: np.ndarray) -> float:
    """Return the standard error of the mean; NaN for one value."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float('nan')


def gain(values: np.ndarray, others: np.ndarray) -> list[float]:
    """Return the relative gain of one mean over another, and its standard error, to first order."""
    mean, other = values.mean(), others.mean()
    ratio = mean / other
    error = ratio * np.hypot(standard_error(values) / mean, standard_error(others) / other)
    return [float(ratio - 1), float(error)]


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return the table as Markdown."""
    head = (
        '| budget | method | predicted | measured | MFLOPs | test accuracy | over greedy | over uniform | widths |\n'
        '|---|---|---|---|---|---|---|---|---|\n'
    )
    return head + ''.join(_line(row) for row in rows)


def _line(row: dict[str, Any]) -> str:
    gains = [
        f'{row[key][0]:+.1%} ± {row[key][1]:.1%}' if key in row else ''
        for key in ('gain_over_greedy', 'gain_over_uniform')
    ]
    cells = (
        f'{row["budget"]:.0%}',
        row['method'],
        f'{row["predicted_ms"]:.3f} ms',
        f'{row["measured_ms"]:.3f} ms ± {row["measured_error"]:.1%}',
        f'{row["mflops"]:.2f}',
        f'{row["mean"]:.2%} ± {row["error"]:.2%}',
        *gains,
        ' '.join(map(str, row['widths'])),
    )
    return f'| {" | ".join(cells)} |\n'


def draw(rows: list[dict[str, Any]]):
    """Draw accuracy against measured latency, a line per method."""
    figure, axes = plots.axes(6.5, 4.5)
    for name in dict.fromkeys(row['method'] for row in rows):
        own = sorted((row for row in rows if row['method'] == name), key=lambda row: row['measured_ms'])
        axes.errorbar(
            [row['measured_ms'] for row in own],
            [100 * row['mean'] for row in own],
            yerr=[100 * row['error'] for row in own],
            label=name,
            color=COLOURS[name],
            marker='o',
            capsize=2,
        )
    axes.set(xlabel='measured latency (ms per call)', ylabel='test accuracy (%), mean and standard error')
    axes.legend(frameon=False)
    return figure


def draw_narrowing(config: Config):
    """Draw the entropy of the draws over the training of each adaptive supernet, a line per budget."""
    figure, axes = plots.axes(5, 3.5)
    for budget in config.compare.budgets:
        path = train_supernet.folder_of(at_budget(config, budget, adaptive=True)) / 'metrics.jsonl'
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        axes.plot(
            [line['step'] for line in lines],
            [line['entropy'] for line in lines],
            label=f'budget {budget:.0%}',
        )
    axes.set(xlabel='training step', ylabel='entropy of the draws (nats)', ylim=(0, None))
    axes.legend(frameon=False)
    return figure


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other process is in here; a process that dies leaves."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _if_free(path: Path) -> Iterator[bool]:
    """Say whether no other process is in here, and keep others out meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


if __name__ == '__main__':
    from experiments.run_folder import run_stage

    run_stage(main, parse(__doc__))
