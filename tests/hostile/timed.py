"""A file of samples as the timing process writes it, of a device on paper."""

from pathlib import Path

import jax

from jcw.latency import design
from jcw.latency.measure import TimingPlan, measure
from tests.latency.simulated import SimulatedRuntime, small_graph, true_table

GRAPH = small_graph()
QUICK = TimingPlan(calls=4, min_visits=2, max_visits=2, window=4, doubt=1.0)


def timed_file(path: Path, networks: int) -> Path:
    runtime = SimulatedRuntime(GRAPH, true_table(GRAPH), noise=0.02)
    wanted = design.random_networks(jax.random.key(0), GRAPH, networks)
    list(measure(runtime, GRAPH, wanted, path, batch=8, plan=QUICK))
    return path
