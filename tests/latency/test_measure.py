import dataclasses

import jax
import numpy as np
import pytest

from jcw.latency import samples
from jcw.latency.design import random_networks
from jcw.latency.measure import DIED, TimingPlan, failures, measure
from jcw.latency.runtimes import RuntimeFailure
from tests.latency.simulated import SimulatedRuntime, small_graph, true_table

GRAPH = small_graph()
QUICK = TimingPlan(calls=10, min_visits=3, max_visits=5)


def networks(count: int, seed: int = 0) -> np.ndarray:
    return random_networks(jax.random.key(seed), GRAPH, count)


def device(**about) -> SimulatedRuntime:
    return SimulatedRuntime(GRAPH, true_table(GRAPH), **about)


def run(runtime, wanted, path, plan=QUICK) -> list[samples.Sample]:
    return list(measure(runtime, GRAPH, wanted, path, batch=8, plan=plan))


def test_estimates_recover_the_true_times_up_to_the_reference(tmp_path):
    runtime = device(noise=0.01)
    run(runtime, networks(30), tmp_path / 's.jsonl')
    held = samples.read(tmp_path / 's.jsonl')
    ratio = held.latency_ms / runtime.true_ms(held.widths)
    assert np.std(ratio) / np.mean(ratio) < 0.006
    assert abs(np.mean(ratio) - 1) < 0.01


def test_drift_and_outliers_cancel_against_the_reference(tmp_path):
    runtime = device(noise=0.01, drift=lambda calls: 1 + 0.3 * np.sin(calls / 400), outlier_rate=0.1)
    run(runtime, networks(30), tmp_path / 's.jsonl')
    held = samples.read(tmp_path / 's.jsonl')
    ratio = held.latency_ms / runtime.true_ms(held.widths)
    unpaired = [np.mean(np.concatenate(sample.calls_ms)) for sample in held.timed] / runtime.true_ms(
        held.widths
    )
    assert np.std(ratio) / np.mean(ratio) < 0.008
    assert np.std(unpaired) / np.mean(unpaired) > 0.1


@pytest.mark.parametrize(('warmup', 'recovered'), [(3, True), (0, False)])
def test_caches_emptied_by_other_networks_do_not_count(tmp_path, warmup, recovered):
    runtime = device(noise=0.01)
    runtime.cold_ms = float(runtime.true_ms(GRAPH.base))
    run(runtime, networks(30), tmp_path / 's.jsonl', dataclasses.replace(QUICK, warmup=warmup))
    held = samples.read(tmp_path / 's.jsonl')
    ratio = held.latency_ms / runtime.true_ms(held.widths)
    assert (np.abs(ratio - 1) < 0.03).all() == recovered


def test_an_interrupted_run_resumes_with_nothing_lost_but_the_line_in_flight(tmp_path):
    path = tmp_path / 's.jsonl'
    wanted = networks(12)
    run(device(), wanted[:5], path)
    path.write_bytes(path.read_bytes()[:-20])
    runtime = device()
    run(runtime, wanted, path)
    held = samples.read(path)
    assert [s.widths for s in held.samples[:4]] == [tuple(w) for w in wanted[:4]]
    assert {s.widths for s in held.samples} == {tuple(w) for w in wanted}
    assert len(runtime.opened) == 1 + 12 - 4


def test_a_failing_network_is_a_failed_sample_and_the_others_go_on(tmp_path):
    bad = tuple(networks(5)[2])
    runtime = device(failing=lambda widths: 'no memory' if widths == bad else '')
    run(runtime, networks(5), tmp_path / 's.jsonl')
    held = samples.read(tmp_path / 's.jsonl')
    failed = [s for s in held.samples if s.failure]
    assert [(s.widths, s.failure, s.attempt) for s in failed] == [(bad, 'no memory', QUICK.attempts)]
    assert len(held.timed) == 4


def test_every_program_is_closed(tmp_path):
    runtime = device()
    run(runtime, networks(9), tmp_path / 's.jsonl')
    assert runtime.held == 0


def test_a_file_begun_on_another_device_is_refused(tmp_path):
    run(device(), networks(2), tmp_path / 's.jsonl')
    with pytest.raises(ValueError, match="device 'ink' instead of 'paper, 1 core'"):
        run(device(device='ink'), networks(4), tmp_path / 's.jsonl')


def test_no_network_is_an_error(tmp_path):
    with pytest.raises(ValueError, match='no network to time'):
        run(device(), networks(0), tmp_path / 's.jsonl')


def test_a_network_that_kills_the_process_is_given_up_and_the_others_go_on(tmp_path):
    path, wanted = tmp_path / 's.jsonl', networks(6)
    deadly = tuple(wanted[3])

    mark, left_behind = tmp_path / 's.jsonl.timing', []

    def killed(widths):
        if widths == deadly:
            left_behind.append(mark.read_text())
            raise KeyboardInterrupt
        return ''

    deaths = 0
    for _ in range(10):
        running = measure(device(failing=killed), GRAPH, wanted, path, batch=8, plan=QUICK)
        try:
            list(running)
            break
        except KeyboardInterrupt:
            deaths += 1
            mark.write_text(left_behind[-1])  # a process that is killed outright does not clean up
    held = samples.read(path)
    assert deaths <= 1 + QUICK.attempts
    assert {s.widths: s.failure for s in held.samples if s.failure} == {deadly: DIED}
    assert len(held.timed) == 5


