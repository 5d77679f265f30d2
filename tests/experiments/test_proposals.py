"""What is trained next: networks that hold their budgets when they are measured, whatever the table says of them."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import baseline_widths, candidates, fit_accuracy, proposals
from experiments.config import RepairConfig, SearchConfig
from experiments.presets import DIGITS
from experiments.run_folder import Usage
from jcw.accuracy.table import untrained
from jcw.latency.table import flops_table
from tests.experiments.paper_device import PaperDevice
from tests.tiny_graph import mobilenet_v1

GRAPH = mobilenet_v1((8, 8, 1), 10, base_multiplier=0.25, levels=4, strides=(1,) * 14)
BELIEVED = untrained(GRAPH.site_names, GRAPH.width_choices)
GRAPH_SMALLEST = np.zeros((1, GRAPH.num_sites), np.int64)
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


def proposed(run, limits, count, known=NONE, last=False, **repair):
    config = dataclasses.replace(run.config, repair=RepairConfig(**repair))
    return proposals.propose(config, GRAPH, run.table, BELIEVED, limits, known, count, last=last)


def most(run):
    """What the networks timed take at most, as measured, by widths."""
    read = candidates.samples_of(run.config, GRAPH)
    return {sample.widths: candidates.most_ms(run.config, sample) for sample in read.timed}


def test_what_is_trained_holds_the_budget_as_measured_though_the_table_flatters_it(run):
    assert (run.true.predict(GRAPH.to_widths(proposed(run, [run.limit], 6, rounds=0))) > run.limit).any()
    assert not candidates.paths(run.config).candidates.exists()  # as the table says, nothing timed
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


@pytest.mark.parametrize('factor', [0.7, 1.2, 1.5, 3.0])
def test_on_a_device_much_slower_or_faster_than_the_table_few_rounds_are_enough(run, factor):
    run.device.factor = factor
    known = NONE
    for count in (6, 3, 3):
        known = np.concatenate([known, proposed(run, [run.limit], count, known, rounds=4)])
    times = np.array([most(run)[widths] for widths in GRAPH.networks(known)])
    assert len(known) >= 10
    assert (times <= run.limit).all()
    assert len(most(run)) <= 40


@pytest.mark.parametrize('order', [1, -1])
def test_every_budget_keeps_its_share_of_what_is_proposed(run, order):
    limits = [run.limit, 1.4 * run.limit][::order]
    for seed in range(3):
        run.config = dataclasses.replace(run.config, seed=seed)
        times = np.array([most(run)[widths] for widths in GRAPH.networks(proposed(run, limits, 4))])
        assert 1 <= (times <= run.limit).sum() <= 2
        assert 1 <= (times > run.limit).sum() <= 2
        assert (times <= 1.4 * run.limit).all()


def test_a_network_that_cannot_be_timed_is_neither_trained_nor_asked_for_again(run, monkeypatch):
    run.device.failing = GRAPH.networks(proposed(run, [run.limit], 1, rounds=0))[0]
    asked = []
    samples_of = candidates.samples_of
    monkeypatch.setattr(
        candidates, 'samples_of', lambda *args: (asked.extend(*args[2:]), samples_of(*args))[1]
    )
    networks = GRAPH.networks(proposed(run, [run.limit], 3))
    assert len(networks) == 3
    assert run.device.failing not in networks
    assert asked.count(run.device.failing) == 1


def test_where_nothing_proposed_holds_the_least_over_is_trained_all_the_same(run):
    run.device.factor = 3.0
    networks = proposed(run, [run.limit], 3, rounds=1)
    assert len(networks) == 3
    with_one_that_holds = GRAPH.networks(proposed(run, [2 * run.limit], 3, known=GRAPH_SMALLEST, rounds=1))
    assert all(most(run)[widths] <= 2 * run.limit for widths in with_one_that_holds)


def test_networks_timed_to_spare_save_turns(run, monkeypatch):
    def turns(spare):
        monkeypatch.setattr(proposals, 'SPARE', spare)
        run.device.calls.clear()
        for seed in range(4):
            folder = run.config.run.parent / f'spare_{spare}_{seed}'
            run.config = dataclasses.replace(run.config, run=folder, seed=seed)
            assert len(proposed(run, [run.limit], 6)) == 6
        return len(run.device.calls)

    assert turns(0.5) < turns(0)


def test_a_margin_that_grows_with_the_turns_saves_turns_and_little_of_the_budget(run, monkeypatch):
    run.device.own = 0.02  # as real ones: no correction of the table tells of the next network

    def turns_and_use(margin):
        monkeypatch.setattr(proposals, 'MARGIN', margin)
        run.device.calls.clear()
        used = []
        for seed in range(6):
            folder = run.config.run.parent / f'margin_{margin}_{seed}'
            run.config = dataclasses.replace(run.config, run=folder, seed=seed)
            networks = proposed(run, [run.limit], 2, last=True)
            used += [most(run)[widths] / run.limit for widths in GRAPH.networks(networks)]
        return len(run.device.calls), np.mean(used)

    turns, use = turns_and_use(proposals.MARGIN)
    plain, whole = turns_and_use(0.0)
    assert turns < plain
    assert whole - 0.02 < use < whole


def test_what_holds_to_spare_takes_the_places_that_no_other_takes(run):
    """The smaller budget excludes all but one network: its other place goes to one of the larger's, in the end."""
    run.device.factor = 0.5  # all hold
    least = float(run.table.predict(GRAPH.smallest))
    networks = GRAPH.networks(proposed(run, [1.0001 * least, run.limit], 4, rounds=1))
    assert len(set(networks)) == 4
    assert networks.count(tuple(GRAPH.smallest.tolist())) == 1


