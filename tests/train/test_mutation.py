"""Draws of widths: one site of each example, or of the whole step."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from jcw.train import mutation
from tests.tiny_graph import GRAPH

KEYS = jax.random.split(jax.random.key(0), 20000)
UNIFORM = np.asarray(mutation.even_probabilities(GRAPH), np.float64)
LARGEST = GRAPH.num_choices - 1


def uneven():
    """Return probabilities that differ by choice and site, one of them zero."""
    weights = np.random.default_rng(0).uniform(0.2, 1, UNIFORM.shape) * (UNIFORM > 0)
    weights[3, 1] = 0
    return weights / weights.sum(1, keepdims=True)


def drawn(name, probabilities, keys=KEYS, site=1):
    draw = mutation.draw_of(GRAPH, name)
    return np.asarray(jax.jit(draw)(keys, (jnp.asarray(probabilities, jnp.float32), jnp.int32(site))))


@pytest.mark.parametrize('probabilities', [UNIFORM, uneven()], ids=['even', 'given'])
def test_marginals_of_every_site_are_the_given_probabilities(probabilities):
    choices = drawn('example', probabilities)
    kept = np.eye(UNIFORM.shape[1])[LARGEST]
    for site, expected in enumerate(probabilities / GRAPH.num_sites + kept * (1 - 1 / GRAPH.num_sites)):
        counts = np.bincount(choices[:, site], minlength=len(expected))
        assert (counts[expected == 0] == 0).all()
        live = expected > 0
        assert chisquare(counts[live], expected[live] / expected[live].sum() * len(KEYS)).pvalue > 1e-3


def test_one_site_of_an_example_is_redrawn_each_as_often():
    changed = drawn('example', UNIFORM) != LARGEST
    assert changed.sum(1).max() == 1
    # A site redrawn may get its largest width again.
    counts = changed.sum(0) / (1 - UNIFORM[np.arange(GRAPH.num_sites), LARGEST])
    np.testing.assert_allclose(counts, len(KEYS) / GRAPH.num_sites, rtol=0.06)


def test_a_given_site_is_redrawn_in_every_example_and_no_other():
    choices = drawn('site', uneven())
    np.testing.assert_array_equal(
        np.delete(choices, 1, axis=1), np.tile(np.delete(LARGEST, 1), (len(KEYS), 1))
    )
    counts = np.bincount(choices[:, 1], minlength=3)
    assert chisquare(counts, uneven()[1, :3] * len(KEYS)).pvalue > 1e-3


def test_every_site_has_its_turn_in_an_order_of_its_own():
    turns = np.array([mutation.turn(0, step, 5) for step in range(100)]).reshape(20, 5)
    np.testing.assert_array_equal(np.sort(turns, axis=1), np.tile(np.arange(5), (20, 1)))
    assert len(np.unique(turns, axis=0)) > 10
    assert not np.array_equal(turns.ravel(), [mutation.turn(1, step, 5) for step in range(100)])


@pytest.mark.parametrize('name', ['site', 'example'])
def test_a_draw_depends_on_the_examples_own_key_alone(name):
    np.testing.assert_array_equal(drawn(name, UNIFORM, KEYS[:64])[17:20], drawn(name, UNIFORM, KEYS[17:20]))


def test_an_unknown_mutation_is_named():
    unchecked = inspect.unwrap(mutation.draw_of)  # the tests' own type checks would speak first
    with pytest.raises(ValueError, match="'site' or 'example', got 'all'"):
        unchecked(GRAPH, 'all')
