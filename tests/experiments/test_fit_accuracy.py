"""What is trained next: networks that hold their budgets when they are measured, whatever the table says of them."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import baseline_widths, candidates, fit_accuracy
from experiments.config import RepairConfig, SearchConfig
from experiments.presets import DIGITS
from jcw.accuracy.table import untrained
from jcw.latency.table import flops_table
from tests.experiments.paper_device import PaperDevice
from tests.tiny_graph import mobilenet_v1

GRAPH = mobilenet_v1((8, 8, 1), 10, base_multiplier=0.25, levels=4, strides=(1,) * 14)
BELIEVED = untrained(GRAPH.site_names, GRAPH.width_choices)
NONE = np.zeros((0, GRAPH.num_sites), np.int64)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run whose table is wrong by some per cent of every entry: what it thinks fast is what it flatters."""
    true = flops_table(GRAPH)
    true = dataclasses.replace(true, entries=true.entries / 1e6, unit='ms per call')
    wrong = np.exp(np.random.default_rng(0).normal(0, 0.15, true.entries.shape))
    table = dataclasses.replace(true, entries=true.entries * wrong)
    device = PaperDevice(GRAPH, true)
    device.install(monkeypatch)
    config = dataclasses.replace(DIGITS, run=tmp_path / 'run', search=SearchConfig(budget=0.5))
    limit = 0.5 * float(table.predict(GRAPH.base))
    return SimpleNamespace(config=config, table=table, true=true, device=device, limit=limit)


def proposed(run, limits, count, known=NONE, **repair):
    config = dataclasses.replace(run.config, repair=RepairConfig(**repair))
    return fit_accuracy.propose(config, GRAPH, run.table, BELIEVED, limits, known, count, last=False)


def most(run):
    """What the networks timed take at most, as measured, by widths."""
    read = candidates.samples_of(run.config, GRAPH)
    return {sample.widths: candidates.most_ms(run.config, sample) for sample in read.timed}


def test_what_is_trained_holds_the_budget_as_measured_though_the_table_flatters_it(run):
    assert (run.true.predict(GRAPH.to_widths(proposed(run, [run.limit], 6, rounds=0))) > run.limit).any()
    networks = GRAPH.networks(proposed(run, [run.limit], 6))
    assert len(set(networks)) == 6
    times = np.array([most(run)[widths] for widths in networks])
    assert (times <= run.limit).all()
    assert times.max() > 0.93 * run.limit
    assert len(most(run)) <= 30


def test_of_several_budgets_each_network_holds_the_one_it_is_proposed_for(run):
    limits = [1.4 * run.limit, run.limit]
    networks = GRAPH.networks(proposed(run, limits, 6))
    times = np.array([most(run)[widths] for widths in networks])
    assert ((times > 0.93 * run.limit) & (times <= run.limit)).sum() >= 2
    assert ((times > 0.93 * limits[0]) & (times <= limits[0])).sum() >= 2


def test_nothing_known_is_proposed_and_the_known_are_timed_to_correct_the_table(run):
    known = proposed(run, [run.limit], 4)
    again = proposed(run, [run.limit], 4, known)
    assert not {*GRAPH.networks(known)} & {*GRAPH.networks(again)}
    assert {*GRAPH.networks(known)} <= {*most(run)}


def test_a_network_that_cannot_be_timed_is_not_trained(run):
    run.device.failing = GRAPH.networks(proposed(run, [run.limit], 1, rounds=0))[0]
    candidates.paths(run.config).candidates.unlink()
    networks = GRAPH.networks(proposed(run, [run.limit], 3))
    assert len(networks) == 3
    assert run.device.failing not in networks


def test_where_nothing_proposed_holds_something_is_trained_all_the_same(run):
    run.device.factor = 3.0
    assert len(proposed(run, [run.limit], 3, rounds=1)) == 3


def test_nothing_is_asked_for_where_no_training_is_left(run):
    assert not len(proposed(run, [run.limit], 0))
    assert not run.device.calls


@pytest.mark.parametrize('factor', [0.9, 1.2])
def test_baselines_enter_with_networks_that_hold_the_measured_budget(run, monkeypatch, factor):
    run.device.factor = factor
    monkeypatch.setattr(baseline_widths, 'losses_of', lambda *_: lambda choices: -float(choices.sum()))
    choose = baseline_widths.baselines_of(run.config, None, GRAPH, run.table, None)
    entered = fit_accuracy._entered(run.config, GRAPH, run.table, choose, [run.limit, 2.0 * run.limit])
    times = np.array([most(run)[widths] for widths in GRAPH.networks(entered)])
    assert len(entered) == 4
    assert (times[:2] <= run.limit).all()
    assert (times[2:] <= 2 * run.limit).all()
    assert (times[2:] > run.limit).all()
