"""Compare joint search with greedy slimming and other baselines: every method's networks, trained alike and timed.

For each budget every method chooses widths, corrected by timing until the measured latency holds the budget; each
network so found is trained from scratch by one recipe with several seeds and timed once more.
Different methods that find the same widths share their trainings.
Everything is kept in the run folder, and the same command goes on where it was; started several times at once, the
processes share the trainings among them.
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np

from experiments import (
    baseline_widths,
    candidates,
    comparison,
    fit_accuracy,
    fit_latency,
    measure_latency,
    plots,
    progress,
    repair_widths,
    search_widths,
    train_subnet,
    train_supernet,
)
from experiments.budget import at_budget, budget_ms
from experiments.config import Config
from experiments.limits import limits_of, stated
from experiments.locks import alone
from experiments.methods import BASELINES, FIELDS, Setting, seconds
from experiments.paths import paths
from experiments.run_folder import claim, read_json, save_json
from experiments.space import graph_of, settings_of
from experiments.start import recorded
from experiments.trainers import train_finals
from experiments.training import load_data
from jcw.graph import Widths


def main(config: Config) -> None:
    setting = _prepare(config)
    chosen = {budget: choose(setting, budget) for budget in config.compare.budgets}
    networks = sorted({widths for found in chosen.values() for widths in found.values()})
    order = [networks[i] for i in np.random.default_rng(config.seed).permutation(len(networks))]
    seeds = [config.seed + seed for seed in config.compare.seeds]
    known = train_finals(config, setting.dataset, setting.graph, order, seeds, shared=True)
    if len(known) < len(networks):
        progress.console.print('Other processes still train the rest; call again for the table.')
        return
    with alone(config.run / 'preparing.lock'):
        times = candidates.finals(config, setting.graph, networks)
    tested = {widths: _tested(known[widths], len(setting.dataset.test)) for widths in networks}
    rows = comparison.table_of(setting.table, chosen, tested, times)
    folder = config.run / 'comparison'
    save_json(folder / 'results.json', rows)
    took = seconds(config.run, config.compare.methods)
    text = f'{comparison.markdown(rows)}\n{comparison.costs(took)}'
    (folder / 'table.md').write_text(text)
    plots.save(folder / 'accuracy.png', comparison.draw(rows))
    if 'adaptive' in config.compare.methods:
        metrics = {
            budget: paths(at_budget(config, budget, adaptive=True)).supernet / 'metrics.jsonl'
            for budget in config.compare.budgets
        }
        plots.save(folder / 'entropy.png', comparison.draw_narrowing(metrics))
    progress.console.print(text, highlight=False)
    progress.console.print(f'Written to {folder}')


def _prepare(config: Config) -> Setting:
    dataset = load_data(config)
    with alone(config.run / 'preparing.lock'):
        measure_latency.measure(config)
        table = fit_latency.fit(config)
        progress.console.print(fit_latency.describe(config), highlight=False)
    graph, plain = graph_of(config, dataset), at_budget(config, config.search.budget)
    supernet = functools.cache(lambda: train_supernet.train(plain, dataset, graph))
    losses = functools.cache(lambda: baseline_widths.losses_of(plain, dataset, graph, supernet()))
    return Setting(config, dataset, graph, table, supernet, losses)


def choose(setting: Setting, budget: float) -> dict[str, Widths]:
    """Return the widths of every method at a budget, read back where they were chosen before.

    They hold the budget as measured; without rounds of repair, as the table predicts. A method that has no network
    within it is left out, and said to be.
    """
    setting = setting._replace(config=at_budget(setting.config, budget))
    config = setting.config
    folder = claim(
        config.run / 'chosen' / paths(config).budget,
        data=config.data,
        space=settings_of(config, setting.graph),
        supernet=recorded(config, setting.graph),
        accuracy=config.accuracy,
        search=config.search,
        also=stated(config),
        seed=config.seed,
    )
    found: dict[str, Widths] = {}
    for name in config.compare.methods:
        path = folder / f'{name}.json'
        with alone(config.run / 'preparing.lock'):
            if not path.exists():
                save_json(path, _chosen(name, setting))
        chosen = read_json(path)
        if 'none' in chosen:
            progress.console.print(f'{name} is left out: {chosen["none"]}', highlight=False)
            continue
        chosen = read_json(path, 'widths', 'ms')
        found[name] = tuple(chosen['widths'])
        search_widths.refuse_other_table(path.parent, chosen['ms'], float(setting.table.predict(found[name])))
    return _held(setting, folder, found) if config.repair.rounds and found else found


def _chosen(name: str, setting: Setting) -> dict[str, Any]:
    """Return what a method chooses by the table, or why a baseline has nothing to choose."""
    limit = budget_ms(setting.config, setting.table)
    if name in FIELDS:
        limits = limits_of(setting.config, setting.graph)
        choices = np.asarray(limits.solve(FIELDS[name](setting), setting.table.to_cost(), limit).choices)
    else:
        try:
            choices = BASELINES[name](setting, limit)
        except ValueError as error:
            return {'none': str(error)}
    widths = setting.graph.to_widths(choices)
    return {'widths': widths, 'ms': float(setting.table.predict(widths))}


def _held(setting: Setting, folder: Path, found: dict[str, Widths]) -> dict[str, Widths]:
    """Return the widths that hold the measured budget, of every method that has such; the others are named."""
    config = setting.config
    path = folder / 'measured' / f'{"-".join(sorted(found))}.json'
    with alone(config.run / 'preparing.lock'):
        claim(path.parent, repair=config.repair)
        if not path.exists():
            graph, table = setting.graph, setting.table
            fitted = fit_accuracy.fitted(config, setting.dataset, graph, table) if 'joint' in found else None
            methods, _ = repair_widths.held_by(
                config,
                graph,
                table,
                fitted,
                budget_ms(config, table),
                {name: FIELDS[name](setting) for name in found if name in FIELDS},
                {name: functools.partial(BASELINES[name], setting) for name in found if name in BASELINES},
            )
            save_json(path, methods)
    methods = read_json(path, *found)
    for name, method in methods.items():
        if not method['holds']:
            progress.console.print(
                f'{name} is left out: no network was found to hold the budget of {config.search.budget:.0%} '
                'as measured',
                highlight=False,
            )
    return {name: tuple(methods[name]['widths']) for name in found if methods[name]['holds']}


def _tested(results: list[dict[str, Any]], images: int) -> comparison.Tested:
    accuracy, loss = (np.array([each[f'test_{of}'] for each in results]) for of in ('accuracy', 'loss'))
    known = [train_subnet.right_of(each, images) for each in results]
    right = [each for each in known if each is not None]
    return comparison.Tested(accuracy, loss, np.stack(right) if len(right) == len(known) else None)


if __name__ == '__main__':
    from experiments.command_line import parse
    from experiments.stage import run_stage

    run_stage(main, parse(__doc__, 'compare', 'search', 'repair', 'accuracy', 'subnet'), keep_freed=True)
