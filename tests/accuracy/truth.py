"""A simulated truth: effects of widths and noise of trainings that are known."""

from typing import NamedTuple

import numpy as np

WIDTHS = ((8, 16, 24, 32), (8, 16, 24), (16, 32, 48, 64), (8, 16, 32, 64), (4, 8, 12, 16))
SITES = tuple(f'site {number}' for number in range(len(WIDTHS)))


class Truth(NamedTuple):
    widths: tuple[tuple[int, ...], ...]
    effects: np.ndarray  # [sites choices], 0 where absent
    base: float
    noise: float

    def random(self, rng: np.random.Generator, count: int) -> np.ndarray:
        return np.stack([rng.integers(0, len(site), count) for site in self.widths], 1)

    def utility(self, choices: np.ndarray) -> np.ndarray:
        return self.base + self.effects[np.arange(len(self.widths)), choices].sum(-1)

    def train(self, rng: np.random.Generator, choices: np.ndarray) -> np.ndarray:
        return self.utility(choices) + self.noise * rng.standard_normal(len(choices))

    def all(self) -> np.ndarray:
        counts = [len(site) for site in self.widths]
        return np.stack(np.meshgrid(*map(np.arange, counts), indexing='ij'), -1).reshape(-1, len(counts))


def truth(
    seed: int, widths=WIDTHS, *, noise: float = 0.15, height: float = 0.5, spread: float = 0.5
) -> Truth:
    """Draw heights log-normal, curves near the logarithm, and a small deviation for every choice."""
    rng = np.random.default_rng(seed)
    effects = np.zeros((len(widths), max(map(len, widths))))
    for site, chosen in enumerate(widths):
        logs = np.log(np.asarray(chosen) / chosen[0])
        curve = logs / logs[-1]
        curve = curve + 0.2 * rng.standard_normal() * curve * (1 - curve)
        effects[site, : len(chosen)] = height * np.exp(spread * rng.standard_normal()) * curve
        effects[site, : len(chosen)] += 0.04 * height * rng.standard_normal(len(chosen))
    return Truth(widths, effects, 90.0, noise)
