"""Measured repair: time the best candidates, correct the table near them, search again, until measurement agrees."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jcw.budget import k_best
from jcw.field import Field, evaluate, to_host
from jcw.space import SearchSpace

Measure = Callable[
    [Int[np.ndarray, 'networks layers']],
    tuple[Float[np.ndarray, ' networks'], Float[np.ndarray, ' networks']],
]
"""From widths to measured latency, ms, and its relative standard error."""


class Round(NamedTuple):
    """Networks timed together."""

    widths: Int[np.ndarray, 'networks layers']
    utility: Float[np.ndarray, ' networks']
    predicted: Float[np.ndarray, ' networks']  # by the table as it came, ms
    corrected: Float[np.ndarray, ' networks']  # by the table as corrected in the rounds before, ms
    measured: Float[np.ndarray, ' networks']  # ms
    error: Float[np.ndarray, ' networks']  # standard error of `measured`, relative


class Repaired(NamedTuple):
    """The network that holds the budget when measured, and how it was found.

    Attributes:
      widths: one per layer; where nothing held the budget, those measured fastest.
      utility: its utility.
      predicted: its cost by the table as it came, ms.
      measured: ms.
      error: standard error of `measured`, relative.
      budget: ms.
      feasible: whether `measured * (1 + confidence * error) <= budget`.
      complete: whether no better candidate was left when the rounds ended.
      rounds: what was timed.
    """

    widths: Int[np.ndarray, ' layers']
    utility: float
    predicted: float
    measured: float
    error: float
    budget: float
    feasible: bool
    complete: bool
    rounds: tuple[Round, ...]


def repair(
    space: SearchSpace,
    utility: Field,
    cost: Field,
    budget: float,
    measure: Measure,
    *,
    k: int = 4,
    confidence: float = 1.96,
    spread: float = 0.1,
    max_rounds: int = 8,
) -> Repaired:
    """Find the best network whose measured latency, with `confidence` standard errors, is within the budget.

    Each round times the `k` best networks that the corrected table puts within the budget, that were not timed yet
    and that would beat the best one found to hold it; where the table puts none there, the one it holds fastest.
    Then the table is corrected (`correction`). It ends when there is no such network left.

    Args:
      space: whose choices the fields are of.
      utility: of configurations.
      cost: their predicted latency, ms.
      budget: ms.
      measure: times networks; those of a round come together, so that they can be timed in turn.
      k: networks timed in a round.
      confidence: standard errors above the measured latency that must still be within the budget.
      spread: standard deviation of the table's error, relative to the budget, before anything is measured.
      max_rounds: after so many rounds it ends anyway.

    Raises:
      ValueError: an argument out of range, a measured latency that is not positive, or an error that is unknown.
    """
    if budget <= 0 or k < 1 or confidence < 0 or spread <= 0 or max_rounds < 1:
        raise ValueError(
            'need budget, k, spread and max_rounds > 0 and confidence >= 0, '
            f'got {budget}, {k}, {spread}, {max_rounds} and {confidence}'
        )
    utility, cost = to_host(utility), to_host(cost)
    rounds: list[Round] = []
    timed = np.zeros((0, space.num_layers), np.int32)
    corrected = cost
    most = 1 << (k * max_rounds).bit_length()  # compiled once for all rounds
    candidates = functools.partial(_candidates, utility, budget, confidence, k, most)
    for _ in range(max_rounds):
        fresh = candidates(corrected, rounds, timed)
        if not len(fresh):
            break
        rounds.append(_time(space, utility, cost, corrected, measure, fresh))
        timed = np.concatenate([timed, fresh])
        residual = np.concatenate([r.measured - r.predicted for r in rounds])
        noise = np.concatenate([r.measured * r.error for r in rounds])
        shift = correction(timed, residual, noise, spread * budget, cost.unary.shape)
        corrected = cost.replace(unary=cost.unary + shift)
    left = candidates(corrected, rounds, timed)
    return _conclude(rounds, budget, confidence, complete=not len(left))


def correction(
    choices: Int[np.ndarray, 'networks layers'],
    residual: Float[np.ndarray, ' networks'],
    noise: Float[np.ndarray, ' networks'],
    spread: float,
    shape: tuple[int, ...],
) -> Float[np.ndarray, 'layers choices']:
    """Return what to add to a table's unaries, given by how much networks are slower than it says.

    The error of a network is `b + sum_l u[l, x_l]`, with `b ~ N(0, s^2)` and `u ~ N(0, s^2 / layers)`: a bias that
    all networks share and a part of their own, which near networks share the more, the more choices they share. Its
    posterior mean passes through the measured networks as nearly as their noise allows (Gaussian process with
    `k(x, x') = s^2 (1 + shared(x, x') / layers)`).
    """
    layers = choices.shape[1]
    shared = (choices[:, None] == choices[None]).mean(-1)
    weights = np.linalg.solve(spread**2 * (1 + shared) + np.diag(noise**2 + 1e-12 * spread**2), residual)
    unary = np.full(shape, spread**2 * weights.sum() / layers)
    for layer in range(layers):
        np.add.at(unary[layer], choices[:, layer], spread**2 * weights / layers)
    return unary


def _candidates(
    utility: Field,
    budget: float,
    confidence: float,
    k: int,
    most: int,
    corrected: Field,
    rounds: list[Round],
    timed: Int[np.ndarray, 'networks layers'],
) -> Int[np.ndarray, 'candidates layers']:
    """Return up to `k` networks worth timing, best first; `most` exceeds the number timed in all."""
    error = float(np.median(np.concatenate([r.error for r in rounds]))) if rounds else 0.0
    limit = budget / (1 + confidence * error)
    answer = k_best(utility, corrected, limit, most)
    known = {tuple(choices) for choices in timed.tolist()}
    holding = [r.utility[held] for r in rounds if (held := _holds(r, budget, confidence)).any()]
    least = max((float(values.max()) for values in holding), default=-np.inf)
    if not answer.feasible.any() and not holding:
        fastest = np.asarray(answer.choices[:1])
        return fastest if tuple(fastest[0].tolist()) not in known else fastest[:0]
    fresh = [
        choices
        for choices, value, feasible in zip(answer.choices, answer.utility, answer.feasible, strict=True)
        if feasible and value > least and tuple(choices.tolist()) not in known
    ]
    return np.array(fresh[:k], np.int32).reshape(-1, timed.shape[1])


def _time(
    space: SearchSpace,
    utility: Field,
    cost: Field,
    corrected: Field,
    measure: Measure,
    choices: Int[np.ndarray, 'networks layers'],
) -> Round:
    widths = space.to_widths(choices)
    measured, error = (np.asarray(values, np.float64) for values in measure(widths))
    if measured.shape != (len(widths),) or not (np.isfinite(measured) & (measured > 0)).all():
        raise ValueError(f'expected {len(widths)} positive latencies from measure, got {measured}')
    if error.shape != measured.shape or not (np.isfinite(error) & (error >= 0)).all():
        raise ValueError(f'expected a relative standard error of each latency from measure, got {error}')
    value, predicted, expected = (evaluate(field, choices) for field in (utility, cost, corrected))
    return Round(widths, value, predicted, expected, measured, error)


def _holds(timed: Round, budget: float, confidence: float) -> np.ndarray:
    return timed.measured * (1 + confidence * timed.error) <= budget


def _conclude(rounds: list[Round], budget: float, confidence: float, complete: bool) -> Repaired:
    every = Round(*(np.concatenate(leaves) for leaves in zip(*rounds, strict=True)))
    holds = _holds(every, budget, confidence)
    best = int(np.where(holds, every.utility, -np.inf).argmax() if holds.any() else every.measured.argmin())
    return Repaired(
        every.widths[best],
        float(every.utility[best]),
        float(every.predicted[best]),
        float(every.measured[best]),
        float(every.error[best]),
        float(budget),
        bool(holds[best]),
        complete,
        tuple(rounds),
    )
