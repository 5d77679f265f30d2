"""Find the best configuration within the budget, the frontier of all budgets, and what the baselines choose."""

from pathlib import Path
from typing import Any

import numpy as np

from experiments import fit_accuracy, pictures, progress, spent
from experiments.baseline_widths import baselines_of, within_reach
from experiments.budget import budget_ms, describe, load_table
from experiments.config import Config
from experiments.limits import counted, limits_of, stated
from experiments.paths import paths
from experiments.run_folder import Usage, claim, read_found, read_json, save_json
from experiments.space import graph_of, settings_of
from experiments.start import recorded
from experiments.train_supernet import Supernet, train
from experiments.training import load_data
from jcw import budget, data
from jcw.field import Field
from jcw.graph import Graph
from jcw.latency.table import LatencyTable
from jcw.search import ows, stats
from jcw.search.limits import Limits
from jcw.search.many import solve_many

HERE = 'this device'


def utility_of(config: Config, dataset: data.Dataset, graph: Graph, table: LatencyTable) -> Field:
    """Return the field that joint search maximises: fitted to short trainings, or the supernet's rewards alone."""
    accuracy = fit_accuracy.fitted(config, dataset, graph, table)
    if accuracy:
        return ows.fitted(accuracy, graph)
    return rewards_of(config, train(config, dataset, graph), graph)


def rewards_of(config: Config, supernet: Supernet, graph: Graph) -> Field:
    """Return the accuracy field that a supernet's width statistics suggest, in nats."""
    return ows.to_field(stats.to_unary(supernet.width_stats, graph.num_choices, config.search.ridge), graph)


def search(config: Config, dataset: data.Dataset, graph: Graph, table: LatencyTable) -> dict[str, Any]:
    """Return widths by method: joint, and uniform and greedy where they reach the budget; write all of it."""
    limit, path = budget_ms(config, table), paths(config).search / 'result.json'
    claim(
        path.parent,
        data=config.data,
        space=settings_of(config, graph),
        supernet=recorded(config, graph),
        accuracy=config.accuracy,
        search=config.search,
        also=stated(config),
        seed=config.seed,
    )
    if path.exists():
        result = read_found(path)
        refuse_other_table(path.parent, result['base_ms'], float(table.predict(graph.base)))
        return result
    limits, cost = limits_of(config, graph), table.to_cost()
    utility = limits.utility(utility_of(config, dataset, graph, table))
    (_, *beside), (_, *most) = limits.priced(cost, limit)
    labels = 256 if beside else 4096  # with several costs, some points of a plot are left unproven
    with spent.on(config.run, 'solving'):
        solution = limits.solve(utility, cost, limit)
        frontier = budget.frontier(
            utility, cost, config.search.frontier, beside=beside, most=most, max_labels=labels
        )
    others = baselines_of(config, dataset, graph, table, train(config, dataset, graph))
    choices = {'joint': np.asarray(solution.choices), **within_reach(others, limit, say=True)}
    result = {
        'budget_ms': limit,
        'base_ms': float(table.predict(graph.base)),
        'unit': '%' if config.accuracy.trainings and config.accuracy.measure == 'accuracy' else 'nats',
        'gap': float(solution.upper_bound - solution.utility),
        'methods': {
            name: {
                'widths': graph.to_widths(c),
                'ms': float(table.predict(graph.to_widths(c))),
                'beside': limits.beside(c),
            }
            for name, c in choices.items()
        },
        'limits': limits.most,
        'devices': devices(config, graph, utility, cost, limit) if config.search.also else {},
        'explanation': explain(graph, utility, cost, limit, np.asarray(solution.choices), limits),
        'frontier': {'ms': frontier.cost, 'utility': frontier.utility, 'choices': frontier.choices},
    }
    save_json(path, result)
    pictures.save(config, 'frontier.png', pictures.frontier(read_json(path)))
    return read_found(path)


