"""What a network must hold beside the budget on this device: the settings of `search`, as conditions of the solver."""

import functools
import hashlib
from pathlib import Path

import numpy as np

from experiments.config import Config, SearchConfig
from experiments.run_folder import Usage
from jcw import budget, constraints, records
from jcw.field import Field, add
from jcw.graph import Graph
from jcw.latency import sizes
from jcw.latency.table import LatencyTable, params_table
from jcw.search import ows
from jcw.search.limits import Limits

KIB = 1024


@functools.lru_cache(maxsize=8)
def limits_of(config: Config, graph: Graph) -> Limits:
    """Return the limits of a run; those of other devices are named by their folders.

    Raises:
      Usage: one that no network holds, with the least that some network does, or another device without a table.
    """
    settings, whole = config.search, counted(config, graph)
    costs, most = dict(whole.costs), dict(whole.most)
    for entry in settings.also:
        name, limit, table = _elsewhere(entry)
        if name in costs:
            raise Usage(f'--search.also names {name!r} twice: give the folders different names')
        try:
            costs[name], most[name] = table.to_cost(graph), limit
        except ValueError as error:
            raise Usage(f'--search.also {entry}: {error}: time the networks of this run there') from None
    limits = Limits(whole.allowed, costs, most)
    for name, cost in costs.items():
        least = float(budget.cheapest(limits.utility(ows.flat(graph)), cost).cost)
        if not most[name] >= least:
            raise Usage(
                f'no configuration is within {said(name, most[name])}: the least reachable is {said(name, least)}'
            )
    return limits


def counted(config: Config, graph: Graph) -> Limits:
    """Return the limits that need no other device."""
    settings, dtype = config.search, config.latency.dtype
    allowed = add(ows.flat(graph), _widths(settings, graph))
    costs: dict[str, Field] = {}
    most: dict[str, float] = {}
    if settings.peak_kib is not None:
        size = sizes.BYTES[dtype] / KIB
        least = sizes.least_peak(graph, allowed) * size
        if not settings.peak_kib >= least:
            raise Usage(
                f'no configuration has a peak within --search.peak-kib {settings.peak_kib:g}: the least reachable is '
                f'{least:.1f} KiB, in {dtype}'
            )
        allowed = add(allowed, sizes.peak_within(graph, settings.peak_kib / size))
    if settings.parameters is not None:
        costs['parameters'], most['parameters'] = params_table(graph).to_cost(), settings.parameters
    if settings.file_kib is not None:
        cost = sizes.file_table(graph, 'int8' if dtype == 'int8' else 'float32').to_cost()
        costs['file'] = cost.replace(unary=cost.unary / KIB, tables=cost.tables / KIB)
        most['file'] = settings.file_kib
    return Limits(allowed, costs, most)


def stated(config: Config) -> dict[str, str] | None:
    """Return what decides other devices' limits beside the settings: their tables, by digest."""
    tables = [_parts(entry)[1] for entry in config.search.also]
    return {str(path): hashlib.sha256(records.read(path)).hexdigest() for path in tables} or None


def said(name: str, value: float) -> str:
    """Say a cost or a limit in its unit."""
    if name == 'parameters':
        return f'{value:,.0f} parameters'
    return f'{np.ceil(10 * value) / 10:,.1f} KiB of file' if name == 'file' else f'{value:.3f} ms on {name}'


def describe(most: dict[str, float], beside: dict[str, float]) -> str:
    """Say what a network takes of further limits, which nobody has measured; nothing where there are none."""
    parts = [f'{said(name, beside[name])} of {most[name]:,g}' for name in most]
    return f'by tables alone: {"; ".join(parts)}' if parts else ''


def _widths(settings: SearchConfig, graph: Graph) -> Field:
    """Allow the widths that the settings do.

    Raises:
      Usage: a site has none.
    """
    divisor, least = settings.multiple, settings.least_width
    if divisor < 1 or least < 0:
        raise Usage(f'--search.multiple is at least 1 and --search.least-width 0, got {divisor} and {least}')
    widths, sizes_of = graph.width_table, graph.num_choices
    held = np.where(graph.present & (widths % divisor == 0), widths, -1).max(1)
    site = int(held.argmin())
    if held[site] < max(least, 1):
        name, choices = graph.site_names[site], list(graph.width_choices[site])
        raise Usage(
            f'site {name!r} has the widths {choices}, none of which --search.multiple {divisor} and '
            f'--search.least-width {least} allow: '
            + (
                f'its multiples go up to {held[site]}'
                if held[site] > 0
                else f'all its widths are multiples of {np.gcd.reduce(widths[site][graph.present[site]])}'
            )
        )
    multiples = constraints.multiples_of(widths, sizes_of, divisor)
    return add(multiples, constraints.at_least(widths, sizes_of, least)) if least else multiples


def _elsewhere(entry: str) -> tuple[str, float, LatencyTable]:
    name, path, limit = _parts(entry)
    if not path.exists():
        raise Usage(f'--search.also {entry}: {path} is missing, run experiments.fit_latency there first')
    return name, limit, LatencyTable.load(path)


def _parts(entry: str) -> tuple[str, Path, float]:
    """Take `runs/phone:2.5` apart: the device's name, its table and its budget in ms."""
    folder, _, limit = entry.rpartition(':')
    try:
        most = float(limit)
    except ValueError:
        most = 0.0
    if not folder or not 0 < most < np.inf:
        raise Usage(f'--search.also {entry}: expected FOLDER:MS, such as runs/phone:2.5')
    return Path(folder).name, Path(folder) / 'latency' / 'table.json', most
