"""Where everything of a run lies."""

import dataclasses
import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from experiments.config import Config, SearchConfig


@dataclasses.dataclass(frozen=True)
class Paths:
    """Files and folders of a run; those of results at a budget follow the configured one."""

    config: Config

    @property
    def run(self) -> Path:
        return self.config.run

    @property
    def budget(self) -> str:
        """What folders of results within the configured limits are called."""
        settings, plain = self.config.search, SearchConfig()
        names = ('multiple', 'least_width', 'parameters', 'peak_kib', 'file_kib')
        values = {name: getattr(settings, name) for name in names}
        others = [f'{name}{value:g}' for name, value in values.items() if value != getattr(plain, name)]
        also = [entry.rpartition('/')[2].replace(':', '') for entry in settings.also]
        return '_'.join([self._share, *others, *also])

    @property
    def _share(self) -> str:
        settings = self.config.search
        return f'{settings.budget:g}' if settings.budget_ms is None else f'{settings.budget_ms:g}ms'

    @cached_property
    def _kind(self) -> str:
        return '_adaptive' if self.config.supernet.adaptive else ''

    @property
    def latency(self) -> Path:
        return self.run / 'latency'

    @property
    def samples(self) -> Path:
        """Networks timed for the table."""
        return self.latency / 'samples.jsonl'

    @property
    def candidates(self) -> Path:
        """Networks timed because a search asked for them."""
        return self.latency / 'candidates.jsonl'

    @property
    def finals(self) -> Path:
        """Finished networks, timed once more."""
        return self.latency / 'finals.jsonl'

    @property
    def table(self) -> Path:
        return self.latency / 'table.json'

    @property
    def fit(self) -> Path:
        """Held-out predictions of the table."""
        return self.latency / 'fit.json'

    @property
    def base(self) -> Path:
        """The network at its base widths, trained."""
        return self.run / 'base'

    @property
    def supernet(self) -> Path:
        """An adaptive supernet belongs to its budget."""
        return self.run / (f'supernet_adaptive_{self._share}' if self._kind else 'supernet')

    @property
    def accuracy(self) -> Path:
        """Short trainings for the configured budgets, and the table fitted to them."""
        shared = '-'.join(f'{budget:g}' for budget in self.config.accuracy.budgets)
        limits = self.budget.removeprefix(self._share)
        return self.run / f'accuracy{self._kind}' / ((shared or self._share) + limits)

    @property
    def search(self) -> Path:
        return self.run / f'search{self._kind}' / self.budget

    @property
    def found(self) -> Path:
        """The networks to be trained: those repaired, or as searched."""
        return (self.search / 'repair' if self.config.repair.rounds else self.search) / 'result.json'

    def trained(self, widths: Sequence[int], seed: int) -> Path:
        """A network trained by the final recipe, whichever method found it."""
        return self.run / f'trained{self._kind}' / named(widths) / f'seed_{seed}'

    def briefly(self, widths: Sequence[int], seed: int) -> Path:
        """The same network trained for a part of the epochs, by which accuracy is fitted."""
        return self.accuracy.parent / 'trained' / named(widths) / f'seed_{seed}'

    @property
    def network(self) -> Path:
        """The deployable network."""
        return self.run / f'network{self._kind}' / self.budget

    @property
    def results(self) -> Path:
        return self.run / 'results.json'

    @property
    def plots(self) -> Path:
        return self.run / 'plots'

    @property
    def report(self) -> Path:
        return self.run / 'report.html'


def paths(config: Config) -> Paths:
    """Return where a run's files lie."""
    return Paths(config)


def named(widths: Sequence[int]) -> str:
    """Return what the folder of a network is called: its widths, cut short where a file system would refuse them."""
    whole = '-'.join(map(str, widths))
    return whole if len(whole) <= 100 else f'{whole[:80]}-{hashlib.sha256(whole.encode()).hexdigest()[:16]}'
