"""Real devices from stage to stage: one network for two runtimes, and narrowing by the fitted field."""

import dataclasses
import json

import numpy as np
import pytest

from experiments import (
    fit_accuracy,
    fit_latency,
    measure_latency,
    repair_widths,
    search_widths,
    train_supernet,
)
from experiments.budget import at_budget, load_table
from experiments.paths import paths
from experiments.space import graph_of
from experiments.training import load_data
from jcw.accuracy.table import AccuracyTable
from tests.own_network import on_a_device, small_run

pytestmark = pytest.mark.slow


def change(config, part, **values):
    return dataclasses.replace(config, **{part: dataclasses.replace(getattr(config, part), **values)})


@pytest.fixture(scope='module')
def devices(tmp_path_factory):
    """Two runs with latency tables of real runtimes, and what one network for both must hold there."""
    root = tmp_path_factory.mktemp('devices')
    here = on_a_device(small_run(root))
    there = change(dataclasses.replace(here, run=root / 'board'), 'latency', runtime='onnx')
    for config in (here, there):
        measure_latency.main(config)
        fit_latency.main(config)
    graph = graph_of(here, load_data(here))
    limit = float(load_table(there).predict(np.stack([graph.base, graph.smallest])).mean())
    return here, there, graph, limit


def test_one_network_holds_the_budgets_of_two_runtimes(devices):
    here, there, _, limit = devices
    config = change(here, 'search', budget=0.9, also=(f'{there.run}:{limit:.9g}',))
    train_supernet.main(config)
    fit_accuracy.main(config)
    search_widths.main(config)
    repair_widths.main(config)
    found = json.loads(paths(config).found.read_text())
    assert found['methods']['joint']['holds']
    for name, method in found['methods'].items():
        assert float(load_table(there).predict(method['widths'])) <= limit * (1 + 1e-9), name
        assert method['beside']['board'] == pytest.approx(float(load_table(there).predict(method['widths'])))
    alone = found['devices']
    assert set(alone) == {'this device', 'board'}
    assert alone['this device']['ms']['board'] > limit  # so the second budget does something here
    assert float(load_table(here).predict(found['methods']['joint']['widths'])) < found['budget_ms']


def test_narrowing_draws_by_the_field_that_was_fitted_to_trainings(devices):
    here, _, graph, _ = devices
    plain = change(here, 'search', budget=0.8)
    train_supernet.main(plain)
    fit_accuracy.main(plain)
    config = change(at_budget(plain, 0.8, adaptive=True), 'supernet', epochs=4, adaptive_warmup=0.25)
    train_supernet.main(config)
    followed = AccuracyTable.load(paths(config).supernet / 'field.json')
    np.testing.assert_array_equal(
        followed.unary(), AccuracyTable.load(paths(plain).accuracy / 'table.json').unary()
    )
    lines = (paths(config).supernet / 'metrics.jsonl').read_text().splitlines()
    entropies = [json.loads(line)['entropy'] for line in lines]
    even = -sum(np.log(1 / n) for n in graph.num_choices)
    assert entropies[-1] < 0.8 * even
