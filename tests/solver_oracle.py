"""Independent answers to budgeted problems: the full table of configurations, and HiGHS' integer program."""

import itertools

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import lil_array

from jcw.mrf import ChainMRF


def random_field(rng, layers, choices, *, pairs=True, integers=False):
    """Draw a field with entries in [0, 1), or integers below 10."""
    draw = (lambda shape: rng.integers(0, 10, shape).astype(float)) if integers else rng.random
    pairwise = draw((layers - 1, choices, choices)) if pairs else np.zeros((layers - 1, choices, choices))
    return ChainMRF(draw((layers, choices)), pairwise)


def table(field):
    """Return every configuration and its score, by plain loops over the layers."""
    layers, choices = field.unary.shape
    configurations = np.array(list(itertools.product(range(choices), repeat=layers)))
    scores = field.unary[0, configurations[:, 0]].astype(float)
    for layer in range(1, layers):
        before, here = configurations[:, layer - 1], configurations[:, layer]
        scores = scores + field.unary[layer, here] + field.pairwise[layer - 1, before, here]
    return configurations, scores


def best_by_table(utility, costs, budgets):
    """Return the utilities of all configurations within the budgets, best first."""
    _, values = table(utility)
    within = np.all([table(cost)[1] <= budget for cost, budget in zip(costs, budgets, strict=True)], axis=0)
    return -np.sort(-values[within & (values > -np.inf)])


def best_by_highs(utility, costs, budgets, seconds=np.inf):
    """Solve the integer program over one-hot choices and pairs; the configuration, or None if infeasible."""
    layers, choices = utility.unary.shape
    singles, pairs = layers * choices, (layers - 1) * choices**2
    flows = lil_array((layers + 2 * (layers - 1) * choices, singles + pairs))
    for layer in range(layers):
        flows[layer, layer * choices : (layer + 1) * choices] = 1
    row = layers
    for edge in range(layers - 1):
        first = singles + edge * choices**2
        for choice in range(choices):
            flows[row, first + choice * choices : first + (choice + 1) * choices] = 1
            flows[row, edge * choices + choice] = -1
            flows[row + 1, first + choice : first + choices**2 : choices] = 1
            flows[row + 1, (edge + 1) * choices + choice] = -1
            row += 2
    ones = np.concatenate([np.ones(layers), np.zeros(flows.shape[0] - layers)])
    spent = np.stack([np.concatenate([cost.unary.ravel(), cost.pairwise.ravel()]) for cost in costs])
    answer = milp(
        -np.concatenate([utility.unary.ravel(), utility.pairwise.ravel()]),
        constraints=[LinearConstraint(flows.tocsr(), ones, ones), LinearConstraint(spent, -np.inf, budgets)],
        integrality=np.concatenate([np.ones(singles), np.zeros(pairs)]),
        bounds=Bounds(0, 1),
        options={'mip_rel_gap': 0, 'time_limit': seconds},
    )
    if answer.x is None:
        return None
    return answer.x[:singles].reshape(layers, choices).argmax(1)
