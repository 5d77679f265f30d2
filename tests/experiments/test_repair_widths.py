"""Measured repair as a stage: every method's network holds the measured budget, and no network is timed twice."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import (
    baseline_widths,
    candidates,
    repair_widths,
    report,
    search_widths,
    train_subnet,
)
from experiments.config import AccuracyConfig, RepairConfig, SearchConfig, SubnetConfig
from experiments.paths import paths
from experiments.presets import DIGITS
from experiments.run_folder import Usage, claim, read_json, save_json
from jcw.budget import solve
from jcw.field import independent
from jcw.latency import samples
from jcw.latency.table import flops_table
from tests.experiments.paper_device import PaperDevice
from tests.tiny_graph import mobilenet_v1

GRAPH = mobilenet_v1((8, 8, 1), 10, base_multiplier=0.25, levels=4, strides=(1,) * 14)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run whose supernet is stood in for by a score known in closed form; networks are timed on paper."""
    table = flops_table(GRAPH)
    table = dataclasses.replace(table, entries=table.entries / 1e6, unit='ms per call')
    nothing = AccuracyConfig(trainings=0)
    search = SearchConfig(budget=0.5, frontier=2)
    config = dataclasses.replace(DIGITS, run=tmp_path / 'run', accuracy=nothing, search=search)
    widest = GRAPH.width_table.max(1, keepdims=True)
    gain = np.where(GRAPH.present, np.sqrt(GRAPH.width_table / widest), -np.inf)
    field = independent(gain)
    limit = 0.5 * float(table.predict(GRAPH.base))

    def loss(choices):
        return float(-gain[np.arange(14), choices].sum())

    for module in (search_widths, repair_widths):
        monkeypatch.setattr(module, 'train', lambda *_: None)
        monkeypatch.setattr(module, 'utility_of', lambda *_: field)
    monkeypatch.setattr(baseline_widths, 'losses_of', lambda *_: loss)
    at = baseline_widths.baselines_of(config, None, GRAPH, table, None)
    at['joint'] = lambda limit: np.asarray(solve(field, table.to_cost(), limit).choices)
    device = PaperDevice(GRAPH, table)
    device.install(monkeypatch)
    return SimpleNamespace(config=config, table=table, device=device, limit=limit, at=at, field=field)


def repaired(run, **settings):
    config = dataclasses.replace(run.config, repair=RepairConfig(**settings))
    return repair_widths.repair(config, None, GRAPH, run.table)


@pytest.mark.parametrize('factor', [0.75, 0.97, 1.04, 1.3])
def test_every_methods_network_holds_the_measured_budget_and_uses_most_of_it(run, factor):
    run.device.factor = factor
    result = repaired(run)
    for name in ('joint', 'uniform', 'greedy'):
        found = result['methods'][name]
        assert found['holds'], name
        assert found['measured_ms'] * (1 + 1.96 * found['measured_error']) <= run.limit
        with_a_true_table = GRAPH.to_widths(run.at[name](0.96 * run.limit / factor))
        assert found['ms'] >= float(run.table.predict(with_a_true_table)) * (1 - 1e-9), name
        assert found['ms'] == pytest.approx(float(run.table.predict(found['widths'])))
    assert result['methods']['joint']['complete']
    assert len(run.device.calls) <= run.config.repair.rounds


def test_methods_are_timed_together_and_no_network_twice(run):
    run.device.factor = 1.1
    result = repaired(run)
    assert run.device.calls[0] == run.config.repair.candidates + 2
    assert len(samples.read(paths(run.config).candidates).samples) == run.device.timed
    assert run.device.timed >= result['methods']['joint']['timed']


