import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jcw.accuracy import fit, model, prior, table
from tests.accuracy.truth import SITES, WIDTHS, truth

BELIEVED = prior.log_width(WIDTHS)


def trained(seed: int, count: int, **of_truth):
    known, rng = truth(seed, **of_truth), np.random.default_rng(seed)
    choices = known.random(rng, count)
    return known, choices, known.train(rng, choices)


def fitted(choices, utility, strengths=None):
    return table.refit(table.untrained(SITES, WIDTHS), choices, utility, strengths=strengths)


def test_many_trainings_recover_effects_and_noise():
    known, choices, utility = trained(0, 120)
    found = fitted(choices, utility)
    contrast = found.effects - known.effects - (found.effects - known.effects)[:, :1]
    assert np.abs(contrast[BELIEVED.present]).max() < 0.16  # four standard errors of a contrast
    total = np.sqrt(found.noise**2 + found.strength.own * found.strength.noise**2)
    assert 0.8 * known.noise < total < 1.25 * known.noise


def test_the_derivatives_are_those_of_the_model():
    rng = np.random.default_rng(0)
    theta = jnp.asarray(rng.standard_normal(model.num_parameters(BELIEVED)), jnp.float32)
    strength = model.Strengths(0.2, 0.5, 0.1, 0.5, 0.2)
    heard = BELIEVED._replace(supernet=rng.standard_normal(len(SITES)))
    by_jax = jax.jacobian(lambda t: model.unpack(t, heard, strength, 1.0)[1])(theta)
    by_hand = model.linearise(np.asarray(theta, np.float64), heard, strength, 1.0).jacobian
    np.testing.assert_allclose(by_hand, by_jax, atol=1e-4)


def test_the_mode_is_where_the_cost_is_least():
    _, choices, utility = trained(1, 12)
    found = fitted(choices, utility)
    marks = fit.one_hot(found.evidence.choices, 4)
    marks -= marks.mean(0)
    weight = 1 / np.sqrt(model.variances(found.evidence.counts, found.strength))

    def cost(theta):
        base, effects = model.unpack(theta, BELIEVED, found.strength, found.evidence.scale)
        residual = found.evidence.utility - found.evidence.centre - base - (marks * effects).sum((1, 2))
        return ((weight * residual) ** 2).sum() + (theta**2).sum()

    least, rng = cost(found.mode), np.random.default_rng(0)
    for size in (0.3, 0.1, 0.03):
        for _ in range(50):
            assert cost(found.mode + size * rng.standard_normal(len(found.mode))) > least


def test_leave_one_out_is_refitting_without_each():
    """At the linearisation of all, exactly."""
    _, choices, utility = trained(2, 14)
    found = fitted(choices, utility)
    linear, evidence = found._fitted, found.evidence
    left_out = found.leave_one_out()
    deviations = np.sqrt(model.variances(evidence.counts, found.strength))
    for out in range(len(evidence.utility)):
        kept = np.arange(len(evidence.utility)) != out
        rows = linear.rows[kept]
        theta = rows.T @ np.linalg.solve(np.eye(kept.sum()) + rows @ rows.T, linear.target[kept])
        error = deviations[out] * (linear.target[out] - linear.rows[out] @ theta)
        assert left_out.mean[out] == pytest.approx(evidence.utility[out] - error)
        inside = np.linalg.inv(np.eye(len(theta)) + rows.T @ rows)
        variance = deviations[out] ** 2 * (1 + linear.rows[out] @ inside @ linear.rows[out])
        assert left_out.std[out] == pytest.approx(np.sqrt(variance))


def test_leave_one_out_predicts_as_a_new_fit_without_each_does():
    _, choices, utility = trained(3, 30)
    found = fitted(choices, utility)
    strengths = model.Strengths(*(np.array([value]) for value in found.strength))
    left_out, evidence = found.leave_one_out(), found.evidence
    for out in range(0, len(evidence.utility), 5):
        kept = np.arange(len(evidence.utility)) != out
        again = fitted(evidence.choices[kept], evidence.utility[kept], strengths)
        assert abs(again.predict(evidence.choices[out])[0] - left_out.mean[out]) < 0.35 * left_out.std[out]


def test_all_strengths_at_once_are_each_alone():
    _, choices, utility = trained(4, 10)
    evidence = fit.gather(choices, utility)
    grid = fit.default_strengths(evidence, BELIEVED)
    together = fit.fit(evidence, BELIEVED, grid)
    for row in range(0, len(grid.noise), 17):
        alone = fit.fit(evidence, BELIEVED, model.Strengths(*(column[row : row + 1] for column in grid)))
        assert alone.scores[0] == pytest.approx(together.scores[row], rel=1e-3, abs=1e-2)


