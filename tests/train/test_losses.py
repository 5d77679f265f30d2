"""Losses against their formulas, written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jcw.train import losses

LOGITS = jax.random.normal(jax.random.key(0), (6, 5)) * 3
TEACHER = jax.random.normal(jax.random.key(1), (6, 5))
LABELS = jnp.array([0, 1, 2, 3, 4, 4])


@pytest.mark.parametrize('smoothing', [0.0, 0.1, 1.0])
def test_smoothed_targets_are_a_distribution_that_favours_the_label(smoothing):
    targets = np.asarray(losses.smooth_targets(LABELS, 5, smoothing))
    np.testing.assert_allclose(targets.sum(1), 1, rtol=1e-6)
    others = targets[np.arange(5)[None] != np.asarray(LABELS)[:, None]]
    np.testing.assert_allclose(others, smoothing / 5, atol=1e-7)


def test_cross_entropy_is_least_at_the_targets_own_logits():
    targets = jax.nn.softmax(TEACHER)
    entropy = -(targets * jnp.log(targets)).sum(-1)
    np.testing.assert_allclose(losses.cross_entropy(TEACHER, targets), entropy, rtol=1e-5)
    assert (losses.cross_entropy(LOGITS, targets) > entropy).all()


def test_cross_entropy_on_labels_is_the_negative_log_probability():
    expected = -np.log(np.asarray(jax.nn.softmax(LOGITS)))[np.arange(6), np.asarray(LABELS)]
    found = losses.cross_entropy(LOGITS, losses.smooth_targets(LABELS, 5))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_distillation_pulls_the_student_and_not_the_teacher():
    def total(student, teacher):
        return losses.distillation(student, teacher).sum()

    student, teacher = jax.grad(total, argnums=(0, 1))(LOGITS, TEACHER)
    np.testing.assert_allclose(student, jax.nn.softmax(LOGITS) - jax.nn.softmax(TEACHER), atol=1e-6)
    np.testing.assert_array_equal(teacher, 0)


def test_logits_of_any_size_give_finite_losses():
    extreme = jnp.array([[1e4, -1e4, 0, 0, 0]])
    targets = losses.smooth_targets(jnp.array([1]), 5, 0.1)
    assert np.isfinite(losses.cross_entropy(extreme, targets)).all()
    assert np.isfinite(losses.distillation(extreme, -extreme)).all()


def test_correct_counts_the_greatest_logit():
    logits = jnp.eye(5)[LABELS].at[0, 3].set(2.0)
    np.testing.assert_array_equal(losses.correct(logits, LABELS), [0, 1, 1, 1, 1, 1])