def test_a_network_that_kills_the_process_when_timed_again_keeps_its_first_timing(tmp_path):
    path, wanted = tmp_path / 's.jsonl', networks(3)
    plan = dataclasses.replace(QUICK, doubt=0.0, attempts=2)
    deadly = tuple(wanted[1])
    mark, left_behind, opened = tmp_path / 's.jsonl.timing', [], []

    def killed(widths):
        opened.append(widths)
        if widths == deadly and opened.count(deadly) > 1:
            left_behind.append(mark.read_text())
            raise KeyboardInterrupt
        return ''

    deaths = 0
    for _ in range(10):
        try:
            list(measure(device(failing=killed), GRAPH, wanted, path, batch=8, plan=plan))
            break
        except KeyboardInterrupt:
            deaths += 1
            mark.write_text(left_behind[-1])
    held = samples.read(path)
    assert 0 < deaths <= 1 + plan.attempts
    assert {s.widths for s in held.timed} == {tuple(widths) for widths in wanted}


def test_stopping_on_purpose_blames_no_network(tmp_path):
    path, wanted = tmp_path / 's.jsonl', networks(6)
    running = measure(device(), GRAPH, wanted, path, batch=8, plan=QUICK)
    next(running)
    running.close()
    run(device(), wanted, path)
    assert len(samples.read(path).timed) == 6
    assert not any(s.attempt > 1 for s in samples.read(path).samples)


def test_networks_are_visited_in_turn_and_few_are_held_open(tmp_path):
    runtime, most = device(), 0
    for _ in measure(runtime, GRAPH, networks(20), tmp_path / 's', batch=8, plan=QUICK):
        most = max(most, runtime.held)
    assert most <= QUICK.window + 1


def test_a_visit_of_long_calls_has_fewer(tmp_path):
    runtime = device(noise=0.0)
    call_ms = float(runtime.true_ms(networks(1)[0]))
    cases = ((0.1, 5), (6.5, 7), (1e3, 10))  # the visit's time, in calls of this network, and how many it has
    for count, expected in cases:
        plan = dataclasses.replace(QUICK, visit_ms=count * call_ms)
        (sample,) = run(runtime, networks(1), tmp_path / f'{count}', plan)
        assert [*map(len, sample.calls_ms)] == [expected] * QUICK.min_visits
        assert [*map(len, sample.reference_ms)] == [expected] * QUICK.min_visits
        more = dataclasses.replace(plan, min_visits=4, long_visits=3)
        (sample,) = run(runtime, networks(1), tmp_path / f'{count}, more visits', more)
        assert len(sample.calls_ms) == (4 if expected == plan.calls else 3)
    few = dataclasses.replace(QUICK, calls=2)
    (sample,) = run(runtime, networks(1), tmp_path / 'few', few)
    assert [*map(len, sample.calls_ms)] == [2] * QUICK.min_visits


def test_networks_whose_visits_disagree_are_timed_again(tmp_path):
    doubtful = TimingPlan(calls=4, min_visits=3, max_visits=3, doubt=0.01, attempts=2)
    noisy = device(noise=0.2)
    run(noisy, networks(4), tmp_path / 's', doubtful)
    held = samples.read(tmp_path / 's')
    assert max(s.attempt for s in held.samples) == 2
    assert max(len(s.calls_ms) for s in held.samples) == 6


def test_nonsense_times_are_failures(tmp_path):
    runtime = device()
    bad = tuple(networks(3)[1])
    true_ms = runtime.true_ms
    runtime.true_ms = lambda widths: np.array(np.nan) if tuple(widths) == bad else true_ms(widths)
    run(runtime, networks(3), tmp_path / 's')
    failed = [s for s in samples.read(tmp_path / 's').samples if s.failure]
    assert [(s.widths, s.failure) for s in failed] == [(bad, 'time of nan ms')]


@pytest.mark.parametrize(
    'change',
    [
        {'calls': 0},
        {'long_visits': 0},
        {'min_visits': 3, 'max_visits': 2},
        {'window': 0},
        {'warmup': -1},
        {'visit_ms': 0},
    ],
)
def test_a_protocol_that_times_nothing_is_refused(change):
    with pytest.raises(ValueError, match=r'positive|min_visits'):
        TimingPlan(**change)


def test_a_first_fault_of_the_reference_costs_no_stage(tmp_path):
    faults = iter(['asleep'])
    runtime = device(failing=lambda widths: next(faults, ''))
    run(runtime, networks(3), tmp_path / 's')
    assert len(samples.read(tmp_path / 's').timed) == 3


def test_a_reference_that_never_answers_ends_the_stage_with_its_reason(tmp_path):
    with pytest.raises(RuntimeFailure, match='asleep'):
        run(device(failing=lambda widths: 'asleep'), networks(3), tmp_path / 's')


def test_networks_that_failed_are_tried_again_by_the_next_start(tmp_path):
    bad, path = tuple(networks(3)[1]), tmp_path / 's'
    broken = device(failing=lambda widths: 'full' if tuple(widths) == bad else '')
    run(broken, networks(3), path)
    assert failures(path) == {bad: QUICK.attempts}
    run(device(), networks(3), path)
    assert failures(path) == {bad: QUICK.attempts}
    again = measure(device(), GRAPH, networks(3), path, batch=8, plan=QUICK, earlier=failures(path))
    assert [sample.widths for sample in again] == [bad]
    assert failures(path) == {}
