"""A latency table: entries per layer signature, their sum for a network, its error bar, its provenance."""

import dataclasses
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jcw import records
from jcw.field import Field
from jcw.graph import Graph
from jcw.latency import prior, uncertainty
from jcw.latency.drift import corrected
from jcw.latency.entries import Entries, Signature
from jcw.latency.fit import Fit, default_strengths, fit_table
from jcw.latency.samples import Samples

VERSION = 2
UNITS = ('ms per call', 'FLOPs', 'parameters', 'bytes')
COLUMNS = [*Signature._fields, 'cost', 'deviation', 'prior']
FIELDS = {'version', 'unit', 'base', 'provenance', 'evidence', 'graph', 'columns', 'entries'}


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What a table's error bars follow from.

    Attributes:
      timed: networks that the table was fitted to.
      scale: cost of each signature by the prior alone.
      variances: of the prior's terms, in units of the noise variance.
      noise: standard deviation of a sample about the table, relative.
    """

    timed: Int[np.ndarray, 'samples sites']
    scale: Float[np.ndarray, ' signatures']
    variances: tuple[float, ...]
    noise: float


@dataclasses.dataclass(frozen=True)
class LatencyTable:
    """Cost of a network as a sum over its layers.

    Attributes:
      graph: whose layers the table knows.
      entries: cost of each signature of the graph, in the order of `Entries`.
      base: cost of a network beside its layers.
      unit: one of `UNITS`.
      provenance: device, runtime, dtype, batch, input shape, versions, samples, held-out errors.
      evidence: of the error bars; a counted table has none, and no error.
    """

    graph: Graph
    entries: Float[np.ndarray, ' signatures']
    base: float = 0.0
    unit: str = 'ms per call'
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    evidence: Evidence | None = None

    @cached_property
    def layout(self) -> Entries:
        """Which entry stands for what."""
        return Entries(self.graph)

    def predict(self, widths: Any) -> Any:
        """Sum the entries of networks, [... sites] -> float64 [...].

        Raises:
          ValueError: a width is not among its site's choices.
        """
        used = self.layout.used(self.graph.to_choices(widths))
        return np.append(self.entries, 0.0)[used].sum(-1) + self.base

    def predict_std(self, widths: Any) -> Any:
        """Return the standard deviation of a prediction about a sample, [... sites] -> float64 [...].

        It joins the uncertainty of the entries and the noise about the table: what layers do not add up to.
        """
        predicted = self.predict(widths)
        if self.evidence is None:
            return np.zeros_like(predicted)
        incidence = self.layout.incidence(self.graph.to_choices(widths).reshape(-1, self.graph.num_sites))
        of_entries = uncertainty.variance(self.covariance, incidence).reshape(np.shape(predicted))
        return np.sqrt(of_entries + (self.evidence.noise * predicted) ** 2)

    @cached_property
    def covariance(self) -> Float[np.ndarray, 'signatures signatures']:
        """Covariance of the entries, squared units."""
        if self.evidence is None:
            return np.zeros((len(self.entries), len(self.entries)))
        before = uncertainty.covariance(prior.roofline(self.layout), np.array(self.evidence.variances))
        incidence = self.layout.incidence(self.graph.to_choices(self.evidence.timed))
        latency = incidence @ self.entries + self.base
        return uncertainty.posterior(before, self.evidence.scale, incidence, latency, self.evidence.noise)

    @property
    def deviations(self) -> Float[np.ndarray, ' signatures']:
        """Standard deviation of every entry alone; those of layers that go together are large and cancel."""
        return np.sqrt(np.maximum(np.diag(self.covariance), 0))

    def to_cost(self, graph: Graph | None = None) -> Field:
        """Arrange the table for the solver; the score of a configuration is its predicted cost.

        Args:
          graph: one all of whose signatures the table holds; by default the table's own.

        Raises:
          ValueError: the graph has a signature that the table does not hold.
        """
        if graph is None or graph == self.graph:
            return self.layout.to_field(self.entries, self.base)
        known = dict(zip(self.layout.all, self.entries, strict=True))
        wanted = Entries(graph)
        missing = [signature for signature in wanted.all if signature not in known]
        if missing:
            raise ValueError(f'the table lacks {len(missing)} signatures of this graph, such as {missing[0]}')
        return wanted.to_field(np.array([known[signature] for signature in wanted.all]), self.base)

    def save(self, path: str | Path) -> None:
        """Write readable JSON with a checksum of its values, one entry a line.

        Raises:
          ValueError: numbers that are not finite, or negative.
        """
        scales = np.zeros_like(self.entries) if self.evidence is None else self.evidence.scale
        columns = (self.layout.all, self.entries, self.deviations, scales)
        rows = [[*signature, *map(float, numbers)] for signature, *numbers in zip(*columns, strict=True)]
        head = {
            'version': VERSION,
            'unit': self.unit,
            'base': float(self.base),
            'provenance': dict(self.provenance),
            'evidence': _evidence_json(self.evidence),
            'graph': self.graph.to_json(),
            'columns': COLUMNS,
        }
        head = records.summed({**head, 'entries': rows})
        _check_numbers(head)
        del head['entries']
        lines = ',\n'.join(map(json.dumps, rows))
        records.write(path, f'{json.dumps(head)[:-1]},\n"entries": [\n{lines}\n]}}\n')

    @classmethod
    def load(cls, path: str | Path) -> 'LatencyTable':
        """Read what `save` wrote.

        Raises:
          ValueError: not a table, an unknown version, damage, numbers that no cost can be, or entries that do not fit
            the graph.
        """
        try:
            value = records.parse(records.read(path), finite=False)
        except ValueError as error:
            raise ValueError(f'{path} is not JSON: {error}') from None
        if not isinstance(value, dict) or 'entries' not in value or value.get('version') != VERSION:
            raise ValueError(f'{path} is not a latency table of version {VERSION}')
        try:
            value = records.checked(value)
        except ValueError as error:
            raise ValueError(f'{path} is damaged ({error}): put back a copy, or fit it anew') from None
        try:
            return cls._read(value)
        except ValueError as error:
            raise ValueError(f'{path}: {error}') from error
        except (TypeError, LookupError, AttributeError, ArithmeticError) as error:
            raise ValueError(f'{path} is not a latency table: {error!r}') from error

    @classmethod
    def _read(cls, value: Mapping[str, Any]) -> 'LatencyTable':
        _check_numbers(value)
        graph = Graph.from_json(value['graph'])
        rows = {Signature(*row[:-3]): row[-3:] for row in value['entries']}
        signatures = Entries(graph).all
        if set(rows) != set(signatures) or len(rows) != len(value['entries']):
            raise ValueError(
                f'{len(value["entries"])} entries do not fit the {len(signatures)} signatures of its graph'
            )
        entries, _, scale = np.array([rows[signature] for signature in signatures], np.float64).T
        evidence = _read_evidence(value['evidence'], scale, graph)
        return cls(graph, entries, float(value['base']), value['unit'], dict(value['provenance']), evidence)


def _check_numbers(value: Mapping[str, Any]) -> None:
    """Refuse what no table can state: other fields, units or columns, and costs that are negative or not finite."""
    if set(value) - {records.SUM} != FIELDS:
        raise ValueError(f'a table has the fields {sorted(FIELDS)}, not {sorted(value)}')
    if value['unit'] not in UNITS or value['columns'] != COLUMNS:
        raise ValueError(f'in {value["unit"]!r} and columns {value["columns"]}, expected {UNITS}')
    if not is_cost(value['base']):
        raise ValueError(f'the base is {value["base"]!r}, expected a finite cost')
    for number, row in enumerate(value['entries'], 1):
        if len(row) != len(COLUMNS) or not all(map(is_cost, row[-3:])):
            raise ValueError(f'entry {number}, {row}, does not end in three finite costs')
    evidence = value['evidence']
    if evidence is not None and not all(map(is_cost, [evidence['noise'], *evidence['variances']])):
        raise ValueError(f'noise {evidence["noise"]!r} or variances {evidence["variances"]!r}')


def is_cost(value: Any) -> bool:
    """Return whether a value may be a cost or a deviation: finite and not negative."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < np.inf


