"""The latency table of a run: fitted to corrected samples, and judged by them."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest

from experiments import fit_latency
from experiments.budget import at_budget, budget_ms
from experiments.config import Config
from experiments.paths import paths
from experiments.run_folder import Usage
from jcw.latency import design, drift, samples
from jcw.latency.entries import Entries
from jcw.latency.measure import TimingPlan, measure
from jcw.latency.table import LatencyTable
from tests.latency.simulated import SimulatedRuntime, small_graph, true_table

GRAPH = small_graph()


def test_predictions_are_compared_with_measurements_corrected_as_those_fitted(tmp_path):
    """On a device that halves its speed now and then, and slows networks down less than the reference."""
    config = Config(run=tmp_path)
    path = paths(config).samples
    path.parent.mkdir(parents=True)
    device = SimulatedRuntime(
        GRAPH, true_table(GRAPH), noise=0.01, drift=lambda n: 1 + 0.5 * (np.sin(n / 500) > 0), elasticity=0.7
    )
    networks = design.random_networks(jax.random.key(0), GRAPH, 60)
    plan = TimingPlan(calls=10, min_visits=3, max_visits=3, window=4)
    list(measure(device, GRAPH, networks, path, batch=8, plan=plan))
    timed = samples.read(path)
    assert np.abs(drift.corrected(timed).latency_ms / timed.latency_ms - 1).max() > 0.005
    fit_latency.fit(config)
    report = json.loads(paths(config).fit.read_text())
    np.testing.assert_allclose(report['measured_ms'], drift.corrected(timed).latency_ms)


def test_a_table_is_fitted_anew_where_the_samples_have_changed(tmp_path):
    config = Config(run=tmp_path)
    path = paths(config).samples
    path.parent.mkdir(parents=True)
    device = SimulatedRuntime(GRAPH, true_table(GRAPH), noise=0.01)
    networks = design.random_networks(jax.random.key(0), GRAPH, 40)
    list(
        measure(device, GRAPH, networks, path, batch=8, plan=TimingPlan(calls=6, min_visits=2, max_visits=2))
    )
    first = fit_latency.fit(config)
    assert fit_latency.fit(config).entries.tolist() == first.entries.tolist()
    timed = samples.read(path)
    path.unlink()
    samples.create(path, timed.header)
    for sample in timed.samples:  # as many networks, each twice as slow
        slower = tuple(tuple(2 * ms for ms in visit) for visit in sample.calls_ms)
        samples.append(path, dataclasses.replace(sample, calls_ms=slower, ms=2 * sample.ms))
    assert fit_latency.fit(config).predict(GRAPH.base) > 1.5 * first.predict(GRAPH.base)


def test_the_least_budget_named_is_within_reach_where_the_narrowest_network_is_not_the_fastest():
    entries = np.random.default_rng(0).uniform(1, 2, len(Entries(GRAPH)))
    table, config = LatencyTable(GRAPH, entries, base=0.5), Config()
    said = re.search(r'from (.*) of the base', fit_latency.reach(table))
    assert said is not None
    base, least = (float(table.predict(widths)) for widths in (GRAPH.base, GRAPH.smallest))
    assert float(said[1]) < least / base
    assert budget_ms(at_budget(config, float(said[1])), table) < least
    with pytest.raises(Usage, match='no configuration meets'):
        budget_ms(at_budget(config, float(said[1]) - 0.03), table)
