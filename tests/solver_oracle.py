"""Independent answers to budgeted problems: the full table of configurations, and HiGHS' integer program."""

import itertools

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import lil_array

from jcw.field import Field, chain_scopes

TREE = ((2, 0), (1, 2), (2, 3))
RESIDUAL = ((0, 1), (2, 0), (2, 3), (1, 2), (2, 1))  # a triangle, a leaf, and two factors on one pair


def random_field(rng, sites, choices, scopes=None, *, pairs=True, integers=False):
    """Draw a field with entries in [0, 1), or integers below 10; on a chain unless scopes are given."""
    scopes = chain_scopes(sites) if scopes is None else scopes
    draw = (lambda shape: rng.integers(0, 10, shape).astype(float)) if integers else rng.random
    shape = (len(scopes), choices, choices)
    return Field(draw((sites, choices)), draw(shape) if pairs else np.zeros(shape), scopes)


def random_scopes(rng, sites, extra=0):
    """Draw a tree on the sites with `extra` more factors, in any order and orientation."""
    tree = [(int(rng.integers(site)), site) for site in range(1, sites)]
    more = [tuple(rng.choice(sites, 2, replace=False).tolist()) for _ in range(extra)]
    names = rng.permutation(sites).tolist()
    scopes = [(names[i], names[j])[:: rng.choice([-1, 1])] for i, j in tree + more]
    return tuple(scopes[place] for place in rng.permutation(len(scopes)))


def table(field):
    """Return every configuration and its score, by plain loops."""
    sites, choices = field.unary.shape
    configurations = np.array(list(itertools.product(range(choices), repeat=sites)))
    scores = np.zeros(len(configurations))
    for site in range(sites):
        scores = scores + field.unary[site, configurations[:, site]]
    for (i, j), pairs in zip(field.scopes, field.tables, strict=True):
        scores = scores + pairs[configurations[:, i], configurations[:, j]]
    return configurations, scores


def best_by_table(utility, costs, budgets):
    """Return the utilities of all configurations within the budgets, best first."""
    _, values = table(utility)
    within = np.all([table(cost)[1] <= budget for cost, budget in zip(costs, budgets, strict=True)], axis=0)
    return -np.sort(-values[within & (values > -np.inf)])


def best_by_highs(utility, costs, budgets, seconds=np.inf):
    """Solve the integer program over one-hot choices and pairs; the configuration, or None if infeasible."""
    fields = (utility, *costs)
    sites, choices = utility.unary.shape
    factors = [(scope, index) for index, field in enumerate(fields) for scope in field.scopes]
    singles, pairs = sites * choices, len(factors) * choices**2
    flows = lil_array((sites + 2 * len(factors) * choices, singles + pairs))
    for site in range(sites):
        flows[site, site * choices : (site + 1) * choices] = 1
    row = sites
    for factor, ((i, j), _) in enumerate(factors):
        first = singles + factor * choices**2
        for choice in range(choices):
            flows[row, first + choice * choices : first + (choice + 1) * choices] = 1
            flows[row, i * choices + choice] = -1
            flows[row + 1, first + choice : first + choices**2 : choices] = 1
            flows[row + 1, j * choices + choice] = -1
            row += 2

    def weights(index):
        blocks = np.zeros((len(factors), choices, choices))
        blocks[[of == index for _, of in factors]] = fields[index].tables
        return np.concatenate([fields[index].unary.ravel(), blocks.ravel()])

    ones = np.concatenate([np.ones(sites), np.zeros(flows.shape[0] - sites)])
    spent = np.stack([weights(1 + index) for index in range(len(costs))])
    answer = milp(
        -weights(0),
        constraints=[LinearConstraint(flows.tocsr(), ones, ones), LinearConstraint(spent, -np.inf, budgets)],
        integrality=np.concatenate([np.ones(singles), np.zeros(pairs)]),
        bounds=Bounds(0, 1),
        options={'mip_rel_gap': 0, 'time_limit': seconds},
    )
    if answer.x is None:
        return None
    return answer.x[:singles].reshape(sites, choices).argmax(1)
