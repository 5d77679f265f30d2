"""A device on paper that the stages time: the clock alone is made up, the files are those of the timing process."""

import pytest

from experiments import measure_latency, timing_process
from jcw.graph import Graph
from jcw.latency.table import LatencyTable
from tests.latency.simulated import SimulatedRuntime


class PaperDevice:
    """Times networks as the timing process does, in this process, by a table.

    Attributes:
      factor: by how much slower it is than the table.
      own: what a network differs by from the table of its own, relative.
      failing: the network that it cannot time.
      calls: how many networks were timed in each call.
    """

    def __init__(self, graph: Graph, table: LatencyTable, factor: float = 1.0) -> None:
        self._graph, self._table = graph, table
        self.factor = factor
        self.own = 0.0
        self.failing: tuple[int, ...] = ()
        self.calls: list[int] = []

    @property
    def timed(self) -> int:
        return sum(self.calls)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Take the place of the runtime, and of the start of a process around it."""
        monkeypatch.setattr(
            measure_latency,
            '_run',
            lambda config, request, *_: [*timing_process._timed(request, self._runtime())],
        )

    def _runtime(self) -> SimulatedRuntime:
        self.calls.append(0)
        return SimulatedRuntime(
            self._graph,
            self.factor * self._table.entries,
            base=self.factor * self._table.base,
            noise=0.004,
            own=self.own,
            failing=self._fails,
            seed=len(self.calls),
        )

    def _fails(self, widths: tuple[int, ...]) -> str:
        if widths == tuple(self._graph.base.tolist()):
            return ''  # the reference, which is opened beside all others
        self.calls[-1] += 1
        return 'too wide' if widths == self.failing else ''
