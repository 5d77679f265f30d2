"""Width statistics: against rewards of known effects, under even and under adaptive draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jcw.search import stats

NUM_CHOICES = np.array([4, 3, 4])
EFFECTS = np.array([[-0.6, -0.3, -0.1, 0.0], [-0.4, -0.1, 0.0, 0.0], [-0.2, -0.15, -0.05, 0.0]])
SEEN = np.arange(4) < NUM_CHOICES[:, None]
NOISE = 0.3


def rewards_of(choices, rng):
    return EFFECTS[np.arange(3), choices].sum(1) - 0.2 + NOISE * rng.standard_normal(len(choices))


def even(rng, draws):
    return (rng.random((draws, 3)) * NUM_CHOICES).astype(np.int32)


def correlated(rng, draws):
    """Draw all sites wide or narrow together, as an adaptive search does; one in five evenly."""
    level = np.repeat(rng.random((draws, 1)), 3, 1)
    quantile = np.where(rng.random((draws, 1)) < 0.2, rng.random((draws, 3)), level)
    return (quantile * NUM_CHOICES).astype(np.int32)


def gather(choices, rewards, keep=1.0):
    return stats.update(stats.empty(3, 4), jnp.asarray(choices), jnp.asarray(rewards, jnp.float32), keep)


def error(unary):
    return np.abs(np.where(SEEN, unary.mean - EFFECTS, 0)).max()


@pytest.mark.parametrize('draw', [even, correlated])
def test_the_regression_recovers_known_effects_under_any_draws(draw):
    rng = np.random.default_rng(0)
    choices = draw(rng, 20_000)
    unary = stats.to_unary(gather(choices, rewards_of(choices, rng)), NUM_CHOICES)
    assert error(unary) < 0.05
    assert np.isneginf(unary.mean[~SEEN]).all()


def test_marginal_means_recover_effects_under_even_draws_only():
    rng = np.random.default_rng(1)
    errors = []
    for draw in (even, correlated):
        choices = draw(rng, 20_000)
        errors.append(error(stats.marginal_means(gather(choices, rewards_of(choices, rng)), NUM_CHOICES)))
    assert errors[0] < 0.05
    assert errors[1] > 0.2


def test_the_regression_is_least_squares_with_a_ridge():
    rng = np.random.default_rng(2)
    choices = even(rng, 60)
    rewards = rewards_of(choices, rng)
    one_hot = np.eye(4)[choices].reshape(60, -1)
    centred = one_hot - one_hot.mean(0)
    expected = np.linalg.solve(
        centred.T @ centred + 2 * np.eye(12), centred.T @ (rewards - rewards.mean())
    ).reshape(3, 4)
    expected -= expected[np.arange(3), NUM_CHOICES - 1][:, None]
    mean = stats.to_unary(gather(choices, rewards), NUM_CHOICES, ridge=2.0).mean
    np.testing.assert_allclose(mean[SEEN], expected[SEEN], atol=1e-4)


def test_standard_errors_match_the_scatter_over_repetitions():
    fits = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        choices = even(rng, 300)
        fits.append(stats.to_unary(gather(choices, rewards_of(choices, rng)), NUM_CHOICES, ridge=0.1))
    inner = SEEN.copy()
    inner[np.arange(3), NUM_CHOICES - 1] = False
    scatter = np.std([fit.mean[inner] for fit in fits], 0)
    stated = np.mean([fit.std[inner] for fit in fits], 0)
    np.testing.assert_allclose(stated, scatter, rtol=0.25)


def test_statistics_of_two_halves_add_up_to_those_of_the_whole():
    rng = np.random.default_rng(3)
    choices = even(rng, 40)
    rewards = rewards_of(choices, rng)
    parts = gather(choices[:15], rewards[:15]), gather(choices[15:], rewards[15:])
    merged = jax.tree.map(jnp.add, *parts)
    for a, b in zip(merged, gather(choices, rewards), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_forgetting_follows_rewards_that_change():
    rng = np.random.default_rng(4)
    kept = stats.empty(3, 4)
    update = jax.jit(stats.update)
    for step in range(60):
        choices = even(rng, 100)
        rewards = rewards_of(choices, rng) * (-1 if step < 30 else 1)
        kept = update(kept, jnp.asarray(choices), jnp.asarray(rewards, jnp.float32), 0.85)
    assert error(stats.to_unary(kept, NUM_CHOICES)) < 0.12


def test_a_choice_never_drawn_is_never_the_best():
    rng = np.random.default_rng(5)
    choices = even(rng, 200)
    choices = choices[choices[:, 0] != 2]
    unary = stats.to_unary(gather(choices, rewards_of(choices, rng)), NUM_CHOICES)
    assert np.isneginf(unary.mean[0, 2])
    assert np.isposinf(unary.std[0, 2])


def test_wrong_requests_are_named():
    with pytest.raises(ValueError, match='no rewards yet'):
        stats.to_unary(stats.empty(3, 4), NUM_CHOICES)
    with pytest.raises(ValueError, match='ridge must be positive'):
        stats.to_unary(stats.empty(3, 4), NUM_CHOICES, ridge=0)


@pytest.mark.parametrize('ridge', [0.0, -1.0, float('nan'), float('inf')])
def test_a_ridge_that_settles_nothing_is_refused(ridge):
    gathered = gather(np.zeros((4, 3), np.int32), np.ones(4))
    with pytest.raises(ValueError, match='ridge must be positive and finite'):
        stats.to_unary(gathered, NUM_CHOICES, ridge)


@pytest.mark.parametrize('reward', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('estimate', [stats.to_unary, stats.marginal_means])
def test_one_reward_that_is_no_number_is_noticed(reward, estimate):
    rng = np.random.default_rng(0)
    choices = even(rng, 50)
    rewards = rewards_of(choices, rng)
    rewards[7] = reward
    with pytest.raises(ValueError, match='a reward was NaN or infinite'):
        estimate(gather(choices, rewards), NUM_CHOICES)
