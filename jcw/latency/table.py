"""A latency table: entries per layer signature, their sum for a network, its error bar, its provenance."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jcw.latency import prior
from jcw.latency.fit import Fit, default_strengths, fit_table
from jcw.latency.samples import Samples
from jcw.latency.signatures import Signatures
from jcw.mrf import ChainMRF
from jcw.space import LayerSignature, SearchSpace

VERSION = 1


@dataclasses.dataclass(frozen=True)
class LatencyTable:
    """Cost of a network as a sum over its layers.

    Attributes:
      space: whose layers the table knows.
      entries: cost of each signature of the space, float64 [signatures], in the order of `Signatures`.
      deviations: standard deviation of each entry, alone.
      base: cost of a network beside its layers.
      unit: 'ms per call', 'FLOPs' or 'parameters'.
      provenance: device, runtime, dtype, batch, versions, samples, held-out errors.
    """

    space: SearchSpace
    entries: Float[np.ndarray, ' signatures']
    deviations: Float[np.ndarray, ' signatures']
    base: float = 0.0
    noise: float = 0.0  # relative
    unit: str = 'ms per call'
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @cached_property
    def signatures(self) -> Signatures:
        return Signatures(self.space)

    def predict(self, widths: Any) -> Any:
        """Sum the entries of networks, [... layers] -> float64 [...].

        Raises:
          ValueError: a width is not among its layer's choices.
        """
        entries = self.signatures.entries(self.space.to_choices(widths))
        return self.entries[entries].sum(-1) + self.base

    def predict_std(self, widths: Any) -> Any:
        """Return the standard deviation of a prediction, [... layers] -> float64 [...]."""
        return self.noise * self.predict(widths)

    def to_cost(self, space: SearchSpace | None = None) -> ChainMRF:
        """Arrange the table for the chain solvers; the score of a configuration is its predicted cost.

        Args:
          space: a space all of whose signatures the table holds; by default the table's own.

        Raises:
          ValueError: the space has a signature that the table does not hold.
        """
        if space is None or space == self.space:
            return self.signatures.to_cost(self.entries, self.base)
        known = dict(zip(self.signatures.all, self.entries, strict=True))
        wanted = Signatures(space)
        missing = [signature for signature in wanted.all if signature not in known]
        if missing:
            raise ValueError(f'the table lacks {len(missing)} signatures of this space, such as {missing[0]}')
        return wanted.to_cost(np.array([known[signature] for signature in wanted.all]), self.base)

    def save(self, path: str | Path) -> None:
        """Write readable JSON, one entry a line."""
        head = {
            'version': VERSION,
            'unit': self.unit,
            'base': self.base,
            'noise': self.noise,
            'provenance': dict(self.provenance),
            'space': self.space.to_json(),
            'columns': [*LayerSignature._fields, 'cost', 'deviation'],
        }
        rows = [
            json.dumps([*signature, float(cost), float(deviation)])
            for signature, cost, deviation in zip(
                self.signatures.all, self.entries, self.deviations, strict=True
            )
        ]
        text = json.dumps(head, indent=1)[:-2] + ',\n "entries": [\n  ' + ',\n  '.join(rows) + '\n ]\n}\n'
        Path(path).write_text(text, encoding='utf-8')

    @classmethod
    def load(cls, path: str | Path) -> 'LatencyTable':
        """Read what `save` wrote.

        Raises:
          ValueError: not a table, an unknown version, or entries that do not fit the space.
        """
        value = json.loads(Path(path).read_text(encoding='utf-8'))
        if value.get('version') != VERSION or 'entries' not in value:
            raise ValueError(f'{path} is not a latency table of version {VERSION}: {value.get("version")!r}')
        space = SearchSpace.from_json(value['space'])
        rows = {LayerSignature(*row[:-2]): row[-2:] for row in value['entries']}
        signatures = Signatures(space).all
        if set(rows) != set(signatures):
            raise ValueError(
                f'{path} has {len(rows)} entries, its space has {len(signatures)} other signatures'
            )
        entries, deviations = np.array([rows[signature] for signature in signatures], np.float64).T
        return cls(
            space, entries, deviations, value['base'], value['noise'], value['unit'], value['provenance']
        )


def fit_samples(samples: Samples, strengths: np.ndarray | None = None) -> tuple[LatencyTable, Fit]:
    """Fit a table to timed networks, with the roofline prior.

    Raises:
      ValueError: too few samples, or constant times.
    """
    space = samples.header.space
    signatures = Signatures(space)
    incidence = signatures.incidence(space.to_choices(samples.widths))
    fit = fit_table(
        incidence,
        samples.latency_ms,
        signatures.monotone_pairs,
        default_strengths() if strengths is None else strengths,
        prior=prior.roofline(signatures),
    )
    header = samples.header
    provenance = {
        'device': header.device,
        'details': dict(header.details),
        'runtime': header.runtime,
        'dtype': header.dtype,
        'batch': header.batch,
        'input_shape': list(header.input_shape),
        'versions': dict(header.versions),
        'samples': len(samples.timed),
        'held_out': fit.held_out._asdict(),
        'strength': fit.strength.tolist(),
    }
    table = LatencyTable(
        space, fit.entries, np.zeros_like(fit.entries), fit.base, fit.noise, provenance=provenance
    )
    return table, fit


def flops_table(space: SearchSpace) -> LatencyTable:
    """Build the table of FLOPs of one image: twice the multiply-adds of the deployed network."""
    work = Signatures(space).work
    return _counted(space, 2 * (work[:, 0] + work[:, 1]), 'FLOPs')


def params_table(space: SearchSpace) -> LatencyTable:
    """Build the table of parameters of the deployed network: kernels and biases."""
    return _counted(space, Signatures(space).work[:, 3], 'parameters')


def _counted(space: SearchSpace, entries: Sequence[float] | np.ndarray, unit: str) -> LatencyTable:
    entries = np.asarray(entries, np.float64)
    return LatencyTable(space, entries, np.zeros_like(entries), unit=unit, provenance={'source': 'counted'})
