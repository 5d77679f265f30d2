"""Programs that answer wrongly, late, twice, without end, or not at all: one failed sample each, and nothing left."""

import os
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from jcw.latency.measure import TimingPlan, measure
from jcw.latency.runtimes import CommandRuntime, RuntimeFailure
from jcw.latency.runtimes.command import read_answer
from tests.latency.simulated import small_graph

GRAPH = small_graph()
ONE = TimingPlan(warmup=0, calls=1, min_visits=1, max_visits=1, attempts=1, window=1)
LIMIT_S = 1.0

PROGRAM = """
import json, os, subprocess, sys, time
out = sys.stdout.buffer
def say(content):
    out.write(content)
    out.flush()
for line in sys.stdin:
    request = json.loads(line)
    good = json.dumps({{'ms': sum(request['widths']) / 100}}).encode() + b'\\n'
    if request['widths'][0] == 24:
        {body}
    else:
        say(good)
"""

MISBEHAVIOUR = {
    'says nothing': ('time.sleep(60)', 'no answer within 1 s'),
    'a line that is not UTF-8': (r"say(b'\xff\xfe{}\n')", 'not a line of JSON'),
    'closes its output and lives on': ('os.close(1); time.sleep(60)', 'closed its pipes, and lives on'),
    'ends': ('sys.exit(3)', 'ended with status 3'),
    'a child holds the pipe': (
        "subprocess.Popen(['sleep', '60']); os._exit(0)",
        'no answer within 1 s',
    ),
    'a line without end': (r"[say(b'x' * 2**16) for _ in iter(int, 1)]", 'no end of line within'),
    'endless spaces, slowly': (
        r"[(say(b' '), time.sleep(0.05)) for _ in iter(int, 1)]",
        'no answer within 1 s',
    ),
    'a number of 400 digits': (r"""say(b'{"ms": 1' + b'0' * 400 + b'}\n')""", 'too large'),
    'a number beyond all bounds': (r"""say(b'{"ms": 1e999}\n')""", 'too large'),
    'a time that no clock shows': (r"""say(b'{"ms": 1.7e308}\n')""", 'no time of a network'),
    'times whose mean is none': (r"""say(b'{"ms": [1.7e308, 1.7e308]}\n')""", 'no time of a network'),
    'a time next to none': (r"""say(b'{"ms": 5e-324}\n')""", 'no time of a network'),
    'an error in brackets': (
        r"""say(b'{"error": "no [/dev/device] [bold]"}\n')""",
        'no [/dev/device] [bold]',
    ),
    'values nested deep': (r"say(b'[' * 10**5 + b'\n')", 'nested too deep'),
    'half a character': (r"""say(b'{"error": "\\ud800"}\n')""", 'surrogates not allowed'),
    'the id of another question': (r"""say(b'{"id": 7777, "ms": 1.0}\n')""", 'question 7777 instead of'),
    'an empty line': (r"say(b'\n')", 'not a line of JSON'),
}


def runtime(body: str) -> CommandRuntime:
    command = [sys.executable, '-c', PROGRAM.format(body=body)]
    return CommandRuntime(command, device='board', time_limit_s=LIMIT_S)


@pytest.mark.parametrize('name', MISBEHAVIOUR)
def test_a_program_that_misbehaves_costs_one_sample_in_bounded_time(tmp_path, name):
    body, reason = MISBEHAVIOUR[name]
    device, networks = runtime(body), np.array([GRAPH.smallest, GRAPH.largest, GRAPH.base])
    guilty = tuple(GRAPH.largest.tolist())
    assert guilty[0] == 24
    start, threads = time.monotonic(), threading.active_count()
    found = list(measure(device, GRAPH, networks, tmp_path / 's', batch=1, plan=ONE))
    device.close()
    failed = {sample.widths: sample.failure for sample in found if sample.failure}
    assert list(failed) == [guilty]
    assert reason in failed[guilty]
    assert len(found) == 3
    assert time.monotonic() - start < 5 * LIMIT_S + 5
    assert threading.active_count() == threads


def test_a_second_answer_never_counts_for_the_next_question():
    """Without ids it is noticed before the next question; with them in any case."""
    device = runtime('say(good + good)')
    assert device.open([24]).time_ms() == 0.24
    with pytest.raises(RuntimeFailure, match='answered more than once'):
        device.open([16]).time_ms()
    assert device.open([16]).time_ms() == 0.16
    device.close()


def test_a_late_answer_of_a_question_before_is_told_by_its_id():
    assert read_answer(b'{"id": 3, "ms": 1.0}', 3) == 1.0
    for other in (b'2', b'"3"', b'null', b'[3]'):
        with pytest.raises(RuntimeFailure, match=r'answered question .* instead of 3'):
            read_answer(b'{"id": %s, "ms": 1.0}' % other, 3)


def test_output_without_an_end_takes_bounded_memory():
    device = runtime(MISBEHAVIOUR['a line without end'][0])
    tracemalloc.start()
    try:
        with pytest.raises(RuntimeFailure):
            device.open([24]).time_ms()
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()
    device.close()


def test_every_process_that_the_program_started_is_ended(tmp_path):
    note = tmp_path / 'child'
    body = f"child = subprocess.Popen(['sleep', '600']); open({str(note)!r}, 'w').write(str(child.pid)); os._exit(0)"
    device = runtime(body)
    with pytest.raises(RuntimeFailure):
        device.open([24]).time_ms()
    child = int(note.read_text())
    deadline = time.monotonic() + 10
    while _lives(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _lives(child)
    device.close()


def _lives(process: int) -> bool:
    """Return whether a process runs; one that has ended may wait for the system to forget it."""
    try:
        os.kill(process, 0)
        state = Path(f'/proc/{process}/stat').read_text().rsplit(')', 1)[1].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != 'Z'


def test_random_answers_are_a_time_or_a_failure():
    rng, outcomes = np.random.default_rng(0), {'a time': 0, 'a failure': 0}
    pieces = [
        b'{',
        b'}',
        b'"ms"',
        b':',
        b'1',
        b'e',
        b'9' * 30,
        b'-',
        b'.',
        b'[',
        b']',
        b',',
        b'NaN',
        b'"',
        b'\xff',
        b'\\u',
        b'null',
    ]
    for _ in range(3000):
        line = b''.join(pieces[i] for i in rng.integers(len(pieces), size=rng.integers(1, 9)))
        line = b'{"ms":' + line + b'}' if rng.random() < 0.5 else line
        try:
            value = read_answer(line, 1)
        except RuntimeFailure:
            outcomes['a failure'] += 1
            continue
        assert np.isfinite(value)
        assert value > 0
        outcomes['a time'] += 1
    print(f'3000 random answers: {outcomes}')
    assert min(outcomes.values()) > 0
