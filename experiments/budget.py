"""The budget in milliseconds, and the latency field that it limits."""

import dataclasses

import numpy as np

from experiments.config import Config
from experiments.limits import limits_of, said
from experiments.paths import paths
from experiments.run_folder import Usage
from jcw import budget
from jcw.field import Field
from jcw.latency.table import LatencyTable
from jcw.search import ows
from jcw.search.limits import Limits

PER_CENT = 5.0
"""Fractions of the base network's latency from which on a budget was meant in per cent."""


def load_table(config: Config) -> LatencyTable:
    """Read the run's latency table.

    Raises:
      Usage: there is none yet.
    """
    path = paths(config).table
    if not path.exists():
        raise Usage(f'{path} is missing: run experiments.fit_latency first')
    return LatencyTable.load(path)


def budget_ms(config: Config, table: LatencyTable) -> float:
    """Return the configured budget in ms per call.

    Raises:
      Usage: it looks like per cent, or no configuration meets it and the further limits.
    """
    base, limits = float(table.predict(table.graph.base)), limits_of(config, table.graph)
    if config.search.budget_ms is None and config.search.budget >= PER_CENT:
        raise Usage(
            f"--search.budget {config.search.budget:g} looks like per cent: it is a fraction of the base network's "
            f'latency, such as {config.search.budget / 100:g}'
        )
    limit = config.search.budget * base if config.search.budget_ms is None else config.search.budget_ms
    flat, cost = ows.flat(table.graph), table.to_cost()
    least = float(budget.cheapest(limits.utility(flat), cost).cost)
    if not limit >= least:
        raise Usage(
            f'no configuration meets a budget of {limit:.3f} {unit(table)}: the smallest reachable latency is '
            f'{least:.3f} ms ({least / base:.1%} of the base network, whose {base:.3f} ms is predicted). '
            f'Try --search.budget {rounded_up(least / base):.2f} or more.'
        )
    if limits.costs and not limits.solve(flat, cost, limit).feasible:
        raise Usage(
            f'each limit can be met, but not all at once: {_least_of_each(flat, limits, cost, limit)}'
        )
    return limit


def rounded_up(share: float) -> float:
    """Return the least budget, in whole hundredths, that is well within reach of a network of this latency."""
    return float(np.ceil(100 * share + 1) / 100)


def unit(table: LatencyTable) -> str:
    """Say what the latencies of a table are of."""
    return per_call(table.provenance.get('batch', '?'))


def per_call(batch: int | str) -> str:
    """Say what a latency is of: `ms per call of 8 images`."""
    return f'ms per call of {batch} image{"" if batch == 1 else "s"}'


def describe(config: Config, table: LatencyTable) -> str:
    """Say what the budget is, of how many images, and that it excludes nothing where that is so."""
    limit = budget_ms(config, table)
    base, largest = (float(table.predict(widths)) for widths in (table.graph.base, table.graph.largest))
    said = f"Budget: {limit:.3f} {unit(table)}, {limit / base:.0%} of the base network's {base:.3f} ms (predicted)."
    if limit >= largest:
        said += f' Warning: it excludes nothing, since the largest network takes {largest:.3f} ms.'
    return said


def _least_of_each(flat: Field, limits: Limits, cost: Field, limit: float) -> str:
    """Say how little of each cost the limits on the others leave room for."""
    costs = {'this device': cost, **limits.costs}
    most = {'this device': limit, **limits.most}
    parts = []
    for name, own in costs.items():
        others = [other for other in costs if other != name]
        found = budget.cheapest(
            limits.utility(flat),
            own,
            beside=[costs[other] for other in others],
            most=[most[other] for other in others],
        )
        least = said(name, float(found.cost)) if found.feasible else 'nothing'
        parts.append(f'{least} within the others, {said(name, most[name])} allowed')
    return '; '.join(parts)


def budgets_ms(config: Config, table: LatencyTable) -> list[float]:
    """Return the budgets that share the short trainings, in ms: the search's own unless others are given."""
    shared = config.accuracy.budgets
    return [budget_ms(at_budget(config, each), table) for each in shared] or [budget_ms(config, table)]


def at_budget(config: Config, share: float, *, adaptive: bool = False) -> Config:
    """Return the configuration of a run at another budget, a fraction of the base network's latency."""
    search = dataclasses.replace(config.search, budget=share, budget_ms=None)
    supernet = dataclasses.replace(config.supernet, adaptive=adaptive)
    return dataclasses.replace(config, search=search, supernet=supernet)