def fit_samples(
    samples: Samples, strengths: Float[np.ndarray, 'strengths 5'] | None = None
) -> tuple[LatencyTable, Fit]:
    """Fit a table to timed networks, drift corrected, with the roofline prior.

    Raises:
      ValueError: too few samples, or constant times.
    """
    samples = corrected(samples)
    graph = samples.header.graph
    entries = Entries(graph)
    fit = fit_table(
        entries.incidence(graph.to_choices(samples.widths)),
        samples.latency_ms,
        entries.monotone_pairs,
        default_strengths() if strengths is None else strengths,
        prior=prior.roofline(entries),
    )
    evidence = Evidence(samples.widths, fit.scale, tuple(float(v) for v in fit.strength[1:]), fit.noise)
    return LatencyTable(
        graph, fit.entries, fit.base, provenance=_provenance(samples, fit), evidence=evidence
    ), fit


def _provenance(samples: Samples, fit: Fit) -> dict[str, Any]:
    header = samples.header
    named = ('device', 'runtime', 'dtype', 'batch', 'reference', 'reference_ms', 'versions', 'details')
    return {
        **{name: getattr(header, name) for name in named},
        'input_shape': list(header.input_shape),
        'samples': len(samples.timed),
        'failed': len(samples.samples) - len(samples.timed),
        'held_out': fit.held_out._asdict(),
        'monotone': float(fit.strength[0]),
    }


def _evidence_json(evidence: Evidence | None) -> dict[str, Any] | None:
    if evidence is None:
        return None
    return {'noise': evidence.noise, 'variances': evidence.variances, 'timed': evidence.timed.tolist()}


def _read_evidence(value: Mapping[str, Any] | None, scale: np.ndarray, graph: Graph) -> Evidence | None:
    if value is None:
        return None
    timed = np.array(value['timed'], np.int32).reshape(-1, graph.num_sites)
    graph.to_choices(timed)  # refuses widths that are not in the graph
    return Evidence(timed, scale, tuple(value['variances']), float(value['noise']))


def flops_table(graph: Graph) -> LatencyTable:
    """Build the table of FLOPs of one image: twice the multiply-adds of the deployed network."""
    return _counted(graph, 2 * Entries(graph).work[:, :3].sum(1), 'FLOPs')


def params_table(graph: Graph) -> LatencyTable:
    """Build the table of parameters of the deployed network: kernels and biases."""
    return _counted(graph, Entries(graph).work[:, 4], 'parameters')


def _counted(graph: Graph, entries: Float[np.ndarray, ' signatures'], unit: str) -> LatencyTable:
    return LatencyTable(graph, entries, unit=unit, provenance={'source': 'counted'})
