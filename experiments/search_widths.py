"""Find the best configuration within the budget, the frontier of all budgets, and what the baselines choose."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments import progress
from experiments.config import Config
from experiments.presets import parse
from experiments.run_folder import Usage, budget_name, claim, read_json, save_json, space_of
from experiments.subnet_loss import SubnetLoss
from experiments.train_supernet import Supernet, train
from experiments.train_supernet import folder_of as supernet_folder
from experiments.training import load_data
from jcw import budget, data
from jcw.field import Field, independent
from jcw.latency.table import LatencyTable
from jcw.search import baselines, greedy, ows, stats
from jcw.space import SearchSpace


def budget_ms(config: Config, table: LatencyTable) -> float:
    """Return the budget in ms per call.

    Raises:
      Usage: it is not positive, or no configuration meets it.
    """
    base = float(table.predict(table.space.base))
    limit = config.search.budget * base if config.search.budget_ms is None else config.search.budget_ms
    least = _least(table)
    if not limit >= least:
        raise Usage(
            f'no configuration meets a budget of {limit:.3f} ms: the smallest reachable latency is {least:.3f} ms '
            f'({least / base:.1%} of the base network, whose {base:.3f} ms is predicted). '
            f'Try --search.budget {np.ceil(100 * least / base + 1) / 100:.2f} or more.'
        )
    return limit


def _least(table: LatencyTable) -> float:
    present = np.where(table.space.width_table > 0, 0.0, -np.inf)
    return float(budget.solve(independent(present), table.to_cost(), 0.0).cost)


def field_of(config: Config, supernet: Supernet, space: SearchSpace) -> Field:
    """Return the accuracy field, from the supernet's width statistics."""
    return ows.to_field(stats.to_unary(supernet.width_stats, space.num_choices, config.search.ridge), space)


def folder_of(config: Config) -> Path:
    """Return the folder of the configured budget's results."""
    return config.run / ('search_adaptive' if config.supernet.adaptive else 'search') / budget_name(config)


def search(
    config: Config, dataset: data.Dataset, space: SearchSpace, table: LatencyTable, supernet: Supernet
) -> dict[str, Any]:
    """Return widths by method: joint, and uniform and greedy where they reach the budget; write all of it."""
    limit = budget_ms(config, table)
    folder = claim(
        folder_of(config),
        data=config.data,
        space=config.space,
        supernet=config.supernet,
        search=config.search,
        seed=config.seed,
    )
    if (folder / 'result.json').exists():
        result = read_json(folder / 'result.json')
        refuse_other_table(folder, result['base_ms'], float(table.predict(space.base)))
        return result
    utility, cost = field_of(config, supernet, space), table.to_cost()
    solution = budget.solve(utility, cost, limit)
    frontier = budget.frontier(utility, cost, config.search.frontier)
    losses = losses_of(config, dataset, space, supernet)
    choices = {
        'joint': np.asarray(solution.choices),
        **_within_reach('uniform', lambda: baselines.uniform(space, cost, limit)),
        **_within_reach('greedy', lambda: slim(config, space, table, losses, limit)),
    }
    result = {
        'budget_ms': limit,
        'base_ms': float(table.predict(space.base)),
        'gap': float(solution.upper_bound - solution.utility),
        'methods': {
            name: {'widths': space.to_widths(c), 'ms': float(table.predict(space.to_widths(c)))}
            for name, c in choices.items()
        },
        'explanation': explain(space, utility, cost, limit, np.asarray(solution.choices)),
        'frontier': {'ms': frontier.cost, 'utility': frontier.utility, 'choices': frontier.choices},
    }
    save_json(folder / 'result.json', result)
    return read_json(folder / 'result.json')


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


def _within_reach(name: str, choose: Callable[[], np.ndarray]) -> dict[str, np.ndarray]:
    """Return what a baseline chooses; nothing where it has no network within the budget, which is said."""
    try:
        return {name: choose()}
    except ValueError as error:
        progress.console.print(f'{name} is left out: {error}', highlight=False)
        return {}


