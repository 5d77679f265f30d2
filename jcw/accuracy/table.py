"""An accuracy table: effects per (site, width), their sum for a network, its error bar, its provenance."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from jcw.accuracy import model, prior, storage
from jcw.accuracy.fit import Evidence, LeaveOneOut, Linear, fit, gather, leave_one_out, one_hot
from jcw.accuracy.model import Strengths
from jcw.accuracy.prior import Prior

UNITS = ('accuracy, %', '-loss, nats')
UNTRAINED_SPREAD = 0.8  # of heights before anything is trained: first networks should differ


@dataclasses.dataclass(frozen=True)
class AccuracyTable:
    """Utility of a network as a sum over its sites; everything else follows from what is stored.

    Attributes:
      sites: their names.
      widths: choices of every site, increasing.
      prior: curves and expected heights.
      evidence: the trained networks.
      strength: the chosen prior strengths.
      mode: whitened parameters of the model (`jcw.accuracy.model`).
      unit: 'accuracy, %' or '-loss, nats'; more is better.
      provenance: data set, recipe, samples, versions.
    """

    sites: tuple[str, ...]
    widths: tuple[tuple[int, ...], ...]
    prior: Prior
    evidence: Evidence
    strength: Strengths
    mode: Float[np.ndarray, ' parameters']
    unit: str = UNITS[0]
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @cached_property
    def _linear(self) -> model.Effects:
        return model.linearise(self.mode, self.prior, self.strength, self.evidence.scale)

    @property
    def effects(self) -> Float[np.ndarray, 'sites choices']:
        """Effect of each choice against its site's least positive width; 0 where absent."""
        return self._linear.effects

    @cached_property
    def base(self) -> float:
        """Utility of the network of least positive widths."""
        return self.evidence.centre + self._linear.base - float((self._mean_choices * self.effects).sum())

    @property
    def noise(self) -> float:
        """Standard deviation of one training about its network's own utility."""
        return self.strength.noise * float(np.sqrt(1 - self.strength.own))

    def unary(self) -> Float[np.ndarray, 'sites choices']:
        """Return the effects for the solver: -inf where a site has no such choice."""
        return np.where(self.prior.present, self.effects, -np.inf)

    def draw(self, key: Array, count: int = 1) -> Float[np.ndarray, 'count sites choices']:
        """Draw fields from the posterior; -inf where a site has no such choice.

        Parameters are drawn as the prior's, then moved by what the evidence says of them (Matheron's rule); heights
        stay positive.
        """
        first, second = jax.random.split(key)
        rows = self._fitted.rows
        before = np.asarray(jax.random.normal(first, (count, rows.shape[1])), np.float64)
        noise = np.asarray(jax.random.normal(second, (count, rows.shape[0])), np.float64)
        moved = np.linalg.solve(self._gram, (before @ rows.T + noise).T).T @ rows
        drawn = [
            model.unpack(theta, self.prior, self.strength, self.evidence.scale)[1]
            for theta in self.mode + before - moved
        ]
        return np.where(self.prior.present, np.stack(drawn), -np.inf)

    def predict(self, choices: Any) -> tuple[Any, Any]:
        """Predict the utility of networks, choices [... sites] -> means [...], standard errors [...].

        The mean is the sum of effects; a trained network keeps the part of its difference from it that is its own.
        The error is that of the network's own utility; a training scatters by `noise` about that.

        Raises:
          ValueError: a choice that its site does not have.
        """
        shape, flat = self._flat(choices)
        marks = one_hot(flat, self.prior.curves.shape[1])
        mean = self.base + (marks * self.effects).sum((1, 2))
        rows = self._rows(marks)
        own = self.strength.own * self.strength.noise**2
        cross = rows @ self._fitted.rows.T
        if len(self.evidence.counts):
            same = (flat[:, None] == self.evidence.choices).all(-1)
            cross = cross + same * own / self._deviations
            residual = self._fitted.target - self._fitted.rows @ self.mode
            mean = mean + (same * own / self._deviations) @ residual
        known = np.linalg.solve(self._gram, cross.T).T
        variance = (rows**2).sum(1) + own - (cross * known).sum(1)
        return mean.reshape(shape), np.sqrt(np.maximum(variance, 0)).reshape(shape)

    def covariance(self) -> Float[np.ndarray, 'sites choices sites choices']:
        """Return the covariance of the effects, linearised at the mode."""
        jacobian = self._linear.jacobian
        flat = jacobian.reshape(-1, jacobian.shape[-1])
        seen = flat @ self._fitted.rows.T
        return (flat @ flat.T - seen @ np.linalg.solve(self._gram, seen.T)).reshape(jacobian.shape[:2] * 2)

    @property
    def deviations(self) -> Float[np.ndarray, 'sites choices']:
        """Standard deviation of every effect alone."""
        return np.sqrt(np.maximum(np.einsum('scsc->sc', self.covariance()), 0))

    def leave_one_out(self) -> LeaveOneOut:
        """Predict each trained network from all others, in the order of `evidence`."""
        return leave_one_out(self._fitted, self.evidence.utility, self._deviations)

    def save(self, path: str | Path) -> None:
        """Write readable JSON with a checksum, one (site, width) a line."""
        storage.save(self, path)

    @classmethod
    def load(cls, path: str | Path) -> 'AccuracyTable':
        """Read what `save` wrote.

        Raises:
          ValueError: not such a file, another version, unknown or missing keys, numbers that are not finite or
            not positive where they should be or that lead beyond all bounds, or a checksum that does not fit; the
            message names the file.
        """
        table = cls(**storage.load(path))
        with np.errstate(all='ignore'):
            bounded = np.isfinite(table.base) and np.isfinite(table.effects).all()
        if not bounded:
            raise ValueError(f'{path}: its numbers give effects that are not finite')
        return table

    @cached_property
    def _mean_choices(self) -> np.ndarray:
        marks = one_hot(self.evidence.choices, self.prior.curves.shape[1])
        return marks.mean(0) if len(marks) else np.zeros(self.prior.curves.shape)

    @cached_property
    def _deviations(self) -> np.ndarray:
        return np.sqrt(model.variances(self.evidence.counts, self.strength))

    def _rows(self, marks: np.ndarray) -> Float[np.ndarray, 'networks parameters']:
        """Return the derivatives of networks' utilities with respect to the parameters."""
        jacobian = self._linear.jacobian
        rows = (marks - self._mean_choices).reshape(len(marks), jacobian[..., 0].size) @ jacobian.reshape(
            -1, jacobian.shape[-1]
        )
        rows[:, 0] += model.BASE_DEVIATION * self.evidence.scale
        return rows

    @cached_property
    def _fitted(self) -> Linear:
        marks = one_hot(self.evidence.choices, self.prior.curves.shape[1])
        rows = self._rows(marks) / self._deviations[:, None]
        additive = self.base + (marks * self.effects).sum((1, 2))
        return Linear(
            self.mode, rows, (self.evidence.utility - additive) / self._deviations + rows @ self.mode
        )

    @cached_property
    def _gram(self) -> np.ndarray:
        return np.eye(len(self._fitted.rows)) + self._fitted.rows @ self._fitted.rows.T

    def _flat(self, choices: Any) -> tuple[tuple[int, ...], np.ndarray]:
        choices = np.asarray(choices)
        sites, count = self.prior.curves.shape
        if choices.shape[-1:] != (sites,) or choices.dtype.kind not in 'iu':
            raise ValueError(
                f'expected integer choices [... {sites} sites], got {choices.dtype} {choices.shape}'
            )
        flat = choices.reshape(-1, sites).astype(np.int64)
        inside = (flat >= 0) & (flat < count)
        if not (inside & self.prior.present[np.arange(sites), np.where(inside, flat, 0)]).all():
            raise ValueError(
                f'a choice that its site does not have; sites have {self.prior.present.sum(1)} choices'
            )
        return choices.shape[:-1], flat


