import json
import sys

import jax
import numpy as np
import pytest

from jcw.latency import samples, supervise
from jcw.latency.design import random_networks
from jcw.latency.measure import DIED
from tests.latency.simulated import small_graph

TIMING = """
import os, sys, json, time
import numpy as np
from jcw.latency.measure import Protocol, measure
from tests.latency.simulated import SimulatedRuntime, small_graph, true_table
graph, (path, deadly, hanging, networks) = small_graph(), json.loads(sys.argv[1])
def failing(widths):
    if list(widths) == deadly:
        os._exit(11)
    if list(widths) == hanging:
        time.sleep(60)
    return ''
runtime = SimulatedRuntime(graph, true_table(graph), failing=failing)
quick = Protocol(calls=4, min_visits=2, max_visits=2, attempts=2, window=3)
for sample in measure(runtime, graph, networks, path, batch=8, protocol=quick):
    print('sample', flush=True)
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
    graph = small_graph()
    wanted = random_networks(jax.random.key(0), graph, 8).tolist()
    request = json.dumps([str(tmp_path / 's'), wanted[2], wanted[5], wanted])
    heard = list(supervise.lines(program(TIMING, request), silence_s=6.0))
    held = samples.read(tmp_path / 's')
    assert len(held.timed) == 6
    failed = {s.widths: s.failure for s in held.samples if s.failure}
    assert failed == {tuple(wanted[2]): DIED, tuple(wanted[5]): DIED}
    assert len(heard) == 6 + 2 * 2
    assert np.isfinite(held.latency_ms).all()