def explain(
    space: SearchSpace, utility: Field, cost: Field, limit: float, choices: np.ndarray
) -> dict[str, Any]:
    """Return what drives the solution: each layer's part, the price of a millisecond, and the next-best change."""
    found = budget.explain(utility, cost, limit, choices)
    layer, widths = found.next_site, space.to_widths(choices)
    change = None
    if layer >= 0:
        changed = choices.copy()
        changed[layer] = found.next_choice[layer]
        change = {
            'layer': layer,
            'from': widths[layer],
            'to': space.to_widths(changed)[layer],
            'utility': found.next_utility[layer],
            'ms': found.next_cost[layer],
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
    found = result['explanation']
    change = found['next_change']
    price = f'At this budget a millisecond is worth {found["price_per_ms"]:.3f} nats.'
    if change is None:
        return price
    return (
        f'{price} The next-best change within the budget: layer {change["layer"]} from {change["from"]} to '
        f'{change["to"]} channels, {change["utility"]:+.4f} nats and {change["ms"]:+.4f} ms.'
    )


def slim(
    config: Config,
    space: SearchSpace,
    table: LatencyTable,
    loss: Callable[[np.ndarray], float],
    limit: float,
) -> np.ndarray:
    """Slim greedily to the limit; the way down to a lower limit goes on from there, every loss remembered."""
    begin, steps = float(table.predict(space.largest)), 0
    with progress.bar('Greedy slimming', 100) as update:

        def report(step: greedy.Step) -> None:
            nonlocal steps
            steps += 1
            done = (begin - step.cost) / (begin - limit)
            update(min(int(100 * done), 100), f'{step.cost:.3f} ms, loss {step.loss:.3f}, {steps} steps')

        way = greedy.slim(
            space,
            loss,
            lambda choices: float(table.predict(space.to_widths(choices))),
            limit,
            per_cost=config.search.greedy_per_ms,
            report=report,
        )
    return np.asarray(way[-1].choices)


def losses_of(config: Config, dataset: data.Dataset, space: SearchSpace, supernet: Supernet) -> 'Losses':
    """Return the loss of the supernet's subnets on validation images, by choices, remembered beside the supernet."""
    images = config.search.greedy_images
    if images < 1:
        raise Usage(f'search.greedy_images must be positive, got {images}')
    measure = SubnetLoss(config, dataset, space, supernet.variables, images)
    path = supernet_folder(config) / f'losses_{images}.jsonl'
    return Losses(path, lambda choices: float(measure(space.to_widths(choices)).loss))


class Losses:
    """A loss function that remembers, in a file of JSON lines, what it has been asked."""

    def __init__(self, path: Path, loss: Callable[[np.ndarray], float]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._loss = path, loss
        text = path.read_text() if path.exists() else ''
        whole = text[: text.rfind('\n') + 1]
        if whole != text:
            os.truncate(path, len(whole.encode()))  # a line that was being written when the process died
        self._known = {tuple(choices): value for choices, value in map(json.loads, whole.splitlines())}

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
            self._known[key] = value
            with self._path.open('a') as file:
                file.write(f'[{list(key)}, {self._known[key]}]\n')
        return self._known[key]


def main(config: Config) -> None:
    path = config.run / 'latency' / 'table.json'
    if not path.exists():
        raise Usage(f'{path} is missing: run experiments.fit_latency first')
    table = LatencyTable.load(path)
    budget_ms(config, table)
    dataset = load_data(config)
    space = space_of(config, dataset)
    trained = supernet_folder(config)
    if not (trained / 'result.json').exists():
        raise Usage(f'{trained} holds no trained supernet: run experiments.train_supernet first')
    result = search(config, dataset, space, table, train(config, dataset, space))
    for name, found in result['methods'].items():
        progress.console.print(
            f'{name:8} {found["ms"]:.3f} ms of {result["budget_ms"]:.3f}  {found["widths"]}', highlight=False
        )
    progress.console.print(describe_drivers(result), highlight=False)


if __name__ == '__main__':
    from experiments.run_folder import run_stage

    run_stage(main, parse(__doc__), keep_freed=True)