def test_two_fields_and_baselines_hold_one_budget_and_share_their_timings(run):
    run.device.factor = 1.1
    narrower = run.field.replace(unary=run.field.unary * np.linspace(1, 2, GRAPH.num_sites)[:, None])
    held = candidates.hold(
        run.config,
        GRAPH,
        run.table,
        run.limit,
        {'joint': run.field, 'adaptive': narrower},
        {name: run.at[name] for name in ('uniform', 'greedy')},
    )
    assert list(held) == ['joint', 'adaptive', 'uniform', 'greedy']
    assert held['joint'].widths.tolist() != held['adaptive'].widths.tolist()
    for found in held.values():
        assert found.feasible
        assert found.measured * (1 + 1.96 * found.error) <= run.limit
    assert len(samples.read(paths(run.config).candidates).samples) == run.device.timed


def test_of_all_that_holds_the_best_known_by_its_own_training_is_taken(run):
    """A network trained briefly and found better than the field says it is wins over the field's optimum."""
    from jcw.accuracy.table import refit, untrained

    choices = np.zeros((12, 14), np.int64)
    choices[np.arange(12), np.arange(12)] = 1
    field_says = choices.sum(1) * 1.0
    field_says[3] += 30  # and again, so that it is not noise
    believed = untrained(GRAPH.site_names, GRAPH.width_choices)
    fitted = refit(believed, np.concatenate([choices, choices]), np.concatenate([field_says, field_says]))
    candidates.samples_of(run.config, GRAPH, GRAPH.networks(choices))
    found = repair_widths.best_known(run.config, GRAPH, run.table, fitted, 100.0)
    assert [found['widths']] == GRAPH.networks(choices[3:4])
    assert found['holds']
    assert repair_widths.best_known(run.config, GRAPH, run.table, fitted, 1e-6) == {}


@pytest.mark.parametrize(
    ('epochs', 'from_supernet', 'taken'),
    [(1.0, False, 'trained'), (1.0, True, 'untrained'), (0.25, False, 'untrained')],
)
def test_where_trainings_are_the_final_ones_only_what_was_trained_is_taken(
    run, monkeypatch, epochs, from_supernet, taken
):
    from jcw.accuracy.table import refit, untrained

    choices = np.eye(12, 14, dtype=np.int64)
    utility = choices @ np.arange(14.0)
    fitted = refit(untrained(GRAPH.site_names, GRAPH.width_choices), choices, utility)
    monkeypatch.setattr(repair_widths.fit_accuracy, 'fit', lambda *_: fitted)
    accuracy = AccuracyConfig(trainings=12, epochs=epochs, from_supernet=from_supernet)
    config = dataclasses.replace(run.config, accuracy=accuracy)
    candidates.samples_of(config, GRAPH, GRAPH.networks(choices))
    before = run.device.timed
    result = repair_widths.repair(config, None, GRAPH, run.table)
    joint = result['methods']['joint']
    assert joint['holds']
    assert (tuple(joint['widths']) in GRAPH.networks(choices)) == (taken == 'trained')
    assert ('the best of the 12 networks trained' in repair_widths.describe(result)) == (taken == 'trained')
    if taken == 'trained':
        assert [tuple(joint['widths'])] == GRAPH.networks(choices[11:])
        assert run.device.timed - before <= 4  # of the baselines alone


def test_where_no_network_trained_holds_another_one_is_found(run, monkeypatch):
    from jcw.accuracy.table import refit, untrained

    choices = np.stack([GRAPH.num_choices - 1, GRAPH.num_choices - 1 - np.eye(14, dtype=int)[0]])
    fitted = refit(untrained(GRAPH.site_names, GRAPH.width_choices), choices, np.array([2.0, 1.0]))
    monkeypatch.setattr(repair_widths.fit_accuracy, 'fit', lambda *_: fitted)
    accuracy = AccuracyConfig(trainings=2, epochs=1.0, from_supernet=False)
    config = dataclasses.replace(run.config, accuracy=accuracy)
    candidates.samples_of(config, GRAPH, GRAPH.networks(choices))
    joint = repair_widths.repair(config, None, GRAPH, run.table)['methods']['joint']
    assert joint['holds']
    assert tuple(joint['widths']) not in GRAPH.networks(choices)


