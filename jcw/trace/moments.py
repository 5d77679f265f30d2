"""Which of the numbers behind a channel's scale and shift are a mean and a variance.

A normalisation `gamma (x - mean) / sqrt(variance + epsilon) + beta` may be written in any arithmetic. It is recognised
by what it does: with other numbers in place of one of its parts the scale goes as the root of `1 / (part + epsilon)`,
or the shift goes down by the scale for each 1 that another part goes up. The numbers of variables do not matter.
"""

import numpy as np

from jcw.trace.expressions import Expression
from jcw.trace.known import Known
from jcw.trace.values import channels_of

AT = (1.0, 2.0, 7.0)  # numbers put in place of a part that may be a variance
LEAST, MOST = -1e-6, 0.5  # of epsilon
EXACT = 1e-6
NEARLY = 1e-2  # the root of a variance, plus epsilon, is nearly that of the variance plus another


def moments_of(expression: Expression, channels: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Return mean and variance, with epsilon, [channels], of the leaf of an affine expression; none without both."""
    study = _Study(expression)
    variance = study.variance(channels)
    mean = None if variance is None else study.mean(channels)
    return None if mean is None or variance is None else (mean, variance)


class _Study:
    """Scale and shift of an affine expression as functions of the numbers in it."""

    def __init__(self, expression: Expression) -> None:
        self.expression = expression
        self.values = [part for part in expression.parts if part.known is not None]
        self.parts = [
            part for value in self.values if value.known is not None for part in value.known.parts()
        ]
        free = {id(part): _thin(part).shape for part in self.parts if part.free and _thin(part).size > 1}
        draws = np.random.default_rng(0)
        self.anywhere = {key: draws.uniform(0.5, 2, shape) for key, shape in free.items()}

    def variance(self, channels: int) -> np.ndarray | None:
        """Return the first part that the scale is a root of, and epsilon; outer parts come before what is in them."""
        for part in self.parts:
            value = _thin(part)
            if value.size != channels or value.ndim == 0 or part.mixes:
                continue
            squares = [np.square(self.affine({id(part): np.full(value.shape, at)})[0]) for at in AT]
            with np.errstate(all='ignore'):
                epsilon = (squares[1] * AT[1] - squares[0] * AT[0]) / (squares[0] - squares[1])
                error = squares[2] * (AT[2] + epsilon) / (squares[0] * (AT[0] + epsilon)) - 1
            if np.all((epsilon > LEAST) & (epsilon < MOST) & (np.abs(error) < NEARLY)):
                return np.asarray(value, np.float64).reshape(-1) + np.maximum(epsilon, 0)
        return None

    def mean(self, channels: int) -> np.ndarray | None:
        """Return the sum of the parts that the shift falls by, less those it rises by; none if all are alike."""
        scale, shift = self.affine({})
        total, within, found = np.zeros(()), set[int](), False
        for part in self.parts:
            value = _thin(part)
            if id(part) in within or value.size not in (1, channels):
                continue
            other, moved = self.affine({id(part): np.asarray(part.at(self.anywhere) + 1.0)})
            sign = next((s for s in (1, -1) if _close(moved - shift, -s * scale)), 0)
            if sign and _close(other, scale):
                total = total + sign * np.asarray(value, np.float64).reshape(-1)
                within |= {id(inner) for inner in part.parts()}
                found |= value.size == channels and value.ndim > 0
        return np.broadcast_to(total, channels) if found else None

    def affine(self, changed: dict[int, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return scale and shift with any numbers for variables, and some parts changed."""
        numbers = {**self.anywhere, **changed}
        values = {
            id(part): channels_of(part.known.at(numbers), part.axes) for part in self.values if part.known
        }
        shift = np.asarray(self.expression.at(np.zeros(()), values))
        return np.asarray(self.expression.at(np.ones(()), values) - shift), shift


def _thin(part: Known) -> np.ndarray:
    """Return the numbers of a part, each once where they repeat along an axis."""
    value = np.asarray(part.value)
    return value[(..., *(slice(None, 1 if step == 0 else None) for step in value.strides))]


def _close(found: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.all(np.abs(found - expected) <= EXACT * np.abs(expected)))