def test_padding_changes_nothing():
    """Nine networks are padded to sixteen, and so is one more of no weight."""
    _, choices, utility = trained(5, 9)
    strengths = model.Strengths(*(np.array([value]) for value in (0.15, 0.5, 0.07, 0.0, 0.2)))
    found = fitted(choices, utility, strengths)
    linear = found._fitted
    again = linear.rows.T @ np.linalg.solve(
        np.eye(len(linear.rows)) + linear.rows @ linear.rows.T, linear.target
    )
    np.testing.assert_allclose(again, found.mode, atol=2e-3)


def test_repeats_are_averaged_and_say_what_the_noise_is():
    known, rng = truth(6, noise=0.3), np.random.default_rng(6)
    choices = np.repeat(known.random(rng, 6), 8, 0)
    evidence = fit.gather(choices, known.train(rng, choices))
    assert evidence.counts.tolist() == [8] * 6
    assert evidence.freedom == 42
    assert evidence.squares / evidence.freedom == pytest.approx(0.09, rel=0.4)
    found = fit.fit(evidence, BELIEVED)
    assert 0.6 * 0.3 < found.strength.noise * np.sqrt(1 - found.strength.own) < 1.6 * 0.3


def test_intervals_of_predictions_and_effects_cover_what_they_say():
    """40 truths, 16 trainings each; the truth is drawn as the prior believes, with constants of its own."""
    of_networks, of_effects = [], []
    for seed in range(40):
        known, choices, utility = trained(1000 + seed, 16)
        found = fitted(choices, utility)
        others = known.random(np.random.default_rng(seed), 40)
        mean, error = found.predict(others)
        of_networks.append(np.abs(mean - known.utility(others)) / error)
        last = [len(site) - 1 for site in WIDTHS]
        covariance = found.covariance()
        for site, choice in enumerate(last):
            pair = covariance[site][:, site][np.ix_([0, choice], [0, choice])]
            deviation = np.sqrt(pair[0, 0] + pair[1, 1] - 2 * pair[0, 1])
            height = found.effects[site, choice] - found.effects[site, 0]
            true = known.effects[site, choice] - known.effects[site, 0]
            of_effects.append(abs(height - true) / deviation)
    for apart in (np.concatenate(of_networks), np.array(of_effects)):
        assert 0.60 <= (apart < 1).mean() <= 0.76
        assert 0.90 <= (apart < 1.96).mean() <= 0.98


def exponent(known, heights, choices, utility):
    """Weight of a supernet that gives the truth's curves these heights."""
    own = known.effects.max(1)
    mean = np.where(BELIEVED.present, known.effects * (heights / own)[:, None], -np.inf)
    believed = prior.from_supernet(WIDTHS, mean, np.full(mean.shape, 1e-3))
    return table.refit(table.untrained(SITES, WIDTHS, believed=believed), choices, utility).strength.supernet


def test_the_supernets_heights_are_followed_where_they_are_right_and_not_where_they_are_wrong():
    right, wrong = [], []
    for seed in range(4):
        known, choices, utility = trained(70 + seed, 16, spread=1.2, noise=0.05)
        heights = known.effects.max(1)
        order = heights.argsort()
        reversed_heights = np.empty(5)
        reversed_heights[order] = heights[order[::-1]]  # the greatest height for the least site
        right.append(exponent(known, heights, choices, utility))
        wrong.append(exponent(known, reversed_heights, choices, utility))
    assert min(right) > 0.5  # the mean of the exponents to choose from
    assert max(wrong) < 0.5


@pytest.mark.parametrize(
    ('choices', 'utility', 'message'),
    [
        (np.zeros((0, 5), int), np.zeros(0), '0 distinct networks'),
        (np.zeros((3, 5), int), np.array([90.0, 91, 92]), '1 distinct networks'),
        (np.eye(5, dtype=int), np.full(5, 10.0), 'constant'),
        (np.eye(5, dtype=int), np.array([1, 2, np.nan, 3, 4]), 'sample 2 is not finite'),
        (np.eye(5, dtype=int) * 3, np.arange(5.0), 'does not have'),
        (np.eye(5, dtype=int) * 9, np.arange(5.0), 'do not fit'),
        (np.eye(4, dtype=int), np.arange(4.0), 'do not fit'),
    ],
)
def test_evidence_that_says_nothing_or_something_else_is_refused(choices, utility, message):
    with pytest.raises(ValueError, match=message):
        fit.fit(fit.gather(choices, utility), BELIEVED)
