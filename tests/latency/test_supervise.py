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


def test_lines_of_a_process_that_succeeds_are_passed_on():
    assert list(supervise.lines(program('print(1); print(2)'))) == ['1\n', '2\n']


def test_a_process_that_dies_at_once_is_given_up_after_some_attempts():
    with pytest.raises(supervise.Stopped, match='ended with status 3, the last of 2 attempts'):
        list(supervise.lines(program('raise SystemExit(3)'), deaths=2))


def test_a_silent_process_is_ended():
    with pytest.raises(supervise.Stopped, match='said nothing for'):
        list(supervise.lines(program('import time; time.sleep(60)'), silence_s=0.5, deaths=1))


def test_a_limit_that_is_no_limit_is_refused():
    with pytest.raises(ValueError, match='must be positive'):
        list(supervise.lines(program(''), silence_s=0))


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
    timing = [sys.executable, '-m', 'experiments.timing_process', str(tmp_path / 'request.json')]
    heard = list(supervise.lines(timing, silence_s=10.0))
    held = samples.read(tmp_path / 's')
    assert len(held.timed) == 6
    failed = {s.widths: s.failure for s in held.samples if s.failure}
    assert failed == {tuple(wanted[2]): DIED, tuple(wanted[5]): DIED}
    assert len(heard) == 6 + 2 * 2
    np.testing.assert_allclose(held.latency_ms, held.widths.sum(1) / 100)
