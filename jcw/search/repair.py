"""Measured repair: time the best candidates, correct the table near them, search again, until measurement agrees."""

import functools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from jcw.budget import cheapest, k_best
from jcw.field import Field, scores, to_host
from jcw.graph import Graph, Widths
from jcw.search.limits import Limits, none
from jcw.search.rounds import Repaired, Round, conclude, holds

TABLE_ERROR = 0.1
"""Standard deviation of the table's error, relative to the budget, before anything is measured."""


class Repair:
    """Finds the best network whose measured latency, with `confidence` standard errors, is within the budget.

    Each round asks for the `k` best networks that the corrected table puts within the budget, that were not timed yet
    and that would beat the best one found to hold it; where the table puts none there, for the one it holds fastest.
    Told their times, it corrects the table (`correction`). It asks for none when there is no such network left.

    Args:
      graph: whose choices the fields are of.
      utility: of configurations.
      cost: their predicted latency, ms.
      budget: ms.
      k: networks timed in a round.
      confidence: standard errors above the measured latency that must still be within the budget.
      table_error: standard deviation of the table's error, relative to the budget, before anything is measured.
      max_rounds: after so many rounds it ends anyway.
      limits: what candidates must hold besides, by tables alone.

    Raises:
      ValueError: an argument out of range.
    """

    def __init__(
        self,
        graph: Graph,
        utility: Field,
        cost: Field,
        budget: float,
        *,
        k: int = 4,
        confidence: float = 1.96,
        table_error: float = TABLE_ERROR,
        max_rounds: int = 8,
        limits: Limits | None = None,
    ) -> None:
        if budget <= 0 or k < 1 or confidence < 0 or table_error <= 0 or max_rounds < 1:
            raise ValueError(
                'need budget, k, table_error and max_rounds > 0 and confidence >= 0, '
                f'got {budget}, {k}, {table_error}, {max_rounds} and {confidence}'
            )
        self._graph, self._budget, self._confidence, self._table_error = (
            graph,
            budget,
            confidence,
            table_error,
        )
        limits = none(graph) if limits is None else limits
        self._utility, self._cost = limits.utility(utility), to_host(cost)
        self._corrected = self._cost
        self._rounds: list[Round] = []
        self._max_rounds = max_rounds
        most = 1 << (k * max_rounds).bit_length()  # compiled once for all rounds
        self._candidates = functools.partial(_candidates, self._utility, limits, budget, confidence, k, most)
        self._left = self._candidates(self._corrected, self._rounds, self._timed)

    @property
    def _timed(self) -> Int[np.ndarray, 'networks sites']:
        none = np.zeros((0, self._graph.num_sites), np.int32)
        return np.concatenate([none, *(self._graph.to_choices(r.widths) for r in self._rounds)])

    def ask(self) -> list[tuple[int, ...]]:
        """Return the widths of the networks to time next, none where it is done."""
        if len(self._rounds) >= self._max_rounds:
            return []
        return [tuple(widths) for widths in self._graph.to_widths(self._left).tolist()]

    def tell(self, measured: Sequence[float] | np.ndarray, error: Sequence[float] | np.ndarray) -> None:
        """Take the latencies of the networks asked for, ms, and their relative standard errors.

        Raises:
          ValueError: a measured latency that is not positive, or an error that is unknown.
        """
        self._rounds.append(self._round(np.asarray(measured, np.float64), np.asarray(error, np.float64)))
        residual = np.concatenate([r.measured - r.predicted for r in self._rounds])
        noise = np.concatenate([r.measured * r.error for r in self._rounds])
        shape = self._cost.unary.shape
        shift = correction(self._timed, residual, noise, self._table_error * self._budget, shape)
        self._corrected = self._cost.replace(unary=self._cost.unary + shift)
        self._left = self._candidates(self._corrected, self._rounds, self._timed)

    def result(self) -> Repaired:
        """Return the best network that held the budget, or the one measured fastest where none did."""
        return conclude(self._rounds, self._budget, self._confidence, complete=not len(self._left))

    def _round(self, measured: np.ndarray, error: np.ndarray) -> Round:
        choices = self._left
        if measured.shape != (len(choices),) or not (np.isfinite(measured) & (measured > 0)).all():
            raise ValueError(f'expected {len(choices)} positive latencies, got {measured}')
        if error.shape != measured.shape or not (np.isfinite(error) & (error >= 0)).all():
            raise ValueError(f'expected a relative standard error of each latency, got {error}')
        fields = self._utility, self._cost, self._corrected
        value, predicted, expected = (scores(field, choices) for field in fields)
        return Round(self._graph.to_widths(choices), value, predicted, expected, measured, error)


