"""The chain's recursions against the full table of configurations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import chi2

from jcw import mrf
from tests.solver_oracle import random_field, table

SIZES = [(1, 1), (1, 4), (3, 1), (2, 3), (5, 4)]

max_sum, log_partition, marginals, pair_marginals, sample = (
    jax.jit(f) for f in (mrf.max_sum, mrf.log_partition, mrf.marginals, mrf.pair_marginals, mrf.sample)
)


def ragged():
    """A field of layers with 3, 1 and 2 choices."""
    rng = np.random.default_rng(5)
    return mrf.pad([rng.random(n) for n in (3, 1, 2)], [rng.random((3, 1)), rng.random((1, 2))])


def fields():
    return [random_field(np.random.default_rng(i), *size) for i, size in enumerate(SIZES)] + [ragged()]


def forbidding():
    """A field of three layers in which widths may not fall, so whole columns of pairs are forbidden."""
    pairwise = np.where(np.tri(3, dtype=bool).T, 0.0, -np.inf)
    return mrf.ChainMRF(random_field(np.random.default_rng(0), 3, 3).unary, np.stack([pairwise] * 2))


@pytest.mark.parametrize('field', fields())
def test_max_sum_finds_the_best_of_the_table_and_score_agrees(field):
    configurations, scores = table(field)
    best, choices = max_sum(field)
    np.testing.assert_allclose(best, scores.max(), rtol=1e-6)
    np.testing.assert_array_equal(choices, configurations[scores.argmax()])
    np.testing.assert_allclose(mrf.score(field, choices), scores.max(), rtol=1e-6)


@pytest.mark.parametrize('temperature', [0.1, 1.0, 30.0])
@pytest.mark.parametrize('field', fields())
def test_sum_product_agrees_with_the_joint_table(field, temperature):
    configurations, scores = table(field)
    expected = logsumexp(scores / temperature)
    np.testing.assert_allclose(log_partition(field, temperature), expected, rtol=1e-5, atol=1e-5)
    joint = np.exp(scores / temperature - expected)
    onehot = configurations[:, :, None] == np.arange(field.unary.shape[1])
    np.testing.assert_allclose(
        marginals(field, temperature), np.einsum('x,xlc->lc', joint, onehot), atol=2e-5
    )
    pairs = np.einsum('x,xei,xej->eij', joint, onehot[:, :-1], onehot[:, 1:])
    np.testing.assert_allclose(pair_marginals(field, temperature), pairs, atol=2e-5)


def test_marginals_are_the_gradient_of_the_log_partition_and_its_finite_difference():
    field = random_field(np.random.default_rng(1), 4, 3)
    gradient = jax.grad(lambda unary: log_partition(field._replace(unary=unary)))(jnp.asarray(field.unary))
    np.testing.assert_allclose(marginals(field), gradient, atol=1e-6)
    shift = np.zeros_like(field.unary)
    shift[2, 1] = 1e-2
    up, down = (log_partition(field._replace(unary=field.unary + sign * shift)) for sign in (1, -1))
    np.testing.assert_allclose((up - down) / 2e-2, marginals(field)[2, 1], atol=1e-3)


def test_samples_follow_the_joint_distribution_by_chi_squared():
    field, temperature, draws = ragged(), 0.4, 20_000
    configurations, scores = table(field)
    present = scores > -np.inf
    probability = np.exp(scores[present] / temperature - logsumexp(scores / temperature))
    keys = jax.random.split(jax.random.key(0), draws)
    drawn = np.asarray(jax.jit(jax.vmap(lambda key: sample(key, field, temperature)))(keys))
    counts = (drawn[:, None] == configurations[present]).all(-1).sum(0)
    assert counts.sum() == draws  # none forbidden
    statistic = ((counts - draws * probability) ** 2 / (draws * probability)).sum()
    assert statistic < chi2.ppf(0.999, present.sum() - 1)


@pytest.mark.parametrize('temperature', [1e-2, 1e-4, 1e-6])
def test_at_low_temperature_marginals_and_samples_concentrate_on_the_best(temperature):
    field = random_field(np.random.default_rng(2), 14, 14)
    best = np.asarray(max_sum(field)[1])
    probability = np.asarray(marginals(field, temperature))
    assert np.isfinite(probability).all()
    np.testing.assert_allclose(probability.sum(1), 1, atol=1e-4)
    if temperature <= 1e-4:
        np.testing.assert_allclose(probability[np.arange(14), best], 1, atol=1e-3)
        np.testing.assert_array_equal(sample(jax.random.key(0), field, temperature), best)


def test_choices_that_tie_share_the_probability_at_any_temperature():
    field = mrf.ChainMRF(np.array([[0.7, 0.7, 0.1], [0.3, 0.3, 0.3]]), np.zeros((1, 3, 3)))
    expected = [[0.5, 0.5, 0], [1 / 3] * 3]
    np.testing.assert_allclose(marginals(field, 1e-6), expected, atol=1e-6)
    np.testing.assert_array_equal(max_sum(field)[1], [0, 0])


def test_forbidden_pairs_have_no_probability_and_no_nan():
    field = forbidding()
    pairs = np.asarray(pair_marginals(field, 1e-6))
    assert np.isfinite(pairs).all()
    assert (pairs[:, ~np.tri(3, dtype=bool).T] == 0).all()
    gradient = jax.grad(lambda t: log_partition(field, t))(1.0)
    assert np.isfinite(gradient)
    nowhere = field._replace(pairwise=np.full_like(field.pairwise, -np.inf))
    assert log_partition(nowhere) == -np.inf
    assert np.isfinite(marginals(nowhere)).all()


def test_jit_and_vmap_agree_with_a_loop():
    fields = [random_field(np.random.default_rng(i), 4, 3) for i in range(2)]
    batch = mrf.ChainMRF(*(np.stack(leaves) for leaves in zip(*fields, strict=True)))
    best, choices = jax.jit(jax.vmap(mrf.max_sum))(batch)
    probability = jax.jit(jax.vmap(mrf.marginals))(batch)
    for i, field in enumerate(fields):
        np.testing.assert_allclose(best[i], mrf.max_sum(field)[0], rtol=1e-6)
        np.testing.assert_array_equal(choices[i], mrf.max_sum(field)[1])
        np.testing.assert_allclose(probability[i], mrf.marginals(field), atol=1e-6)


def test_a_batch_of_fields_and_temperatures_compiles_once():
    traces = []

    @jax.jit
    def run(field, temperature):
        traces.append(1)
        return mrf.marginals(field, temperature)

    for seed in range(3):
        run(random_field(np.random.default_rng(seed), 3, 3), 0.5 + seed)
    assert len(traces) == 1


def test_add_sums_potentials_of_equal_shape():
    field = random_field(np.random.default_rng(0), 3, 2)
    total = mrf.add(field, field, field)
    np.testing.assert_allclose(total.unary, 3 * field.unary)
    np.testing.assert_allclose(total.pairwise, 3 * field.pairwise)


def test_pad_says_which_shapes_it_expected():
    with pytest.raises(ValueError, match=r'shapes \[\(2, 3\)\], got \[\(3, 2\)\]'):
        mrf.pad([np.zeros(2), np.zeros(3)], [np.zeros((3, 2))])
