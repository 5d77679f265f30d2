"""The whole job, at the smallest size, as a user runs it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = (
    *('--latency.networks', '24', '--latency.batch', '2', '--space.levels', '2'),
    *('--space.max-multiplier', '1.0', '--supernet.epochs', '0.5', '--subnet.epochs', '1.2'),
    *('--supernet.warmup-epochs', '0', '--subnet.warmup-epochs', '0', '--search.budget', '0.9'),
)


def quickstart(run: Path, *args: str) -> subprocess.CompletedProcess:
    command = [sys.executable, '-m', 'experiments.quickstart', 'digits', '--run', str(run), *SMALL, *args]
    environment = {**os.environ, 'JAX_NUM_CPU_DEVICES': '1'}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False
    )


@pytest.fixture(scope='module')
def finished(tmp_path_factory) -> tuple[Path, str]:
    run = tmp_path_factory.mktemp('quickstart') / 'run'
    done = quickstart(run)
    assert done.returncode == 0, done.stdout + done.stderr
    return run, done.stdout


@pytest.mark.slow
def test_quickstart_leaves_everything_it_promises(finished):
    run, printed = finished
    for name in (
        'latency/samples.jsonl',
        'latency/table.json',
        'supernet/checkpoints',
        'search/0.9/result.json',
        'search/0.9/repair/result.json',
        'accuracy/0.9/table.json',
        'plots/accuracy.png',
        'plots/latency.png',
        'plots/frontier.png',
        'plots/widths.png',
        'network/0.9/network.json',
        'report.html',
    ):
        assert (run / name).exists(), name
    joint = json.loads((run / 'results.json').read_text())[0]['widths']
    assert (run / 'trained' / '-'.join(map(str, joint)) / 'seed_0' / 'checkpoints').is_dir()
    rows = json.loads((run / 'results.json').read_text())
    assert [row['method'] for row in rows] == ['joint', 'uniform', 'greedy']
    assert all(row['measured_ms'] > 0 and 0 < row['test_accuracy'] <= 1 for row in rows)
    assert 'NRMSE' in printed
    page = (run / 'report.html').read_text()
    assert page.count('data:image/png;base64') == 4
    assert 'src="http' not in page


@pytest.mark.slow
def test_the_deployed_network_classifies_images(finished):
    from jcw import data, deploy

    run, _ = finished
    rows = json.loads((run / 'results.json').read_text())
    test = data.load('digits').test
    logits = deploy.load(run / 'network' / '0.9')(test.images)
    accuracy = float((logits.argmax(-1) == test.labels).mean())
    assert accuracy == pytest.approx(rows[0]['test_accuracies'][0], abs=0.5 / len(test))


@pytest.mark.slow
def test_networks_hold_the_measured_budget_or_say_that_they_do_not(finished):
    run, printed = finished
    repaired = json.loads((run / 'search' / '0.9' / 'repair' / 'result.json').read_text())
    said = json.loads((run / 'network' / '0.9' / 'network.json').read_text())['latency']
    told = ' '.join(printed.split())
    page = (run / 'report.html').read_text()
    joint, others = repaired['methods']['joint'], {**repaired['methods']}
    del others['joint']
    for name, method in repaired['methods'].items():
        assert method['measured_ms'] <= repaired['budget_ms'] or not method['holds'], name
    over = [name for name, method in others.items() if not method['holds']]
    assert said['holds_budget'] == joint['holds']
    assert ('it holds the budget' in told) == joint['holds']
    assert ('it does not hold the budget' in told) != joint['holds']
    expected = f'No network of {" and ".join(over)} was found to hold it' if over else 'All hold it'
    assert expected in page
    assert said['budget_ms'] == repaired['budget_ms']
    assert (said['predicted_ms'], said['measured_ms']) == (joint['ms'], joint['measured_ms'])
    assert said['repair_rounds'] == joint['rounds']
    assert f'predicted {joint["ms"]:.3f} ms, measured {joint["measured_ms"]:.3f} ms' in printed
    assert f'measured {joint["measured_ms"]:.3f} ms' in (run / 'report.html').read_text()


@pytest.mark.slow
def test_a_second_call_reuses_finished_stages(finished):
    run, _ = finished
    before = {path: path.stat().st_mtime_ns for path in run.rglob('checkpoints/*')}
    began = time.time()
    again = quickstart(run)
    assert again.returncode == 0, again.stderr
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob('checkpoints/*')}
    assert (run / 'latency' / 'samples.jsonl').stat().st_mtime < began


@pytest.mark.slow
def test_an_unreachable_budget_says_what_is_reachable(finished):
    run, _ = finished
    refused = quickstart(run, '--search.budget', '0.001')
    assert refused.returncode == 1
    assert 'the smallest reachable latency is' in refused.stderr
    assert 'Traceback' not in refused.stderr


@pytest.mark.slow
def test_other_settings_do_not_overwrite_a_run(finished):
    run, _ = finished
    refused = quickstart(run, '--supernet.epochs', '0.7')
    assert refused.returncode == 1
    assert 'supernet.epochs was 0.5, now 0.7' in refused.stderr
