import dataclasses
import time

import numpy as np
import pytest

from jcw.latency import lines, samples
from jcw.latency.samples import Header, Sample
from tests.latency.simulated import small_graph

GRAPH = small_graph()
HEADER = Header(
    graph=GRAPH,
    device='paper',
    runtime='simulated',
    dtype='float32',
    batch=8,
    reference=tuple(int(w) for w in GRAPH.base),
    reference_ms=2.0,
    versions={'simulation': '1'},
)
SMALL, LARGE = (tuple(int(w) for w in widths) for widths in (GRAPH.smallest, GRAPH.largest))


def sample(widths=SMALL, ms=3.0, calls=((3.0, 3.1), (2.9, 3.0)), **about) -> Sample:
    reference = tuple(tuple(2.0 for _ in visit) for visit in calls)
    return Sample(widths, ms=ms, error=0.01, calls_ms=calls, reference_ms=reference, **about)


def write(path, *lines: Sample, header: Header = HEADER):
    samples.create(path, header)
    for line in lines:
        samples.append(path, line)
    return path


def test_what_is_written_is_read_again(tmp_path):
    failed = Sample(LARGE, failure='no memory', attempt=2)
    held = samples.read(write(tmp_path / 's', sample(), failed))
    assert held.header == HEADER
    assert held.samples[0] == sample()
    assert held.samples[1].failure == 'no memory'
    assert held.samples[1].attempt == 2
    assert held.widths.tolist() == [list(SMALL)]
    assert held.latency_ms.tolist() == [3.0]


def test_a_truncated_last_line_is_left_out_and_stated(tmp_path):
    path = write(tmp_path / 's', sample(), sample(LARGE))
    path.write_bytes(path.read_bytes()[:-5])
    held = samples.read(path)
    assert len(held.samples) == 1
    assert 'truncated last line' in held.excluded[0]


def test_exactly_the_truncated_line_is_cut_off(tmp_path):
    path = write(tmp_path / 's', sample())
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"widths": [1')
    samples.keep_whole_lines(path)
    assert path.read_bytes() == whole


def test_timings_of_one_network_are_joined(tmp_path):
    held = samples.read(write(tmp_path / 's', sample(), sample(ms=3.2, calls=((3.2, 3.2),), attempt=2)))
    assert len(held.samples) == 1
    assert len(held.samples[0].calls_ms) == 3
    assert held.samples[0].attempt == 2
    assert held.latency_ms[0] == pytest.approx(np.sqrt(3.0 * 3.1))
    assert 'two timings joined' in held.excluded[0]


def test_an_identical_line_counts_once(tmp_path):
    held = samples.read(write(tmp_path / 's', sample(), sample()))
    assert held.samples[0] == sample()
    assert 'identical line dropped' in held.excluded[0]


def test_a_failure_made_good_is_stated(tmp_path):
    held = samples.read(write(tmp_path / 's', Sample(SMALL, failure='hung'), sample(attempt=2)))
    assert held.latency_ms.tolist() == [3.0]
    assert 'failed once: hung' in held.excluded[0]


def test_files_merge_in_units_of_the_median_reference(tmp_path):
    slow = dataclasses.replace(HEADER, reference_ms=4.0)
    parts = [
        samples.read(write(tmp_path / 'a', sample())),
        samples.read(write(tmp_path / 'b', sample(LARGE), header=slow)),
    ]
    merged = samples.merge(parts)
    assert merged.header.reference_ms == 3.0
    assert merged.latency_ms.tolist() == [4.5, 2.25]


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'batch': 1}, 'batch 1 instead of 8'),
        ({'device': 'ink'}, "device 'ink' instead of 'paper'"),
        ({'versions': {'simulation': '2'}}, 'versions'),
        ({'warmup': 3}, 'warmup'),
        ({'graph': dataclasses.replace(GRAPH, input_shape=(8, 8, 3))}, 'input_shape'),
    ],
)
def test_a_foreign_header_is_refused(tmp_path, change, message):
    foreign = write(tmp_path / 'b', sample(), header=dataclasses.replace(HEADER, **change))
    with pytest.raises(ValueError, match=message):
        samples.merge([samples.read(write(tmp_path / 'a', sample())), samples.read(foreign)])


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        (lines.write({'widths': [1, 2]}), 'line 2: expected 6 widths'),
        (lines.write({'widths': [9, 16, 32, 32, 32, 64]}), "line 2: width 9 of site 'site_0'"),
        (b'not json\n', 'line 2: not JSON'),
        (b'[1]\n', 'expected a JSON object'),
        (lines.write({'latency': 3}), 'line 2: not a latency sample'),
        (b'{"latency": 3}\n', 'line 2 is damaged: its checksum differs'),
    ],
)
def test_a_broken_line_is_an_error_with_its_number(tmp_path, line, message):
    path = write(tmp_path / 's')
    path.write_bytes(path.read_bytes() + line)
    with pytest.raises(ValueError, match=message):
        samples.read(path)