def refuse_other_table(folder: Path, then_ms: float, now_ms: float) -> None:
    """See that the table predicts for a network what it did when the folder's results were found.

    Raises:
      Usage: it was fitted anew since.
    """
    if not np.isclose(then_ms, now_ms, rtol=1e-9, atol=0):
        raise Usage(
            f'{folder} holds results of another latency table, by which a network took {then_ms:.4g} ms that now takes '
            f'{now_ms:.4g} ms. Give another --run folder, or remove this one to search again.'
        )


def devices(config: Config, graph: Graph, utility: Field, cost: Field, limit: float) -> dict[str, Any]:
    """Return the network that each device would get alone, by tables, and what it takes on every device."""
    every, own = limits_of(config, graph), counted(config, graph)
    costs, budgets = {HERE: cost}, {HERE: limit}
    for name in every.costs.keys() - own.costs.keys():
        costs[name], budgets[name] = every.costs[name], every.most[name]
    found = solve_many(utility, costs, budgets, limits=own)
    return {
        name: {
            'budget_ms': budgets[name],
            'widths': graph.to_widths(alone.choices),
            'utility': alone.utility,
            'ms': found.costs[name],
        }
        for name, alone in found.each.items()
    }


def describe_devices(result: dict[str, Any]) -> list[str]:
    """Say in a line for each device what its own network would take on every device; nothing for one device."""
    return [
        f'{name} alone, {found["budget_ms"]:.3f} ms: '
        + ', '.join(f'{ms:.3f} ms on {where}' for where, ms in found['ms'].items())
        + f'  {found["widths"]}'
        for name, found in result.get('devices', {}).items()
    ]


def explain(
    graph: Graph, utility: Field, cost: Field, limit: float, choices: np.ndarray, limits: Limits
) -> dict[str, Any]:
    """Return what drives the solution: each site's part, the price of a millisecond, and the next-best change."""
    (_, *beside), (_, *most) = limits.priced(cost, limit)
    found = budget.explain(utility, cost, limit, choices, beside=beside, most=most)
    site, widths = found.next_site, graph.to_widths(choices)
    change = None
    if site >= 0:
        changed = choices.copy()
        changed[site] = found.next_choice[site]
        change = {
            'site': graph.site_names[site],
            'from': widths[site],
            'to': graph.to_widths(changed)[site],
            'utility': found.next_utility[site],
            'ms': found.next_cost[site],
        }
    return {
        'price_per_ms': found.price,
        'utility': found.utility,
        'ms': found.cost,
        'gain_per_ms': found.gain_per_cost,
        'loss_per_ms': [float(v) if np.isfinite(v) else None for v in found.loss_per_cost],
        'next_change': change,
    }


def describe_drivers(result: dict[str, Any]) -> str:
    """Say what a millisecond is worth at the optimum and which single change within the budget is the next best."""
    found, unit = result['explanation'], result['unit']
    change = found['next_change']
    price = f'At this budget a millisecond is worth {found["price_per_ms"]:.3f} {unit}.'
    if change is None:
        return price
    return (
        f'{price} The next-best change within the budget: site {change["site"]} from {change["from"]} to '
        f'{change["to"]} channels, {change["utility"]:+.4f} {unit} and {change["ms"]:+.4f} ms.'
    )


def main(config: Config) -> None:
    table = load_table(config)
    progress.console.print(describe(config, table), highlight=False)
    dataset = load_data(config)
    graph = graph_of(config, dataset)
    trained = paths(config).supernet
    if not (trained / 'result.json').exists():
        raise Usage(f'{trained} holds no trained supernet: run experiments.train_supernet first')
    result = search(config, dataset, graph, table)
    for name, found in result['methods'].items():
        progress.console.print(
            f'{name:8} {found["ms"]:.3f} ms of {result["budget_ms"]:.3f}  {found["widths"]}', highlight=False
        )
    for line in describe_devices(result):
        progress.console.print(line, highlight=False)
    progress.console.print(describe_drivers(result), highlight=False)


if __name__ == '__main__':
    from experiments.command_line import parse
    from experiments.stage import run_stage

    run_stage(main, parse(__doc__, 'search', 'accuracy'), keep_freed=True)
