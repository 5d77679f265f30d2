"""What joint search is compared with beside greedy slimming: uniform widths, random search, FLOPs as the cost."""

from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array, Int, Key

from jcw import budget as budgets
from jcw import recursions
from jcw.field import Field, scores
from jcw.graph import Graph
from jcw.search import aows, ows
from jcw.search.limits import Limits, none

HostChoices = Int[np.ndarray, ' sites']
MULTIPLIERS = np.linspace(0.05, 3.0, 1181)
NEAR = 0.9  # random search looks at configurations that use at least this share of the budget
PROXY_BUDGETS = 400


def uniform(graph: Graph, cost: Field, budget: float, limits: Limits | None = None) -> HostChoices:
    """Return the configuration of the largest width multiplier whose cost is within the budget, and the limits.

    Raises:
      ValueError: no multiplier is.
    """
    limits = none(graph) if limits is None else limits
    ladder = np.unique([_nearest(graph, m * graph.base, limits.present) for m in MULTIPLIERS], axis=0)
    shares = limits.shares(cost, budget, ladder)
    within = ladder[shares <= 1]
    if not len(within):
        raise ValueError(
            f'no width multiplier is within the budget of {budget:.4g}: '
            f'the narrowest costs {scores(cost, ladder).min():.4g}'
            + (f' and uses {shares.min():.0%} of its tightest limit' if limits.costs else '')
        )
    return within[graph.to_widths(within).sum(1).argmax()]


def _nearest(graph: Graph, widths: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Return the choices of the nearest widths that are allowed, the smaller on a tie, no block dropped."""
    known = present & ((graph.width_table > 0) | (graph.width_table.max(1, keepdims=True) == 0))
    return np.where(known, np.abs(graph.width_table - widths[:, None]), np.inf).argmin(1)


def random_within(
    key: Key[Array, ''],
    graph: Graph,
    cost: Field,
    budget: float,
    count: int,
    limits: Limits | None = None,
) -> Int[np.ndarray, 'networks sites']:
    """Draw different configurations that use between `NEAR` of the budget and all of it.

    They come from the distribution of greatest entropy whose mean cost is in the middle of that interval. With further
    limits it is the tightest that counts, and each cost has its turn to be near its own. Fewer are returned where
    there are fewer.

    Raises:
      ValueError: `count` is not positive.
    """
    if count < 1:
        raise ValueError(f'count must be positive, got {count}')
    limits = none(graph) if limits is None else limits
    flat = limits.utility(ows.flat(graph))
    turns = [
        aows.priced(flat, each, aows.budget_price(flat, each, most * (1 + NEAR) / 2, 1.0), 1.0)
        for each, most in zip(*limits.priced(cost, budget), strict=True)
    ]
    draw = jax.jit(jax.vmap(recursions.sample, (0, None)))
    found: dict[tuple[int, ...], None] = {}
    for batch in range(64 * len(turns)):
        keys = jax.random.split(jax.random.fold_in(key, batch), 4 * max(count, 64))
        drawn = np.asarray(draw(keys, turns[batch % len(turns)]))
        shares = limits.shares(cost, budget, drawn)
        found |= dict.fromkeys(map(tuple, drawn[(shares >= NEAR) & (shares <= 1)].tolist()))
        if len(found) >= count:
            break
    return np.array(list(found)[:count], np.int32).reshape(-1, graph.num_sites)


def random_search(
    key: Key[Array, ''],
    graph: Graph,
    loss: Callable[[HostChoices], float],
    cost: Field,
    budget: float,
    evaluations: int,
    limits: Limits | None = None,
) -> HostChoices:
    """Return the configuration of least loss among `evaluations` random ones just within the budget.

    Raises:
      ValueError: no configuration was found there.
    """
    drawn = random_within(key, graph, cost, budget, evaluations, limits)
    if not len(drawn):
        raise ValueError(
            f'no configuration found that costs between {NEAR:.0%} of {budget:.4g} and all of it'
        )
    return drawn[np.argmin([loss(choices) for choices in drawn])]


def by_proxy(
    graph: Graph, utility: Field, proxy: Field, cost: Field, budget: float, limits: Limits | None = None
) -> HostChoices:
    """Return the joint optimum for a stand-in cost such as FLOPs, as large as the true cost and the limits allow.

    Of the best configurations at every budget of the proxy, it is the best one whose true cost is within the budget.

    Raises:
      ValueError: none is.
    """
    limits = none(graph) if limits is None else limits
    every = budgets.frontier(limits.utility(utility), proxy, PROXY_BUDGETS)
    choices = np.asarray(every.choices)
    within = limits.shares(cost, budget, choices) <= 1
    values = np.where(within, np.asarray(every.utility), -np.inf)
    if not np.isfinite(values).any():
        raise ValueError(f'no optimum of the stand-in cost is within the budget of {budget:.4g}')
    return choices[values.argmax()]