@pytest.mark.parametrize(
    ('about', 'message'),
    [
        ({'ms': -1.0}, 'estimate of -1.0 ms'),
        ({'ms': 0}, 'estimate of 0 ms'),
        ({}, 'estimate of nan ms'),
        ({'ms': True}, 'estimate of True ms'),
        ({'ms': 'fast'}, 'line 2'),
        ({'ms': 1.0, 'error': -0.1}, 'error must be finite'),
        ({'ms': 1.0, 'error': 'small'}, 'line 2'),
        ({'ms': 1.0, 'attempt': 0}, 'attempt and outliers must be counts'),
        ({'ms': 1.0, 'outliers': 1.5}, 'line 2'),
        ({'ms': 1.0, 'opening_s': -1}, 'opening_s must be'),
        ({'ms': 1.0, 'calls_ms': [[1.0]]}, 'as many, positive and finite'),
        ({'ms': 1.0, 'calls_ms': [[1.0]], 'reference_ms': [[-1.0]]}, 'as many, positive and finite'),
        ({'ms': 1.0, 'calls_ms': [1.0], 'reference_ms': [1.0]}, 'line 2'),
        ({'failure': 7}, 'line 2'),
        ({'ms': 1.0, 'widths': None}, 'line 2'),
    ],
)
def test_a_line_that_sums_right_and_is_no_sample_is_named(tmp_path, about, message):
    path = write(tmp_path / 's')
    path.write_bytes(path.read_bytes() + lines.write({'widths': SMALL, **about}))
    with pytest.raises(ValueError, match=message) as said:
        samples.read(path)
    assert str(said.value).startswith(f'{path}, line 2')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'batch': 0}, 'batch must be a whole number from 1, got 0'),
        ({'batch': True}, 'batch must be'),
        ({'warmup': -1}, 'warmup must be'),
        ({'reference_ms': 0.0}, 'reference_ms must be positive'),
        ({'unit': 's per call'}, 'samples are in ms per call'),
        ({'device': ''}, 'device must be a name'),
        ({'reference': (1, 2)}, 'expected 6 widths'),
    ],
)
def test_an_impossible_header_is_refused_when_it_is_made_and_when_it_is_read(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(HEADER, **change)
    value = {**lines.parse('', write(tmp_path / 's').read_bytes()), **change}
    (tmp_path / 's').write_bytes(lines.write(value))
    with pytest.raises(ValueError, match=message):
        samples.read(tmp_path / 's')


def test_neither_a_time_nor_a_failure_is_never_appended(tmp_path):
    path = write(tmp_path / 's')
    before = path.read_bytes()
    with pytest.raises(ValueError, match='estimate of nan ms, and no failure'):
        samples.append(path, Sample(SMALL))
    assert path.read_bytes() == before


def test_many_timings_of_one_network_are_joined_as_all_their_calls_at_once(tmp_path):
    rng = np.random.default_rng(0)
    visits = [tuple(rng.uniform(1, 2, 4).tolist()) for _ in range(30)]
    each = [sample(calls=(visit,)) for visit in visits]
    kept, notes = samples.join([*each, sample(LARGE), each[3]], 2.0)
    assert [s.widths for s in kept] == [SMALL, LARGE]
    assert kept[0].calls_ms == tuple(visits)
    assert kept[0].ms == pytest.approx(samples.locate(visits, [(2.0,) * 4] * 30).value * 2)
    assert [note.split(': ')[1] for note in notes] == ['identical line dropped', '30 timings joined']


def test_time_to_join_grows_as_the_timings_do():
    """400 timings of a network took 60 times as long as 40, when each was joined to all before."""

    def seconds(count: int) -> float:
        timings = [sample(calls=((1.0 + i / 1e6, 1.1),) * 3) for i in range(count)]
        start = time.process_time()
        samples.join(timings, 2.0)
        return time.process_time() - start

    seconds(4)
    assert min(seconds(4000) for _ in range(3)) < 30 * min(seconds(400) for _ in range(3))


def test_a_file_without_header_or_of_another_version_is_refused(tmp_path):
    (tmp_path / 'empty').write_bytes(b'')
    with pytest.raises(ValueError, match='does not begin with a header'):
        samples.read(tmp_path / 'empty')
    path = write(tmp_path / 's')
    path.write_bytes(path.read_bytes().replace(b'"version":4', b'"version":9'))
    with pytest.raises(ValueError, match='version 9'):
        samples.read(path)


def test_a_file_is_never_begun_twice(tmp_path):
    with pytest.raises(FileExistsError):
        write(write(tmp_path / 's'))


def test_no_file_is_an_error():
    with pytest.raises(ValueError, match='at least one file'):
        samples.merge([])


def test_lines_are_small_and_hold_every_call(tmp_path):
    rng = np.random.default_rng(0)
    calls = tuple(tuple(rng.uniform(1, 2, 20).tolist()) for _ in range(5))
    path = write(tmp_path / 's', sample(calls=calls))
    read = samples.read(path).samples[0]
    np.testing.assert_allclose(np.concatenate(read.calls_ms), np.concatenate(calls), atol=1e-6)
    assert path.stat().st_size < 6000
