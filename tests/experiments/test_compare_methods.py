"""Comparisons: the arithmetic of the table, and that processes share work without doing it twice."""

import dataclasses
import json
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest

from experiments import (
    compare_methods,
    comparison,
    fit_latency,
    measure_latency,
    methods,
    plots,
    ranking_study,
    train_subnet,
)
from experiments.config import AccuracyConfig, CompareConfig, Method, RepairConfig
from experiments.locks import if_free
from experiments.paths import paths
from experiments.presets import DIGITS
from jcw.accuracy import samples
from jcw.field import independent
from jcw.latency.table import flops_table
from tests.experiments.paper_device import PaperDevice
from tests.tiny_graph import mobilenet_v1

GRAPH = mobilenet_v1((8, 8, 1), 10, base_multiplier=0.25, levels=4, strides=(1,) * 14)


def trainings_of(rng, chances, seeds, spread):
    """Trainings of a network that classifies image i right with chance `chances[i]`, whatever the seed's luck."""
    luck = rng.normal(0, spread, (seeds, 1))
    right = rng.random((seeds, len(chances))) < np.clip(chances + luck, 0, 1)
    return comparison.Tested(right.mean(1), np.zeros(seeds), right)


def test_the_error_of_a_gain_over_seeds_is_that_of_many_draws():
    rng = np.random.default_rng(0)
    trainings = [
        [comparison.Tested(rng.normal(mean, 0.01, 5), np.zeros(5), None) for mean in (0.5, 0.4)]
        for _ in range(4000)
    ]
    gains = [comparison.gain(*pair) for pair in trainings]
    assert np.mean([each.value for each in gains]) == pytest.approx(0.25, abs=0.001)
    obtained = np.std([each.value for each in gains])
    assert np.sqrt(np.mean([each.error**2 for each in gains])) == pytest.approx(obtained, rel=0.05)


def test_the_error_of_a_gain_over_images_is_that_of_many_test_sets_whose_hard_images_are_hard_for_both():
    rng = np.random.default_rng(1)
    gains, alone = [], []
    for _ in range(1500):
        hard = rng.random(300) < 0.5  # in which test sets differ most
        own, other = (trainings_of(rng, np.where(hard, chance, 0.98), 3, 0) for chance in (0.12, 0.1))
        gains.append(comparison.gain(own, other))
        alone.append(
            np.hypot(*(comparison.standard_error(each.right.mean(0)) for each in (own, other))) / 0.54
        )
    obtained = np.std([each.value for each in gains])
    assert np.sqrt(np.mean([each.images**2 for each in gains])) == pytest.approx(obtained, rel=0.07)
    assert np.mean(alone) > 1.5 * obtained  # what is hard for both does not count


def test_the_error_of_a_gain_covers_seeds_and_images_together():
    rng = np.random.default_rng(2)
    hits, errors, values = 0, [], []
    for _ in range(1500):
        easy = rng.random(400)
        own, other = (trainings_of(rng, chance * easy, 5, 0.02) for chance in (0.8, 0.75))
        found = comparison.gain(own, other)
        values.append(found.value)
        errors.append(found.error)
        hits += abs(found.value - (0.8 / 0.75 - 1)) < 1.96 * found.error
    assert 1 <= np.sqrt(np.mean(np.square(errors))) / np.std(values) < 1.4
    assert hits >= 0.93 * 1500


def test_what_was_right_is_kept_with_a_training(tmp_path):
    right = np.random.default_rng(3).random(37) < 0.4
    record = {train_subnet.RIGHT: np.packbits(right).tobytes().hex()}
    np.testing.assert_array_equal(train_subnet.right_of(record, 37), right)
    assert train_subnet.right_of({}, 37) is None


def test_every_method_has_a_colour():
    assert set(get_args(Method)) <= set(plots.COLOURS)


def test_what_a_method_takes_is_what_it_needs_of_all_that_was_spent(tmp_path):
    assert {*methods.PARTS} == {*get_args(Method)} == {*methods.FIELDS, *methods.BASELINES}
    spent = {'timing networks': 50, 'training the supernet': 30, 'greedy slimming': 5, 'short trainings': 40}
    lines = [json.dumps({'part': part, 'seconds': value}) for part, value in spent.items()]
    again = json.dumps({'part': 'training the supernet', 'seconds': 2})
    (tmp_path / 'spent.jsonl').write_text('\n'.join([*lines, again]))
    found = methods.seconds(tmp_path, ('uniform', 'greedy', 'joint', 'random_trained'))
    assert found == {'uniform': 0, 'greedy': 37, 'joint': 77, 'random_trained': 0}
    assert 'greedy 37 s, joint 77 s' in comparison.costs(found)


def test_one_seed_has_no_known_error():
    assert np.isnan(comparison.standard_error(np.array([0.5])))