def untrained(
    sites: Sequence[str],
    widths: Sequence[Sequence[int]],
    *,
    believed: Prior | None = None,
    height: float = 1.0,
    unit: str = UNITS[0],
) -> AccuracyTable:
    """Build the table of the prior alone, with its wide error bars.

    Args:
      sites: names.
      widths: of every site.
      believed: by default `prior.log_width`.
      height: what a site is expected to gain from its least to its greatest width.
      unit: of utility.
    """
    believed = prior.log_width(widths) if believed is None else believed
    nothing = Evidence(np.zeros((0, len(sites)), np.int64), np.zeros(0), np.zeros(0), 0.0, 0)
    strength = Strengths(
        noise=model.NOISE_SHARE * len(sites) * height,
        spread=UNTRAINED_SPREAD,
        deviation=0.07,
        supernet=0.5 if believed.heard.any() else 0.0,
        own=0.2,
    )
    mode = np.zeros(model.num_parameters(believed))
    return AccuracyTable(tuple(sites), tuple(map(tuple, widths)), believed, nothing, strength, mode, unit)


def refit(
    before: AccuracyTable,
    choices: Int[np.ndarray, 'samples sites'],
    utility: Float[np.ndarray, ' samples'],
    *,
    strengths: Strengths | None = None,
    unit: str | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> AccuracyTable:
    """Fit a table of the same sites and prior to trained networks, one row for each training.

    Raises:
      ValueError: see `fit.gather` and `fit.fit`.
    """
    evidence = gather(choices, utility)
    found = fit(evidence, before.prior, strengths)
    return dataclasses.replace(
        before,
        evidence=evidence,
        strength=found.strength,
        mode=found.mode,
        unit=before.unit if unit is None else unit,
        provenance=dict(before.provenance if provenance is None else provenance),
    )