def test_in_the_last_round_nothing_is_timed_to_spare(run, monkeypatch):
    asked = []
    propose = proposals.design.propose

    def noted(*args, **settings):
        asked.append((args[4], settings['last']))
        return propose(*args, **settings)

    monkeypatch.setattr(proposals.design, 'propose', noted)
    for last in (False, True):
        proposals.propose(run.config, GRAPH, run.table, BELIEVED, [run.limit], NONE, 4, last=last)
    assert [max(count for count, last in asked if last == of) for of in (False, True)] == [6, 4]


def test_one_network_alone_is_refused_before_it_is_trained(run, monkeypatch):
    accuracy = dataclasses.replace(run.config.accuracy, trainings=1)
    config = dataclasses.replace(run.config, accuracy=accuracy)
    monkeypatch.setattr(fit_accuracy, 'believed', lambda *_: BELIEVED)
    monkeypatch.setattr(fit_accuracy, 'baselines_of', lambda *_: {'uniform': lambda limit: GRAPH_SMALLEST[0]})

    def trainings(networks):
        assert not len(networks)
        return SimpleNamespace(trained=())

    trainings.supernet, trainings.unit = None, BELIEVED.unit
    for _ in range(2):
        with pytest.raises(Usage, match=r'one network alone .* --accuracy.trainings to 2 or more, or to 0'):
            fit_accuracy._rounds(config, None, GRAPH, run.table, [run.limit], trainings)


def test_networks_visited_once_are_refused(run, monkeypatch):
    read = candidates.samples_of(run.config, GRAPH, GRAPH.networks(proposed(run, [run.limit], 2)))
    unknown = read._replace(samples=tuple(dataclasses.replace(s, error=np.nan) for s in read.samples))
    monkeypatch.setattr(candidates, 'time_networks', lambda *_: unknown)
    with pytest.raises(
        Usage, match=r'visited once, whose error is unknown: set --latency.visits to 2 or more'
    ):
        candidates.samples_of(run.config, GRAPH)


def test_nothing_is_asked_for_where_no_training_is_left(run):
    assert not len(proposed(run, [run.limit], 0))
    assert not run.device.calls


@pytest.mark.parametrize('factor', [0.9, 1.2])
def test_baselines_enter_with_networks_that_hold_the_measured_budget(run, monkeypatch, factor):
    run.device.factor = factor
    monkeypatch.setattr(baseline_widths, 'losses_of', lambda *_: lambda choices: -float(choices.sum()))
    choose = baseline_widths.baselines_of(run.config, None, GRAPH, run.table, None)
    entered = proposals.entered(run.config, GRAPH, run.table, choose, [run.limit, 2.0 * run.limit])
    times = np.array([most(run)[widths] for widths in GRAPH.networks(entered)])
    assert len(entered) == 4
    assert (times[:2] <= run.limit).all()
    assert (times[2:] <= 2 * run.limit).all()
    assert (times[2:] > run.limit).all()


def test_a_baseline_that_cannot_hold_the_budget_does_not_enter(run, monkeypatch):
    run.device.factor = 20.0
    monkeypatch.setattr(baseline_widths, 'losses_of', lambda *_: lambda choices: -float(choices.sum()))
    choose = baseline_widths.baselines_of(run.config, None, GRAPH, run.table, None)
    assert not len(proposals.entered(run.config, GRAPH, run.table, choose, [run.limit]))