def test_the_same_call_reads_the_result_back(run):
    first = repaired(run)
    calls = list(run.device.calls)
    assert repaired(run) == first
    assert run.device.calls == calls


def test_other_settings_are_refused(run):
    repaired(run)
    with pytest.raises(Usage, match=r'repair.candidates was 4, now 2'):
        repaired(run, candidates=2)


def test_no_rounds_keep_the_optimum_of_the_table(run):
    result = repaired(run, rounds=0)
    assert not run.device.calls
    assert 'measured_ms' not in result['methods']['joint']
    assert 'not repaired' in repair_widths.describe(result)


def test_too_few_rounds_are_said(run):
    run.device.factor = 1.3
    result = repaired(run, rounds=1)
    assert not result['methods']['joint']['complete']
    assert 'better candidates were left untimed' in repair_widths.describe(result)
    assert 'does not hold the budget' in repair_widths.describe(result)
    assert repair_widths.describe(result).endswith('Try more --repair.rounds, or a larger --search.budget')


def test_the_line_says_predicted_measured_budget_and_rounds(run):
    result = repaired(run)
    joint = result['methods']['joint']
    line = repair_widths.describe(result)
    for said in (
        f'predicted {joint["ms"]:.3f} ms',
        f'measured {joint["measured_ms"]:.3f} ms ± {joint["measured_error"]:.1%}',
        f'budget {run.limit:.3f} ms',
        f'after {joint["rounds"]} round',
        'it holds the budget',
    ):
        assert said in line


def test_the_table_says_what_was_measured_of_every_method(run):
    methods = {name: {**m, 'test_accuracies': [0.9, 0.8]} for name, m in repaired(run)['methods'].items()}
    for row in report.rows_of(GRAPH, methods):
        cells = dict(zip(report.HEADINGS, report.cells_of(row), strict=True))
        assert cells['measured'] == f'{row["measured_ms"]:.3f} ms ± {row["measured_error"]:.1%}'
        assert row['rounds'] >= 1


def test_the_report_says_whether_the_baselines_hold_the_budget(run):
    run.device.factor = 1.3
    assert report._baselines(repaired(run)).endswith('All hold it.')
    assert report._baselines(repaired(run, rounds=0)) == ''


def test_the_report_names_a_baseline_that_does_not_hold_it(run):
    run.device.factor = 1.3
    assert report._baselines(repaired(run, rounds=1)).endswith(
        'No network of uniform and greedy was found to hold it.'
    )


def test_a_network_that_cannot_be_timed_is_named(run):
    first = search_widths.search(run.config, None, GRAPH, run.table)['methods']['uniform']['widths']
    run.device.failing = tuple(first)
    with pytest.raises(Usage, match=r'could not be timed: too wide'):
        repaired(run)


def test_later_stages_train_what_was_repaired(run):
    result = repaired(run)
    assert train_subnet.found(run.config) == result
    assert candidates.with_times(run.config, GRAPH, result['methods']) == result['methods']
    unrepaired = dataclasses.replace(run.config, repair=RepairConfig(rounds=0))
    assert train_subnet.found(unrepaired) == repaired(run, rounds=0)


def test_a_stage_left_out_is_named(run):
    for rounds, stage in ((12, 'repair_widths'), (0, 'search_widths')):
        config = dataclasses.replace(run.config, repair=RepairConfig(rounds=rounds))
        with pytest.raises(Usage, match=f'run experiments.{stage} first'):
            train_subnet.found(config)


def test_a_folder_of_before_a_setting_existed_is_still_the_same_run(tmp_path):
    claim(tmp_path, subnet=SubnetConfig(), seed=0)
    path = tmp_path / 'settings.json'
    old = read_json(path)
    del old['subnet']['ema']
    save_json(path, old)
    claim(tmp_path, subnet=SubnetConfig(), seed=0)
    (tmp_path / 'result.json').touch()
    with pytest.raises(Usage, match=r'subnet.ema was 0.0, now 0.9'):
        claim(tmp_path, subnet=SubnetConfig(ema=0.9), seed=0)
