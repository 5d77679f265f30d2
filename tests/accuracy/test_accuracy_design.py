import functools

import jax
import numpy as np
import pytest

from jcw.accuracy import design, table
from tests.accuracy.truth import SITES, WIDTHS, truth

KNOWN = truth(0)
NETWORKS = KNOWN.all()
COST = sum(np.array(site)[NETWORKS[:, number]] for number, site in enumerate(WIDTHS)).astype(float)
BUDGETS = (70.0, 100.0)


def cost(choices):
    return sum(np.array(site)[np.asarray(choices)[..., number]] for number, site in enumerate(WIDTHS))


def solve(unary, budget):
    within = NETWORKS[budget >= COST]
    return within[unary[np.arange(5), within].sum(1).argmax()]


def fitted(count=10):
    rng = np.random.default_rng(0)
    choices = KNOWN.random(rng, count)
    return table.refit(table.untrained(SITES, WIDTHS), choices, KNOWN.train(rng, choices))


def test_proposals_are_the_first_new_optima_of_draws():
    found, key = fitted(), jax.random.key(0)
    proposed = design.propose(key, found, solve, [BUDGETS[0]], 4)
    trained, expected = set(map(tuple, found.evidence.choices.tolist())), []
    for field in found.draw(key, design.DRAWS):
        feasible = [n for n in NETWORKS.tolist() if cost(n) <= BUDGETS[0]]
        best = max(
            feasible, key=lambda n, field=field: sum(field[site, choice] for site, choice in enumerate(n))
        )
        if tuple(best) not in trained:
            trained.add(tuple(best))
            expected.append(best)
        if len(expected) == 4:
            break
    assert proposed.tolist() == expected


def test_proposals_hold_a_budget_each_and_are_new_and_distinct():
    found = fitted()
    proposed = design.propose(jax.random.key(1), found, solve, BUDGETS, 6)
    assert len(np.unique(proposed, axis=0)) == len(proposed) == 6
    assert (cost(proposed) <= max(BUDGETS)).all()
    assert (cost(proposed) <= min(BUDGETS)).any()
    trained = {tuple(row) for row in found.evidence.choices.tolist()}
    assert not trained & {tuple(row) for row in proposed.tolist()}


def test_the_optima_of_the_mean_are_among_the_last():
    found, key = fitted(), jax.random.key(0)
    optima = [solve(found.unary(), budget).tolist() for budget in BUDGETS]
    proposed = design.propose(key, found, solve, BUDGETS, 5, last=True)
    assert proposed[:2].tolist() == optima
    assert len(np.unique(proposed, axis=0)) == 5
    known = np.concatenate([found.evidence.choices, proposed[:2]])
    again = design.propose(key, found, solve, BUDGETS, 3, trained=known, last=True)
    assert again.tolist() == proposed[2:].tolist()
    first, second = searched(8, budgets=[100.0], first=6, each=2)
    assert second.choices[6].tolist() == solve(first.table.unary(), 100.0).tolist()


def test_nothing_is_proposed_where_no_optimum_is_new():
    only = NETWORKS[COST <= 56.0]
    assert 0 < len(only) < 20
    proposed = design.propose(jax.random.key(0), fitted(), solve, [56.0], 4, trained=only)
    assert proposed.shape == (0, 5)


def searched(trainings, budgets=BUDGETS, **rounds):
    rng = np.random.default_rng(1)
    before = table.untrained(SITES, WIDTHS)
    train = functools.partial(KNOWN.train, rng)
    return list(design.search(jax.random.key(3), before, train, solve, budgets, trainings, **rounds))


def test_a_search_uses_its_trainings_in_rounds_and_trains_nothing_twice():
    rounds = searched(14, first=6, each=4)
    assert [len(found.choices) for found in rounds] == [6, 10, 14]
    assert len(np.unique(rounds[-1].choices, axis=0)) == 14
    assert len(rounds[-1].table.evidence.utility) == 14


def test_a_search_ends_when_no_optimum_is_new():
    least = float(COST.min())
    rounds = searched(60, budgets=[least + 8], first=4, each=4)
    within = (least + 8 >= COST).sum()
    assert len(rounds[-1].choices) <= within < 60


def test_a_search_finds_a_better_network_than_the_prior():
    regrets = []
    found = searched(18)[-1]
    for field in (found.table, table.untrained(SITES, WIDTHS)):
        chosen = [solve(field.unary(), budget) for budget in BUDGETS]
        best = [KNOWN.utility(NETWORKS[budget >= COST]).max() for budget in BUDGETS]
        regrets.append(sum(best) - sum(KNOWN.utility(network) for network in chosen))
    assert regrets[0] < regrets[1]


def test_the_winner_is_the_best_by_the_mean_of_those_that_hold_the_budget():
    found = fitted()
    candidates = KNOWN.random(np.random.default_rng(5), 30)
    holds = cost(candidates) <= 100
    won = design.winner(found, candidates, holds)
    mean = found.predict(candidates)[0]
    assert holds[won]
    assert mean[won] == mean[holds].max()
    assert (mean[~holds] > mean[won]).any()


def test_a_round_without_a_budget_or_a_winner_without_a_candidate_is_refused():
    found = fitted()
    with pytest.raises(ValueError, match='budgets'):
        design.propose(jax.random.key(0), found, solve, [], 4)
    with pytest.raises(ValueError, match='count'):
        design.propose(jax.random.key(0), found, solve, BUDGETS, 0)
    with pytest.raises(ValueError, match='none of 2'):
        design.winner(found, NETWORKS[:2], [False, False])
    with pytest.raises(ValueError, match='2 candidates but 1'):
        design.winner(found, NETWORKS[:2], [True])
