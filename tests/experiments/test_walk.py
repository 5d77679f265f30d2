"""The walk of a stranger: images in a folder, a network in a file, a program that times, and the mistakes made."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jcw import data, deploy
from jcw.accuracy import samples
from jcw.accuracy.table import UNITS, AccuracyTable
from jcw.latency.table import LatencyTable
from tests.own_network import NETWORK

pytestmark = pytest.mark.slow
pytest.importorskip('onnxruntime')

ROOT = Path(__file__).parents[2]
PROGRAM = re.search(r'```python\n(.*?)```', (ROOT / 'docs' / 'own.md').read_text(), flags=re.S)
FIRST = (
    *('--data.name', 'images', '--space.network', 'net.py:net', '--space.levels', '4'),
    *('--latency.runtime', 'command', '--latency.command', f'{sys.executable} time_it.py'),
    *('--latency.command-format', 'onnx', '--latency.device', 'a board', '--latency.networks', '20'),
    *('--latency.calls', '2', '--latency.visits', '2', '--latency.attempts', '1'),
    *('--supernet.epochs', '4', '--subnet.epochs', '3', '--subnet.seeds', '0', '--accuracy.trainings', '3'),
    *('--accuracy.epochs', '0.25', '--accuracy.from-supernet', '--repair.rounds', '4'),
    *('--search.greedy-images', '50'),
)


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """Return a folder with digits as pictures, the network and the program that times; it times narrow ones only."""
    root = tmp_path_factory.mktemp('walk')
    digits = data.load('digits')
    for part, examples in (('train', digits.train), ('test', digits.test)):
        for row, (image, label) in enumerate(zip(*examples, strict=True)):
            folder = root / 'images' / part / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[..., 0]).save(folder / f'{row:04d}.png')
    (root / 'net.py').write_text(NETWORK)
    assert PROGRAM is not None
    (root / 'time_it.py').write_text(PROGRAM[1])
    wide = "if sum(request['widths']) > 100: raise MemoryError('no room')\n    session = opened("
    (root / 'small_board.py').write_text(PROGRAM[1].replace('session = opened(', wide))
    return root


def stage(place, name, *args, fails=False):
    done = subprocess.run(
        [sys.executable, '-m', f'experiments.{name}', *args],
        cwd=place,
        env={**os.environ, 'JAX_NUM_CPU_DEVICES': '1', 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert 'Traceback' not in done.stderr, done.stderr
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stderr if fails else done.stdout


@pytest.fixture(scope='module')
def timed(place):
    """Return what the first stage said, on a board without room for the widest, and when it ran again with room."""
    small = tuple(arg.replace('time_it', 'small_board') for arg in FIRST)
    said = [stage(place, 'measure_latency', *small, '--run', 'mine')]
    again = ('--latency.command', f'{sys.executable} time_it.py', '--latency.attempts', '2')
    return [*said, stage(place, 'measure_latency', '--run', 'mine', *again)]


def test_the_first_stage_looks_at_the_images_and_counts_what_failed(place, timed):
    first, second = timed
    assert "preset 'own'" in first
    assert '8x8 in grey' in first
    assert re.search(r'\d+ of 20 networks timed, .*; \d+ failed: no room; run again to retry', first)
    assert re.search(r'2\d of 2\d networks timed|20 of 20 networks timed', second)
    assert 'failed' not in second
    assert '8x8 in grey' not in second
    assert 'Next: python -m experiments.fit_latency --run mine' in second


def test_mistakes_are_lines_that_say_the_way_out(place, timed):
    (place / 'file').touch()
    for name, size in (('even', (8, 8)), ('odd', (9, 8))):
        folder = place / 'mixed' / 'train' / name
        folder.mkdir(parents=True)
        Image.new('L', size).save(folder / f'{name}.png')
    for args, said in {
        ('own', '--run', 'file'): '--run file is a file',
        ('diggits',): "did you mean 'digits'?",
        ('digits', '--run', 'mine'): "begun with the preset 'own', not 'digits'",
        ('--run', 'mine', '--latency.bach', '2'): '--latency.batch',
        ('--run', 'mine', '--latency.batch', '2'): 'latency.batch was 1, now 2',
        ('--data.name', 'nowhere'): "no prepared set 'nowhere'",
        (
            '--data.name',
            'mixed',
        ): 'odd.png is 8x9 in grey; resize them first, or give image_size (--data.image-size)',
    }.items():
        assert said in stage(place, 'measure_latency', *args, fails=True), args


def reachable(run):
    """Return a budget, as the command line takes it, that the smallest network meets on a machine as busy as this."""
    table = LatencyTable.load(run / 'latency' / 'table.json')
    share = float(table.predict(table.graph.smallest) / table.predict(table.graph.base)) + 0.1
    return f'{max(share, 0.95):.2f}'


@pytest.fixture(scope='module')
def finished(place, timed):
    """Go through all further stages with the folder alone."""
    said = {'fit_latency': stage(place, 'fit_latency', '--run', 'mine')}
    said['train_supernet'] = stage(place, 'train_supernet', '--run', 'mine')
    assert 'looks like per cent' in stage(
        place, 'fit_accuracy', '--run', 'mine', '--search.budget', '60', fails=True
    )
    share = reachable(place / 'mine')
    said['fit_accuracy'] = stage(place, 'fit_accuracy', '--run', 'mine', '--search.budget', share)
    for name in ('search_widths', 'repair_widths', 'train_subnet', 'export'):
        said[name] = stage(place, name, '--run', 'mine')
    return place / 'mine', said, share


def test_the_budget_given_once_is_that_of_the_stages_after(finished):
    run, said, share = finished
    assert f'ms per call of 1 image, {float(share):.0%} of the base network' in said['search_widths']
    assert (run / 'network' / f'{float(share):g}' / 'network.json').exists()


def test_short_trainings_go_on_from_the_supernet_and_final_ones_begin_anew(finished):
    run, said, share = finished
    read = samples.read(run / 'accuracy' / 'samples.jsonl')
    assert len(read.trained) == 3
    assert AccuracyTable.load(run / 'accuracy' / f'{float(share):g}' / 'table.json').unit == UNITS[True]
    assert '3 networks' in said['fit_accuracy']
    first = {
        kind: np.mean([step_of(path)['loss'] for path in run.glob(f'{kind}/*/seed_0/metrics.jsonl')])
        for kind in ('accuracy/trained', 'trained')
    }
    assert first['accuracy/trained'] < first['trained'] - 0.05, first  # of 2.30, which is chance


def step_of(path):
    """Return the first step on file."""
    return json.loads(path.read_text().splitlines()[0])


def test_the_report_says_what_it_came_to_what_it_took_and_what_next(finished):
    run, _, _ = finished
    page = (run / 'report.html').read_text()
    assert [row['method'] for row in json.loads((run / 'results.json').read_text())][-1] == 'base'
    for words in (
        'The base network takes',
        'The test set has 360 images',
        'training the supernet',
        'timing networks',
        'experiments.export --run mine',
        'ms per call of 1 image',
    ):
        assert words in page, words
    assert {path.name for path in (run / 'plots').iterdir()} == {
        *('latency.png', 'accuracy.png', 'frontier.png', 'widths.png'),
    }


def test_the_network_that_ships_is_the_one_that_was_tested(finished):
    run, _, share = finished
    network = deploy.load(run / 'network' / f'{float(share):g}')
    test = data.load('digits').test
    accuracy = float((np.asarray(network(test.images)).argmax(-1) == test.labels).mean())
    assert accuracy == pytest.approx(network.description['accuracy']['test_accuracy'], abs=0.5 / len(test))


def test_a_changed_network_file_is_refused_by_the_run(place, finished):
    text = (place / 'net.py').read_text()
    (place / 'net.py').write_text(text.replace("'inner', 32", "'inner', 48"))
    try:
        assert 'space.graph, another network: its file has changed' in stage(
            place, 'train_supernet', '--run', 'mine', fails=True
        )
    finally:
        (place / 'net.py').write_text(text)