def test_a_free_job_is_taken_once_and_left_when_done(tmp_path):
    lock = tmp_path / 'lock'
    with if_free(lock) as first, if_free(lock) as second:
        assert (first, second) == (True, False)
    with if_free(lock) as again:
        assert again


@pytest.fixture
def setting(tmp_path, monkeypatch):
    """A comparison by a score in closed form instead of a supernet, on paper and 10 % slower than the table."""
    table = dataclasses.replace(flops_table(GRAPH), unit='ms per call')
    config = dataclasses.replace(
        DIGITS,
        run=tmp_path / 'run',
        accuracy=AccuracyConfig(trainings=0),
        compare=CompareConfig(methods=('joint', 'uniform', 'greedy')),
    )
    gain = np.where(GRAPH.width_table > 0, np.sqrt(GRAPH.width_table), -np.inf)
    field = independent(gain)
    device = PaperDevice(GRAPH, table, 1.1)

    def loss(choices):
        return -float(gain[np.arange(GRAPH.num_sites), choices].sum())

    device.install(monkeypatch)
    monkeypatch.setitem(compare_methods.FIELDS, 'joint', lambda setting: field)
    stand_ins = compare_methods.Setting(config, None, GRAPH, table, None, lambda: loss)
    limit = float(table.predict(GRAPH.base)) / 2
    return SimpleNamespace(value=stand_ins, table=table, device=device, limit=limit)


def test_methods_hold_the_measured_budget(setting):
    found = compare_methods.choose(setting.value, 0.5)
    assert list(found) == ['joint', 'uniform', 'greedy']
    for widths in found.values():
        assert 0.8 * setting.limit < 1.1 * float(setting.table.predict(widths)) <= setting.limit


def test_a_method_that_has_nothing_so_small_is_left_out_and_said(setting, monkeypatch, capsys):
    def unreachable(setting, limit):
        raise ValueError('nothing is so small')

    monkeypatch.setitem(compare_methods.BASELINES, 'greedy', unreachable)
    assert list(compare_methods.choose(setting.value, 0.5)) == ['joint', 'uniform']
    assert 'greedy is left out: nothing is so small' in capsys.readouterr().out


def test_a_method_that_cannot_hold_the_measured_budget_is_left_out(setting, monkeypatch, capsys):
    fixed = GRAPH.to_choices(setting.value.table.graph.base)
    monkeypatch.setitem(compare_methods.BASELINES, 'uniform', lambda setting, limit: fixed)
    assert list(compare_methods.choose(setting.value, 0.5)) == ['joint', 'greedy']
    said = ' '.join(capsys.readouterr().out.split())
    assert 'uniform is left out: no network was found to hold the budget of 50% as measured' in said


@pytest.mark.parametrize('factor', [0.8, 1.1, 1.25])
def test_random_search_follows_the_measured_budget(setting, monkeypatch, factor):
    setting.device.factor = factor
    compared = dataclasses.replace(setting.value.config.compare, methods=('joint', 'random'))
    value = setting.value._replace(config=dataclasses.replace(setting.value.config, compare=compared))
    found = compare_methods.choose(value, 0.5)
    assert 0.85 * setting.limit < factor * float(setting.table.predict(found['random'])) <= setting.limit


def test_what_was_chosen_is_read_back_without_timing(setting):
    found = compare_methods.choose(setting.value, 0.5)
    timed = list(setting.device.calls)
    assert timed
    assert compare_methods.choose(setting.value, 0.5) == found
    assert setting.device.calls == timed


def test_without_rounds_methods_hold_the_predicted_budget_untimed(setting):
    config = dataclasses.replace(setting.value.config, repair=RepairConfig(rounds=0))
    found = compare_methods.choose(setting.value._replace(config=config), 0.5)
    assert not setting.device.calls
    for widths in found.values():
        assert 0.8 * setting.limit < float(setting.table.predict(widths)) <= setting.limit


def test_the_table_has_a_line_for_each_method_and_no_gain_over_itself():
    row = {
        'budget': 0.5,
        'budget_ms': 1.2,
        'method': 'joint',
        'predicted_ms': 1.0,
        'measured_ms': 1.1,
        'measured_error': 0.01,
        'mflops': 2.0,
        'mean': 0.61,
        'error': 0.02,
        'loss': 1.5,
        'loss_error': 0.25,
        'gain_over_greedy': [0.04, 0.008, 0.006],
        'widths': (8, 16),
    }
    text = comparison.markdown([row])
    assert text.splitlines()[-1] == (
        '| 50% | joint | 1.000 ms | 1.100 ms ± 1.0% | 2.00 | 61.00% ± 2.00% | 1.500 ± 0.250 | +4.0% ± 1.0% |  | 8 16 |'
    )
    nan = float('nan')
    alone = comparison.markdown(
        [{**row, 'error': nan, 'loss_error': nan, 'gain_over_greedy': [0.04, nan, 0.006]}]
    )
    assert (
        alone.splitlines()[-1]
        == '| 50% | joint | 1.000 ms | 1.100 ms ± 1.0% | 2.00 | 61.00% | 1.500 | +4.0% |  | 8 16 |'
    )
    assert comparison.draw([row]).axes[0].get_legend_handles_labels()[1] == ['joint']


