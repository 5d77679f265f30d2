"""Methods that are asked for widths and told their times: what one is, its rounds and result, and many at once."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from jcw.graph import Widths

Measure = Callable[
    [Sequence[Widths]],
    tuple[Float[np.ndarray, ' networks'], Float[np.ndarray, ' networks']],
]
"""From networks to measured latency, ms, and its relative standard error."""


class Round(NamedTuple):
    """Networks timed together."""

    widths: Int[np.ndarray, 'networks sites']
    utility: Float[
        np.ndarray, ' networks'
    ]  # of a corrected method: what the network was predicted to take, ms
    predicted: Float[np.ndarray, ' networks']  # by the table as it came, ms
    corrected: Float[np.ndarray, ' networks']  # by the table as corrected in the rounds before, ms
    measured: Float[np.ndarray, ' networks']  # ms
    error: Float[np.ndarray, ' networks']  # standard error of `measured`, relative


class Repaired(NamedTuple):
    """The network that holds the budget when measured, and how it was found.

    Attributes:
      widths: one per site; where nothing held the budget, those measured fastest.
      utility: its utility.
      predicted: its cost by the table as it came, ms.
      measured: ms.
      error: standard error of `measured`, relative.
      budget: ms.
      feasible: whether `measured * (1 + confidence * error) <= budget`.
      complete: whether no better candidate was left when the rounds ended.
      rounds: what was timed.
    """

    widths: Int[np.ndarray, ' sites']
    utility: float
    predicted: float
    measured: float
    error: float
    budget: float
    feasible: bool
    complete: bool
    rounds: tuple[Round, ...]


@runtime_checkable
class Method(Protocol):
    """What is asked for widths and told their times."""

    def ask(self) -> list[Widths]: ...

    def tell(self, measured: Sequence[float] | np.ndarray, error: Sequence[float] | np.ndarray) -> None: ...

    def result(self) -> Repaired: ...


def together(methods: Mapping[str, Method], measure: Measure, max_rounds: int) -> dict[str, Repaired]:
    """Run methods side by side: what all of them ask for in a round is timed in one call.

    Args:
      methods: by name.
      measure: times networks; those of a round come together, so that they can be timed in turn.
      max_rounds: at most.
    """
    for _ in range(max_rounds):
        asked = {name: method.ask() for name, method in methods.items()}
        wanted = list(dict.fromkeys(widths for each in asked.values() for widths in each))
        if not wanted:
            break
        measured, error = measure(wanted)
        place = {widths: index for index, widths in enumerate(wanted)}
        for name, each in asked.items():
            if each:
                rows = [place[widths] for widths in each]
                methods[name].tell(np.asarray(measured)[rows], np.asarray(error)[rows])
    return {name: method.result() for name, method in methods.items()}


def holds(timed: Round, budget: float, confidence: float) -> np.ndarray:
    return timed.measured * (1 + confidence * timed.error) <= budget


def conclude(rounds: list[Round], budget: float, confidence: float, complete: bool) -> Repaired:
    every = Round(*(np.concatenate(leaves) for leaves in zip(*rounds, strict=True)))
    held = holds(every, budget, confidence)
    best = int(np.where(held, every.utility, -np.inf).argmax() if held.any() else every.measured.argmin())
    return Repaired(
        every.widths[best],
        float(every.utility[best]),
        float(every.predicted[best]),
        float(every.measured[best]),
        float(every.error[best]),
        float(budget),
        bool(held[best]),
        complete,
        tuple(rounds),
    )
