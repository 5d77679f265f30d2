"""Narrowing follows the fitted field where there is one, and goes on with what it began with."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import train_supernet
from experiments.paths import paths
from experiments.presets import DIGITS
from jcw.accuracy.table import refit, untrained
from jcw.latency.table import flops_table
from jcw.search import aows, stats
from tests.tiny_graph import GRAPH

STEPS = 100


@pytest.fixture
def config(tmp_path):
    """A run with a latency table, and an accuracy table to which the last site matters most by far."""
    config = dataclasses.replace(DIGITS, run=tmp_path)
    table = dataclasses.replace(flops_table(GRAPH), unit='ms per call')
    paths(config).table.parent.mkdir(parents=True)
    table.save(paths(config).table)
    rng = np.random.default_rng(0)
    choices = rng.integers(0, GRAPH.num_choices, (40, GRAPH.num_sites))
    gain = choices[:, -1] / (GRAPH.num_choices[-1] - 1) + 0.01 * rng.standard_normal(len(choices))
    paths(config).accuracy.mkdir(parents=True)
    refit(untrained(GRAPH.site_names, GRAPH.width_choices), choices, gain).save(
        paths(config).accuracy / 'table.json'
    )
    return dataclasses.replace(config, supernet=dataclasses.replace(config.supernet, adaptive=True))


def last_draws(config):
    """Return the draws at the end of a run whose rewards have it that the first site alone matters."""
    rng = np.random.default_rng(1)
    choices = rng.integers(0, GRAPH.num_choices, (4096, GRAPH.num_sites))
    known = stats.update(
        stats.empty(*GRAPH.present.shape), jnp.asarray(choices), jnp.asarray(choices[:, 0], jnp.float32)
    )
    narrow = train_supernet.narrowing(config, GRAPH, STEPS)
    return np.asarray(narrow(STEPS - 2, known, aows.even_draws(GRAPH)).probabilities)


def test_draws_follow_the_fitted_field(config):
    paths(config).supernet.mkdir(parents=True)
    drawn = last_draws(config)
    assert (drawn[-1].argmax(), drawn[0].argmax()) == (GRAPH.num_choices[-1] - 1, 0)


def test_a_run_goes_on_with_the_field_that_it_began_with(config):
    paths(config).supernet.mkdir(parents=True)
    first = last_draws(config)
    plain = dataclasses.replace(config, supernet=dataclasses.replace(config.supernet, adaptive=False))
    (paths(plain).accuracy / 'table.json').unlink()
    np.testing.assert_array_equal(last_draws(config), first)


def test_a_run_that_began_without_a_fitted_field_goes_on_by_its_statistics(config):
    (paths(config).supernet / 'checkpoints').mkdir(parents=True)
    drawn = last_draws(config)
    assert (drawn[-1].argmax(), drawn[0].argmax()) == (0, GRAPH.num_choices[0] - 1)
    assert not (paths(config).supernet / 'field.json').exists()