class Corrected:
    """A method that answers a budget with widths, asked again with corrected budgets until its network holds.

    Args:
      graph: of the networks.
      at: from a budget in predicted ms to choices; `ValueError` where nothing is so small.
      cost: predicted latency, ms.
      budget: ms.
      confidence: standard errors above the measured latency that must still be within the budget.

    Raises:
      ValueError: the method has no network within the budget.
    """

    def __init__(
        self,
        graph: Graph,
        at: Callable[[float], Int[np.ndarray, ' sites']],
        cost: Field,
        budget: float,
        confidence: float,
    ) -> None:
        self._graph, self._at, self._cost = graph, at, to_host(cost)
        self._budget, self._confidence = budget, confidence
        self._wanted: Widths | None = self._widths_at(budget)
        self._rounds: list[Round] = []

    def ask(self) -> list[tuple[int, ...]]:
        """Return the widths of the network to time next, none where nothing is left to try."""
        return [] if self._wanted is None else [self._wanted]

    def tell(self, measured: Sequence[float] | np.ndarray, error: Sequence[float] | np.ndarray) -> None:
        """Take the latency of the network asked for, ms, and its relative standard error; choose the next."""
        assert self._wanted is not None
        widths = np.array([self._wanted], np.int32)
        predicted = scores(self._cost, self._graph.to_choices(widths))
        timed = Round(
            widths, predicted, predicted, predicted, np.asarray(measured, float), np.asarray(error, float)
        )
        self._rounds.append(timed)
        slower = float(timed.measured[0] * (1 + self._confidence * timed.error[0]) / predicted[0])
        try:
            following = self._widths_at(self._budget / slower)
        except ValueError:  # the method has no network so small
            following = self._wanted
        known = {tuple(r.widths[0].tolist()) for r in self._rounds}
        self._wanted = None if following in known else following

    def result(self) -> Repaired:
        """Return the greatest network that held the budget, or the fastest if none did."""
        return conclude(self._rounds, self._budget, self._confidence, complete=self._wanted is None)

    def _widths_at(self, limit: float) -> Widths:
        return tuple(self._graph.to_widths(self._at(limit)).tolist())


def correction(
    choices: Int[np.ndarray, 'networks sites'],
    residual: Float[np.ndarray, ' networks'],
    noise: Float[np.ndarray, ' networks'],
    table_error: float,
    shape: tuple[int, ...],
) -> Float[np.ndarray, 'sites choices']:
    """Return what to add to a table's unaries, given by how much networks are slower than it says.

    The error of a network is `b + sum_s u[s, x_s]`, with `b ~ N(0, s^2)` and `u ~ N(0, s^2 / sites)`: a bias that
    all networks share and a part of their own, which near networks share the more, the more choices they share. Its
    posterior mean passes through the measured networks as nearly as their noise allows (Gaussian process with
    `k(x, x') = s^2 (1 + shared(x, x') / sites)`).
    """
    sites = choices.shape[1]
    shared = (choices[:, None] == choices[None]).mean(-1)
    weights = np.linalg.solve(
        table_error**2 * (1 + shared) + np.diag(noise**2 + 1e-12 * table_error**2), residual
    )
    unary = np.full(shape, table_error**2 * weights.sum() / sites)
    for site in range(sites):
        np.add.at(unary[site], choices[:, site], table_error**2 * weights / sites)
    return unary


def _candidates(
    utility: Field,
    limits: Limits,
    budget: float,
    confidence: float,
    k: int,
    most: int,
    corrected: Field,
    rounds: list[Round],
    timed: Int[np.ndarray, 'networks sites'],
) -> Int[np.ndarray, 'candidates sites']:
    """Return up to `k` networks worth timing, best first; `most` exceeds the number timed in all."""
    error = float(np.median(np.concatenate([r.error for r in rounds]))) if rounds else 0.0
    limit = budget / (1 + confidence * error)
    labels = 512 if limits.costs else 4096  # with several costs, a proof of every rank takes minutes
    answer = k_best(utility, *limits.priced(corrected, limit), most, max_labels=labels)
    known = {tuple(choices) for choices in timed.tolist()}
    holding = [r.utility[held] for r in rounds if (held := holds(r, budget, confidence)).any()]
    least = max((float(values.max()) for values in holding), default=-np.inf)
    if not answer.feasible.any() and not holding:
        (_, *beside), (_, *budgets) = limits.priced(corrected, limit)
        fastest = np.asarray(cheapest(utility, corrected, beside=beside, most=budgets).choices)[None]
        return fastest if tuple(fastest[0].tolist()) not in known else fastest[:0]
    fresh = [
        choices
        for choices, value, feasible in zip(answer.choices, answer.utility, answer.feasible, strict=True)
        if feasible and value > least and tuple(choices.tolist()) not in known
    ]
    return np.array(fresh[:k], np.int32).reshape(-1, timed.shape[1])
