import dataclasses
import json
import shlex
import sys

import jax
import numpy as np
import pytest

from experiments.timing_process import Request
from jcw.latency import samples, supervise
from jcw.latency.design import random_networks
from jcw.latency.measure import DIED
from tests.latency.simulated import small_graph

ENDING_WHO_ASKS = """
import json, os, signal, sys
deadly, hanging = json.loads(sys.argv[1])
for line in sys.stdin:
    widths = json.loads(line)['widths']
    if widths == deadly:
        os.kill(os.getppid(), signal.SIGKILL)
    if widths == hanging:
        os.kill(os.getppid(), signal.SIGSTOP)
    print(json.dumps({'ms': sum(widths) / 100}), flush=True)
"""


def program(code: str, *arguments: str) -> list[str]:
    return [sys.executable, '-c', code, *arguments]


ANSWERING = """
import sys
for number, line in enumerate(sys.stdin):
    for part in (number, *line.split()):
        print(part, flush=True)
        if part == 'die':
            raise SystemExit(3)
    print(flush=True)
"""


def test_one_process_answers_one_request_after_another():
    kept = supervise.Kept(program(ANSWERING))
    assert list(kept.ask('a b')) == ['0\n', 'a\n', 'b\n']
    assert list(kept.ask('c')) == ['1\n', 'c\n']
    kept.close()
    assert list(kept.ask('d')) == ['0\n', 'd\n']


def test_a_process_that_died_since_its_last_answer_is_started_again():
    kept = supervise.Kept(program(ANSWERING), deaths=2)
    assert list(kept.ask('a')) == ['0\n', 'a\n']
    kept._process.kill()
    kept._process.wait()
    assert list(kept.ask('b')) == ['0\n', 'b\n']


def test_an_answer_that_is_not_read_to_its_end_does_not_pass_for_the_next():
    kept = supervise.Kept(program(ANSWERING))
    answer = kept.ask('a b')
    assert next(answer) == '0\n'
    answer.close()
    assert list(kept.ask('c')) == ['0\n', 'c\n']


def test_a_process_is_asked_one_thing_at_a_time():
    kept = supervise.Kept(program(ANSWERING))
    answer = kept.ask('a b')
    assert next(answer) == '0\n'
    with pytest.raises(RuntimeError, match='while it answers something else'):
        next(kept.ask('c'))
    assert list(answer) == ['a\n', 'b\n']
    assert list(kept.ask('c')) == ['1\n', 'c\n']


def test_the_process_ends_with_whoever_asks():
    kept = supervise.Kept(program(ANSWERING))
    list(kept.ask('a'))
    process = kept._process
    del kept
    assert process.poll() is not None


def test_a_process_that_dies_is_asked_again_and_given_up_after_some_attempts_without_a_line():
    answer = supervise.Kept(program(ANSWERING), deaths=1).ask('a die b')
    assert [next(answer) for _ in range(3)] == ['0\n', 'a\n', 'die\n']
    with pytest.raises(supervise.Stopped, match='ended with status 3, the last of 1 attempts'):
        next(answer)
    with pytest.raises(supervise.Stopped, match='ended with status 3, the last of 2 attempts'):
        list(supervise.Kept(program('raise SystemExit(3)'), deaths=2).ask('a'))


def test_a_silent_process_is_ended():
    with pytest.raises(supervise.Stopped, match='said nothing for'):
        list(supervise.Kept(program('import time; time.sleep(60)'), silence_s=0.5, deaths=1).ask('a'))


def test_a_limit_that_is_no_limit_is_refused():
    with pytest.raises(ValueError, match='must be positive'):
        supervise.Kept(program(''), silence_s=0)


@pytest.mark.slow
def test_networks_that_crash_or_hang_the_process_cost_only_themselves(tmp_path):
    """The stages' timing process, and a program of the user's that kills it or stops it dead."""
    graph = small_graph()
    wanted = random_networks(jax.random.key(0), graph, 8).tolist()
    command = program(ENDING_WHO_ASKS, json.dumps([wanted[2], wanted[5]]))
    request = Request(
        graph=graph.to_json(),
        networks=wanted,
        path=str(tmp_path / 's'),
        runtime='command',
        command=shlex.join(command),
        device='paper',
        batch=1,
        dtype='float32',
        cores=[],
        compile_cores=[],
        attempts=2,
    )
    (tmp_path / 'request.json').write_text(json.dumps(dataclasses.asdict(request)))
    timing = supervise.Kept([sys.executable, '-m', 'experiments.timing_process'], silence_s=10.0)
    heard = list(timing.ask(str(tmp_path / 'request.json')))
    held = samples.read(tmp_path / 's')
    assert len(held.timed) == 6
    failed = {s.widths: s.failure for s in held.samples if s.failure}
    assert failed == {tuple(wanted[2]): DIED, tuple(wanted[5]): DIED}
    assert len(heard) == 6 + 2 * 2
    np.testing.assert_allclose(held.latency_ms, held.widths.sum(1) / 100)
