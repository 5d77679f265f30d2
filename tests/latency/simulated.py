"""A device whose every number is known: its table, its noise, its drift, its outliers and its failures."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from jcw.graph import Graph
from jcw.latency.entries import Entries
from jcw.latency.prior import roofline
from jcw.latency.runtimes import RuntimeFailure
from tests.tiny_graph import chain

VERSIONS = {'simulation': '1'}


def small_graph() -> Graph:
    """A chain in which two layers share signatures."""
    kinds = ('conv', *('separable',) * 5)
    layers = list(zip(kinds, (16, 32, 64, 64, 64, 128), (3,) * 6, (1, 1, 2, 1, 1, 2), strict=True))
    return chain(layers, (16, 16, 3), 10, min_multiplier=0.5, max_multiplier=1.5, levels=5, divisor=4)


def true_table(graph: Graph, seed: int = 0, roughness: float = 0.1) -> np.ndarray:
    """Entries in ms: a roofline, times effects of every output width and of every pair."""
    entries = Entries(graph)
    features = roofline(entries).features
    rng = np.random.default_rng(seed)
    coefficients = rng.uniform(0.05, 0.5, features.shape[1])
    outputs = {key: rng.normal() for key in sorted({(*s[:3], s.out_channels) for s in entries.all})}
    effects = np.array([outputs[(*s[:3], s.out_channels)] for s in entries.all])
    return features @ coefficients * np.exp(roughness * (effects + 0.2 * rng.standard_normal(len(entries))))


@dataclasses.dataclass
class SimulatedRuntime:
    """Time networks on paper.

    Attributes:
      graph: of the networks.
      table: true entries, ms.
      base: true time beside the layers, ms.
      noise: of a call, relative.
      drift: factor on all times as a function of the number of calls made.
      outlier_rate: of calls that take three times as long.
      cold_ms: added to a call after another program's, a tenth of it to the next, and so on.
      elasticity: networks other than the base one slow down by the drift to this power.
      own: what a network differs by from the sum of its entries, relative, standard deviation.
      failing: says why a network fails, or nothing.
    """

    graph: Graph
    table: np.ndarray
    base: float = 0.2
    noise: float = 0.01
    drift: Callable[[int], float] = lambda calls: 1.0
    outlier_rate: float = 0.0
    cold_ms: float = 0.0
    elasticity: float = 1.0
    own: float = 0.0
    failing: Callable[[tuple[int, ...]], str] = lambda widths: ''
    seed: int = 0
    name: str = 'simulated'
    device: str = 'paper, 1 core'

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.calls = 0
        self.opened: list[tuple[int, ...]] = []
        self.held = 0
        self.warm: tuple[object, int] = (None, 0)
        self.versions = VERSIONS
        self.details = {'paper': 'white'}

    def true_ms(self, widths: Sequence[int] | np.ndarray) -> np.ndarray:
        """What a noiseless device would show, [... sites] -> [...]."""
        used = Entries(self.graph).used(self.graph.to_choices(widths))
        return np.append(self.table, 0.0)[used].sum(-1) + self.base

    def open(self, widths: Sequence[int]) -> 'SimulatedProgram':
        key = tuple(int(w) for w in widths)
        self.opened.append(key)
        if reason := self.failing(key):
            raise RuntimeFailure(reason)
        self.held += 1
        power = 1.0 if key == tuple(self.graph.base.tolist()) else self.elasticity
        own = np.exp(self.own * np.random.default_rng(key).standard_normal())
        return SimulatedProgram(self, float(self.true_ms(key) * own), power)

    def prefetch(self, networks: Sequence[Sequence[int]]) -> None:
        pass

    def close(self) -> None:
        pass


@dataclasses.dataclass(eq=False)
class SimulatedProgram:
    """A network on paper."""

    runtime: SimulatedRuntime
    true_ms: float
    power: float = 1.0

    def time_ms(self) -> float:
        device = self.runtime
        device.calls += 1
        factor = (
            3.0 if device.rng.random() < device.outlier_rate else np.exp(device.noise * device.rng.normal())
        )
        last, calls = device.warm
        device.warm = (self, calls + 1 if last is self else 0)
        cold = device.cold_ms * 0.1 ** device.warm[1]
        return float((self.true_ms + cold) * factor * device.drift(device.calls) ** self.power)

    def close(self) -> None:
        self.runtime.held -= 1
