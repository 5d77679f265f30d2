"""Measured repair against a device whose truth is known."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from jcw.field import Field, chain_scopes, independent, scores
from jcw.graph import Widths
from jcw.search.repair import Repair, correction
from jcw.search.rounds import together
from tests.tiny_graph import chain

GRAPH = chain([('separable', 32, 3, 1)] * 4, (8, 8, 8), 5, levels=5)


def repair(graph, utility, cost, budget, measure, *, max_rounds=8, **settings):
    method = Repair(graph, utility, cost, budget, max_rounds=max_rounds, **settings)
    return together({'joint': method}, measure, max_rounds)['joint']


EVERY = np.array(list(itertools.product(*(range(n) for n in GRAPH.num_choices))), np.int32)


def fields(seed: int) -> tuple[Field, Field]:
    """Return a utility and the table's costs; both rise with width."""
    rng = np.random.default_rng(seed)
    shape = GRAPH.width_table.shape
    edges = (shape[0] - 1, shape[1], shape[1])
    utility = independent(rng.random(shape).cumsum(1))
    pairs = rng.random(edges).cumsum(1).cumsum(2) / 5
    return utility, Field(rng.random(shape).cumsum(1) / 5 + 0.2, pairs, chain_scopes(shape[0]))


class Device:
    """Times networks: the table's cost, off by a factor and by a part of every choice's own, with noise."""

    def __init__(
        self, cost: Field, factor: float, own: float = 0.0, noise: float = 0.0, seed: int = 0
    ) -> None:
        self.rng = np.random.default_rng(seed)
        off = own * self.rng.standard_normal(cost.unary.shape)
        self.cost = Field(factor * cost.unary + off, factor * cost.tables, cost.scopes)
        self.noise = noise
        self.timed: list[Widths] = []

    def truth(self, choices: np.ndarray) -> np.ndarray:
        return scores(self.cost, choices)

    def __call__(self, widths: Sequence[Widths]) -> tuple[np.ndarray, np.ndarray]:
        self.timed += widths
        true = self.truth(GRAPH.to_choices(widths))
        ratio = 1 + self.noise * self.rng.standard_normal(len(true))
        return true * ratio, np.full(len(true), max(self.noise, 1e-6))


def middle_budget(device: Device) -> float:
    return float(np.median(device.truth(EVERY)))


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('factor', [0.9, 1.0, 1.15])
def test_a_table_off_by_a_factor_is_repaired_to_the_true_optimum(seed, factor):
    utility, cost = fields(seed)
    device = Device(cost, factor)
    budget = middle_budget(device)
    result = repair(GRAPH, utility, cost, budget, device, k=3, max_rounds=12)
    best = scores(utility, EVERY)[device.truth(EVERY) <= budget].max()
    assert result.feasible
    assert result.complete
    assert result.utility >= best - 0.02 * abs(best)
    if factor == 1:
        assert result.utility == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize('seed', range(4))
def test_what_is_returned_holds_the_budget_with_its_confidence_interval(seed):
    utility, cost = fields(seed)
    device = Device(cost, 1.08, own=0.05, noise=0.01, seed=seed)
    budget = middle_budget(device)
    result = repair(GRAPH, utility, cost, budget, device, max_rounds=12)
    assert result.feasible
    assert result.measured * (1 + 1.96 * result.error) <= budget
    better = np.concatenate([r.utility for r in result.rounds]) > result.utility
    measured = np.concatenate([r.measured * (1 + 1.96 * r.error) for r in result.rounds])
    assert (measured[better] > budget).all()


def test_a_true_table_needs_one_round_and_times_the_best_first():
    utility, cost = fields(0)
    device = Device(cost, 1.0)
    result = repair(GRAPH, utility, cost, middle_budget(device), device, k=2)
    assert len(result.rounds) == 1
    assert device.timed[0] == tuple(result.widths.tolist())
    assert result.predicted == pytest.approx(result.measured)


def test_no_network_is_timed_twice():
    utility, cost = fields(1)
    device = Device(cost, 1.2, own=0.1, noise=0.02)
    repair(GRAPH, utility, cost, middle_budget(device), device)
    assert len(device.timed) == len(set(device.timed))


def test_a_pessimistic_table_that_puts_nothing_within_the_budget_is_put_right():
    utility, cost = fields(2)
    device = Device(cost, 0.5)
    budget = float(0.9 * scores(cost, EVERY).min())
    result = repair(GRAPH, utility, cost, budget, device, table_error=0.5, max_rounds=20)
    assert result.feasible
    assert result.measured <= budget


def test_a_budget_below_the_fastest_network_is_an_answer():
    utility, cost = fields(3)
    device = Device(cost, 1.0)
    budget = float(0.5 * device.truth(EVERY).min())
    result = repair(GRAPH, utility, cost, budget, device)
    assert not result.feasible
    assert result.complete
    assert result.measured == pytest.approx(device.truth(EVERY).min())


def test_rounds_are_bounded_and_unfinished_work_is_said():
    utility, cost = fields(0)
    device = Device(cost, 1.3)
    result = repair(GRAPH, utility, cost, middle_budget(device), device, k=1, max_rounds=1)
    assert len(result.rounds) == 1
    assert not result.complete


def test_the_correction_passes_through_exact_measurements_and_shrinks_noisy_ones():
    rng = np.random.default_rng(0)
    choices = EVERY[rng.choice(len(EVERY), 4, replace=False)]
    residual = rng.standard_normal(4)
    sites, width = GRAPH.width_table.shape
    fitted = correction(choices, residual, np.zeros(4), 1.0, (sites, width))
    exact = independent(fitted)
    np.testing.assert_allclose(scores(exact, choices), residual, atol=1e-5)
    noisy = exact.replace(unary=correction(choices, residual, np.full(4, 100.0), 1.0, (sites, width)))
    assert np.abs(scores(noisy, choices)).max() < 0.01


def test_the_correction_is_the_posterior_mean_of_its_prior():
    """Against the direct solution over all (site, choice) parameters."""
    choices, residual, noise = EVERY[[0, 7, 100]], np.array([0.3, -0.2, 0.1]), np.array([0.1, 0.2, 0.1])
    sites, width = GRAPH.width_table.shape
    one_hot = (choices[..., None] == np.arange(width)).reshape(3, -1)
    design = np.concatenate([np.ones((3, 1)), one_hot], 1) / noise[:, None]
    precision = np.diag(np.concatenate([[1.0], np.full(sites * width, sites)])) / 0.5**2
    mean = np.linalg.solve(precision + design.T @ design, design.T @ (residual / noise))
    field = correction(choices, residual, noise, 0.5, (sites, width))
    np.testing.assert_allclose(field, mean[0] / sites + mean[1:].reshape(sites, width), atol=1e-9)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'k': 0}, 'k'),
        ({'table_error': 0.0}, 'table_error'),
        ({'confidence': -1.0}, 'confidence'),
        ({'max_rounds': 0}, 'rounds'),
    ],
)
def test_arguments_out_of_range_are_refused(change, message):
    utility, cost = fields(0)
    with pytest.raises(ValueError, match=message):
        repair(GRAPH, utility, cost, 1.0, Device(cost, 1.0), **change)


def test_nonsense_from_the_device_is_refused():
    utility, cost = fields(0)
    with pytest.raises(ValueError, match='positive latencies'):
        repair(GRAPH, utility, cost, 100.0, lambda widths: (np.zeros(len(widths)), np.zeros(len(widths))))
