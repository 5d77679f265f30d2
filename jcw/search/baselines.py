"""What joint search is compared with beside greedy slimming: uniform widths, random search, FLOPs as the cost."""

from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array, Int, Key

from jcw import budget as budgets
from jcw import trellis
from jcw.field import Field, evaluate
from jcw.graph import Graph
from jcw.search import aows, ows

Choices = Int[np.ndarray, ' sites']

MULTIPLIERS = np.linspace(0.05, 3.0, 1181)
NEAR = 0.9  # random search looks at configurations that use at least this share of the budget
PROXY_BUDGETS = 400


def uniform(graph: Graph, cost: Field, budget: float) -> Choices:
    """Return the configuration of the largest width multiplier whose cost is within the budget.

    Raises:
      ValueError: no multiplier is.
    """
    ladder = np.unique(
        [graph.to_choices(graph.nearest(m * graph.base)) for m in MULTIPLIERS],
        axis=0,
    )
    within = ladder[evaluate(cost, ladder) <= budget]
    if not len(within):
        raise ValueError(
            f'no width multiplier is within the budget of {budget:.4g}: '
            f'the narrowest costs {evaluate(cost, ladder).min():.4g}'
        )
    return within[graph.to_widths(within).sum(1).argmax()]


def random_within(
    key: Key[Array, ''], graph: Graph, cost: Field, budget: float, count: int
) -> Int[np.ndarray, 'networks sites']:
    """Draw different configurations that cost between `NEAR` of the budget and the budget.

    They come from the distribution of greatest entropy whose mean cost is in the middle of that interval. Fewer
    are returned where there are fewer.

    Raises:
      ValueError: `count` is not positive.
    """
    if count < 1:
        raise ValueError(f'count must be positive, got {count}')
    flat = ows.flat(graph)
    field = aows.priced(flat, cost, aows.budget_price(flat, cost, budget * (1 + NEAR) / 2, 1.0), 1.0)
    draw = jax.jit(jax.vmap(lambda k: trellis.sample(k, field)))
    found: dict[tuple[int, ...], None] = {}
    for batch in range(64):
        drawn = np.asarray(draw(jax.random.split(jax.random.fold_in(key, batch), 4 * max(count, 64))))
        costs = evaluate(cost, drawn)
        near = drawn[(costs >= NEAR * budget) & (costs <= budget)]
        found |= dict.fromkeys(map(tuple, near.tolist()))
        if len(found) >= count:
            break
    return np.array(list(found)[:count], np.int32).reshape(-1, graph.num_sites)


def random_search(
    key: Key[Array, ''],
    graph: Graph,
    loss: Callable[[Choices], float],
    cost: Field,
    budget: float,
    evaluations: int,
) -> Choices:
    """Return the configuration of least loss among `evaluations` random ones just within the budget.

    Raises:
      ValueError: no configuration was found there.
    """
    drawn = random_within(key, graph, cost, budget, evaluations)
    if not len(drawn):
        raise ValueError(
            f'no configuration found that costs between {NEAR:.0%} of {budget:.4g} and all of it'
        )
    return drawn[np.argmin([loss(choices) for choices in drawn])]


def by_proxy(utility: Field, proxy: Field, cost: Field, budget: float) -> Choices:
    """Return the joint optimum for a stand-in cost such as FLOPs, as large as the true cost allows.

    Of the best configurations at every budget of the proxy, it is the best one whose true cost is within the budget.

    Raises:
      ValueError: none is.
    """
    every = budgets.frontier(utility, proxy, PROXY_BUDGETS)
    choices = np.asarray(every.choices)
    values = np.where(evaluate(cost, choices) <= budget, np.asarray(every.utility), -np.inf)
    if not np.isfinite(values).any():
        raise ValueError(f'no optimum of the stand-in cost is within the budget of {budget:.4g}')
    return choices[values.argmax()]
