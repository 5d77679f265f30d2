"""What is no file where one is expected is refused at once, and writing that is cut short leaves the old file."""

import os
import resource
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from experiments.baseline_widths import Losses
from experiments.run_folder import Usage, read_json, read_lines, save_json
from jcw import deploy, records
from jcw.accuracy import samples as accuracy_samples
from jcw.accuracy.table import AccuracyTable, untrained
from jcw.latency import samples
from jcw.latency.measure import measure
from jcw.latency.table import LatencyTable, flops_table
from jcw.train.checkpoint import Checkpoints
from tests.accuracy.test_accuracy_samples import HEADER
from tests.hostile.timed import GRAPH, QUICK, timed_file
from tests.latency.simulated import SimulatedRuntime, true_table


def read_checkpoint(path: Path) -> None:
    """Read a step beside which the path takes the place of what stands beside the arrays."""
    folder = path.parent / 'checkpoints'
    (folder / '3' / 'meta').mkdir(parents=True)
    os.rename(path, folder / '3' / 'meta' / 'metadata')
    with Checkpoints(folder) as checkpoints:
        checkpoints.restore({'value': np.zeros(2, np.float32)})


def read_network(path: Path) -> None:
    folder = path.parent / 'network'
    folder.mkdir()
    os.rename(path, folder / 'network.json')
    deploy.load(folder)


READERS = {
    'latency samples': samples.read,
    'latency table': LatencyTable.load,
    'accuracy samples': accuracy_samples.read,
    'accuracy samples, to go on': lambda path: accuracy_samples.resume(path, HEADER),
    'accuracy table': AccuracyTable.load,
    'results': read_json,
    'lines': lambda path: list(read_lines(path)),
    'losses': lambda path: Losses(path, lambda choices: 0.0),
    'checkpoint': read_checkpoint,
    'network': read_network,
}
PLACES = {
    'pipe': os.mkfifo,
    'folder': os.mkdir,
    'device': lambda path: os.symlink('/dev/zero', path),
}


@pytest.mark.parametrize('place', PLACES)
@pytest.mark.parametrize('reader', READERS)
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path, reader, place):
    path = tmp_path / 'asked_for'
    PLACES[place](path)
    with pytest.raises((ValueError, Usage), match=str(tmp_path)):
        READERS[reader](path)


@contextmanager
def files_no_larger_than(size: int):
    """Have the system refuse to write on, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


WRITERS = {
    'latency table': (lambda path: flops_table(GRAPH).save(path), LatencyTable.load),
    'accuracy table': (
        lambda path: untrained(('stem', 'head'), ((8, 16), (24, 48))).save(path),
        AccuracyTable.load,
    ),
    'results': (lambda path: save_json(path, {'many': list(range(1000))}), read_json),
}


@pytest.mark.parametrize('writer', WRITERS)
def test_writing_that_is_cut_short_leaves_the_file_as_it_was_and_no_other(tmp_path, writer):
    write, read = WRITERS[writer]
    path = tmp_path / 'file.json'
    write(path)
    before = path.read_bytes()
    for size in (0, 10, len(before) - 1):
        with files_no_larger_than(size), pytest.raises(OSError, match='File too large'):
            write(path)
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]
    read(path)


def test_a_file_of_samples_whose_beginning_was_cut_short_is_begun_anew(tmp_path):
    path = timed_file(tmp_path / 'samples.jsonl', 2)
    header = path.read_bytes().splitlines(keepends=True)[0]
    runtime = SimulatedRuntime(GRAPH, true_table(GRAPH))
    for length in (0, 1, 5, 40, len(header) - 1):
        path.write_bytes(header[:length])
        assert len(list(measure(runtime, GRAPH, GRAPH.base[None], path, batch=8, plan=QUICK))) == 1
        assert len(samples.read(path).timed) == 1
    path.write_bytes(b'a letter of mine')
    with pytest.raises(ValueError, match='does not begin with a header'):
        list(measure(runtime, GRAPH, GRAPH.base[None], path, batch=8, plan=QUICK))
    assert path.read_bytes() == b'a letter of mine'


def test_lines_are_read_up_to_one_that_was_cut_off(tmp_path):
    path = tmp_path / 'lines.jsonl'
    path.write_bytes(b'{"a": 1}\n{"a": 2}\n{"a"')
    assert list(read_lines(path)) == [{'a': 1}, {'a': 2}]
    for damage in (b'{"a"\n', b'[3]\n', b'\xff\n', b'\n'):
        path.write_bytes(b'{"a": 1}\n' + damage + b'{"a": 2}\n')
        with pytest.raises(Usage, match=r'lines.jsonl, line 2 is damaged .*remove the line'):
            list(read_lines(path))


def test_a_line_without_a_number_that_is_needed_is_named(tmp_path):
    path = tmp_path / 'lines.jsonl'
    for damage in (b'{"stex": 1}', b'{"step": null}', b'{"step": "1"}', b'{"step": true}'):
        path.write_bytes(b'{"step": 0}\n' + damage + b'\n')
        with pytest.raises(Usage, match=r'lines.jsonl, line 2 is damaged \(it has no number step\)'):
            list(read_lines(path, 'step'))
        assert len(list(read_lines(path))) == 2


def test_however_deep_values_are_nested_they_are_read_or_refused():
    outcomes = {'read': 0, 'refused': 0}
    for depth in [*range(10, 1500, 10), *range(2000, 10**5, 5000), 10**5]:  # where it ends depends on Python
        text = '{"a":' * depth + '1' + '}' * depth
        try:
            value = records.parse(text)
            records.checked(records.summed(value))
            outcomes['read'] += 1
        except ValueError:
            outcomes['refused'] += 1
    print(f'{sum(outcomes.values())} depths: {outcomes}')
    assert outcomes['read'] > 10
    assert outcomes['refused'] > 10