def test_a_rank_correlation_lies_in_its_interval_and_ignores_monotone_maps():
    rng = np.random.default_rng(1)
    truth = rng.normal(size=200)
    noisy = truth + rng.normal(size=200)
    found = ranking_study.spearman(noisy, truth)
    assert found.low < found.value < found.high
    assert 0.5 < found.low < 0.7 < 0.8 > found.high - 0.05
    assert ranking_study.spearman(np.exp(noisy), truth) == found
    assert ranking_study.spearman(truth, truth).value == pytest.approx(1)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(2)
    correlation = 0.6
    inside = 0
    for _ in range(100):
        x = rng.normal(size=200)
        y = correlation * x + np.sqrt(1 - correlation**2) * rng.normal(size=200)
        found = ranking_study.spearman(x, y, resamples=300)
        inside += found.low <= 6 / np.pi * np.arcsin(correlation / 2) <= found.high
    assert inside >= 88


@pytest.mark.slow
def test_a_comparison_of_digits_runs_and_a_second_call_reuses_it(tmp_path):
    latency = dataclasses.replace(DIGITS.latency, networks=24, batch=2)
    compared = ('joint', 'rewards', 'greedy', 'uniform', 'random_trained', 'flops', 'other_table')
    config = dataclasses.replace(
        DIGITS,
        run=tmp_path / 'run',
        space=dataclasses.replace(DIGITS.space, levels=2, max_multiplier=1.0),
        latency=latency,
        accuracy=dataclasses.replace(DIGITS.accuracy, trainings=5, seeds=(0,)),
        supernet=dataclasses.replace(DIGITS.supernet, epochs=0.5, warmup_epochs=0),
        subnet=dataclasses.replace(DIGITS.subnet, epochs=0.5, warmup_epochs=0),
        compare=CompareConfig(budgets=(0.9,), methods=compared, seeds=(0, 1), other_table=tmp_path / 'other'),
    )
    other = dataclasses.replace(
        config, run=tmp_path / 'other', latency=dataclasses.replace(latency, runtime='onnx', batch=1)
    )
    measure_latency.measure(other)
    fit_latency.fit(other)
    compare_methods.main(config)
    folder = config.run / 'comparison'
    rows = json.loads((folder / 'results.json').read_text())
    assert {row['method'] for row in rows} >= {*compared} - {'other_table'}  # whose table may miss the budget
    assert all(len(row['test_accuracies']) == 2 and row['measured_ms'] > 0 for row in rows)
    assert all(row['loss'] > 0.1 for row in rows)
    assert all(row['measured_ms'] <= 1.05 * row['budget_ms'] for row in rows)  # timed once more
    right = {}
    for row in rows:
        files = [paths(config).trained(tuple(row['widths']), seed) / 'result.json' for seed in (0, 1)]
        right[row['method']] = np.stack(
            [train_subnet.right_of(json.loads(file.read_text()), 360) for file in files]
        )
        assert right[row['method']].mean(1) == pytest.approx(row['test_accuracies'], abs=1e-6)
    took = methods.seconds(config.run, compared)
    assert 0 < took['greedy'] < took['joint']
    assert took['random_trained'] > 0
    others = [row for row in rows if 'gain_over_greedy' in row]
    assert others
    greedy = right['greedy'].mean(0)
    for row in others:
        own = right[row['method']].mean(0)
        expected = np.std(own - own.mean() / greedy.mean() * greedy, ddof=1) / np.sqrt(360) / greedy.mean()
        assert row['gain_over_greedy'][2] == pytest.approx(expected, abs=1e-6)
    known = samples.read(config.run / 'accuracy' / 'samples.jsonl')
    drawn = samples.read(config.run / 'accuracy' / 'random_samples.jsonl')
    assert len(known.trained) <= 5  # random search draws anew for a corrected budget
    joint, random = (
        next(tuple(row['widths']) for row in rows if row['method'] == name)
        for name in ('joint', 'random_trained')
    )
    assert joint in {sample.widths for sample in known.trained}
    assert random in {sample.widths for sample in drawn.trained}
    trained = {path: path.stat().st_mtime_ns for path in config.run.glob('trained/*/*/result.json')}
    assert len(trained) >= 2 * len({tuple(row['widths']) for row in rows})
    compare_methods.main(config)
    assert trained == {path: path.stat().st_mtime_ns for path in config.run.glob('trained/*/*/result.json')}
    assert json.loads((folder / 'results.json').read_text()) == rows
