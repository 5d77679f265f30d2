import jax
import numpy as np
import pytest

from jcw.latency import design, prior, uncertainty
from jcw.latency.entries import Entries
from jcw.latency.fit import _precision, default_strengths, fit_table
from jcw.latency.metrics import errors
from tests.latency.simulated import small_graph, true_table

GRAPH = small_graph()
ENTRIES = Entries(GRAPH)
TABLE = true_table(GRAPH)
BASE = 0.3


def timed(count: int, seed: int = 0, noise: float = 0.01) -> tuple[np.ndarray, np.ndarray]:
    widths = design.random_networks(jax.random.key(seed), GRAPH, count)
    incidence = ENTRIES.incidence(GRAPH.to_choices(widths))
    rng = np.random.default_rng(seed)
    return incidence, (incidence @ TABLE + BASE) * np.exp(noise * rng.standard_normal(count))


def fitted(incidence, latency, strengths=None, **about):
    about = {'prior': prior.roofline(ENTRIES), **about}
    strengths = default_strengths() if strengths is None else strengths
    return fit_table(incidence, latency, ENTRIES.monotone_pairs, strengths, **about)


def test_unseen_networks_are_predicted_to_the_noise():
    fit = fitted(*timed(150))
    incidence, latency = timed(200, seed=1, noise=0.0)
    assert errors(incidence @ fit.entries + fit.base, latency).nrmse < 0.01
    assert fit.entries.min() >= 0
    assert fit.residual < 1e-4


def test_the_prior_makes_few_samples_go_further_than_plain_least_squares():
    incidence, latency = timed(60)
    held_out, expected = timed(200, seed=1, noise=0.0)
    ridge = np.array([(q, v) for q in (0.0, 1.0) for v in (1.0, 100.0, 10000.0)], np.float32)
    plain = fitted(incidence, latency, ridge, prior=prior.flat(ENTRIES))
    informed = fitted(incidence, latency)
    nrmse = [errors(held_out @ fit.entries + fit.base, expected).nrmse for fit in (plain, informed)]
    assert nrmse[1] < 0.7 * nrmse[0]


def test_the_cross_validated_error_is_that_of_new_networks():
    fit = fitted(*timed(200))
    incidence, latency = timed(300, seed=1)
    assert errors(incidence @ fit.entries + fit.base, latency).nrmse == pytest.approx(
        fit.held_out.nrmse, rel=0.25
    )


def test_the_chosen_strength_has_the_least_cross_validated_error():
    strengths = default_strengths()
    fit = fitted(*timed(80), strengths)
    assert fit.strength.tolist() == strengths[fit.curve.argmin()].tolist()
    assert fit.held_out.nrmse == pytest.approx(fit.curve.min())


def test_entries_solve_the_stated_problem():
    incidence, latency = timed(120)
    strengths = np.array([[0.0, 1000, 30, 30, 10]], np.float32)
    fit = fitted(incidence, latency, strengths)
    rows = incidence * fit.scale / latency[:, None]
    precision = np.linalg.inv(uncertainty.covariance(prior.roofline(ENTRIES), strengths[0, 1:]))
    right = rows.T @ ((latency - fit.base) / latency) + precision.sum(1)
    z = np.linalg.solve(rows.T @ rows + precision, right)
    assert z.min() > 0
    np.testing.assert_allclose(fit.entries, fit.scale * z, rtol=5e-3, atol=1e-3 * fit.scale.max())


def test_a_monotone_penalty_reduces_reversals():
    incidence, latency = timed(60, noise=0.05)
    reversals = []
    for penalty in (0.0, 1e4):
        fit = fitted(incidence, latency, np.array([[penalty, 1000, 300, 300, 100]], np.float32))
        narrow, wide = fit.entries[ENTRIES.monotone_pairs].T
        reversals.append(np.maximum(narrow - wide, 0).sum())
    assert reversals[1] < 0.2 * reversals[0]


def test_error_bars_cover_what_they_should():
    fit = fitted(*timed(100))
    incidence, _ = timed(100)
    before = uncertainty.covariance(prior.roofline(ENTRIES), fit.strength[1:])
    after = uncertainty.posterior(before, fit.scale, incidence, incidence @ fit.entries + fit.base, fit.noise)
    held_out, latency = timed(300, seed=1)
    predicted = held_out @ fit.entries + fit.base
    deviation = np.sqrt(uncertainty.variance(after, held_out) + (fit.noise * predicted) ** 2)
    inside = np.abs(predicted - latency) < 2 * deviation
    assert 0.88 < inside.mean() <= 1


def test_the_blockwise_inverse_is_the_inverse():
    believed, variances = prior.roofline(ENTRIES), np.array([100.0, 10.0, 10.0, 1.0])
    dense = believed._replace(covariances=believed.covariances + 0.01)
    for one in (believed, dense, prior.flat(ENTRIES)):
        precision = _precision(one, variances[: len(one.covariances)])
        identity = precision @ uncertainty.covariance(one, variances[: len(one.covariances)])
        np.testing.assert_allclose(identity, np.eye(len(ENTRIES)), atol=1e-8)


@pytest.mark.parametrize('count', [40, 400])
def test_both_forms_of_the_posterior_agree(count):
    incidence, latency = timed(count)
    scale = np.full(len(ENTRIES), 0.5)
    before = uncertainty.covariance(prior.roofline(ENTRIES), np.array([100.0, 10.0, 10.0, 1.0]))
    rows = incidence * scale / latency[:, None]
    expected = 1e-4 * scale[:, None] * np.linalg.inv(np.linalg.inv(before) + rows.T @ rows) * scale
    after = uncertainty.posterior(before, scale, incidence, latency, 0.01)
    np.testing.assert_allclose(after, expected, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda a, y, s: (a[:0], y[:0], s), '0 samples are too few'),
        (lambda a, y, s: (a[:10], y[:10], s), 'time at least'),
        (lambda a, y, s: (a, np.full_like(y, 2.0), s), 'constant timings'),
        (lambda a, y, s: (a, -y, s), 'finite and positive'),
        (lambda a, y, s: (a, np.where(np.arange(len(y)) == 3, np.nan, y), s), 'finite and positive'),
        (lambda a, y, s: (a[:-1], y, s), 'rows of incidence'),
        (lambda a, y, s: (a, y, s[:, :2]), 'strengths need 1 \\+ 4 columns'),
        (lambda a, y, s: (a, y, -s), 'must not be negative'),
    ],
)
def test_bad_input_is_an_error_that_says_what_is_wrong(change, message):
    incidence, latency, strengths = change(*timed(60), default_strengths())
    with pytest.raises(ValueError, match=message):
        fitted(incidence, latency, strengths)
