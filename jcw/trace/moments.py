"""Which of the numbers behind a channel's scale and shift are a mean and a variance.

A normalisation `gamma (a x + b - mean) / sqrt(variance + epsilon) + beta` may be written in any arithmetic. It is
recognised by what it does: with other numbers in place of one of its parts, the scale of `x` goes as the root of
`1 / (part + epsilon)`; and there is another part that the shift goes down by, the less the greater the variance is.
"""

import numpy as np

from jcw.trace.expressions import Expression
from jcw.trace.known import Known
from jcw.trace.values import channels_of

AT = (1.0, 2.0, 7.0)  # numbers put in place of a part that may be a variance
HUGE = 1e24  # a variance of which nothing is left but beta
LEAST, MOST = -1e-6, 0.5  # of epsilon
NONE = 1e-12  # an epsilon below is none
EXACT = 1e-6
NEARLY = 1e-2  # the root of a variance, plus epsilon, is nearly that of the variance plus another


def moments_of(expression: Expression, channels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Return mean, variance with epsilon, and `a` of an affine expression's leaf, [channels]; none without both."""
    study = _Study(expression, channels)
    found = study.variance()
    before = None if found is None else study.scale_before(found[0])
    if found is None or before is None:
        return None
    part, variance = found
    nonzero = study.nonzero()
    scale, shift = study.affine(nonzero)
    beta = study.affine({**nonzero, id(part): np.full(_thin(part).shape, HUGE)})[1]
    with np.errstate(all='ignore'):
        mean, variance = (beta - shift) / scale, variance / np.square(before)
    gone = ~(np.isfinite(mean) & np.isfinite(variance))  # channels that never were anything but beta
    pairs = (0, mean), (1, variance), (1, before)
    mean, variance, before = (np.broadcast_to(np.where(gone, none, own), channels) for none, own in pairs)
    return mean, variance, before


class _Study:
    """Scale and shift of an affine expression as functions of the numbers in it."""

    def __init__(self, expression: Expression, channels: int) -> None:
        self.expression, self.channels = expression, channels
        self.values = [part for part in expression.parts if part.known is not None]
        # The last comes first: after another normalisation nothing is left of the one before.
        self.parts = [part for value in self.values[::-1] if value.known for part in value.known.parts()]
        draws, self.own, self.anywhere = np.random.default_rng(0), list[Known](), dict[int, np.ndarray]()
        for part in self.parts:
            drawn = {id(part): draws.uniform(0.5, 2, _thin(part).shape)}
            free = part.eqn is None and not part.mixes and self._is_vector(part)
            if free and all(number is not None for number in self._numbers(drawn).values()):
                self.own.append(part)
                self.anywhere |= drawn

    def _is_vector(self, part: Known) -> bool:
        value = _thin(part)
        return value.ndim > 0 and value.size == max(value.shape) and value.dtype.kind != 'b'

    def variance(self) -> tuple[Known, np.ndarray] | None:
        """Return a part that the scale is a root of, and it with epsilon; the outermost that has an epsilon to come."""
        found = None
        for part in self.parts:
            value = _thin(part)
            if value.size != self.channels or part.mixes or not self._is_vector(part):
                continue
            changed = ({**self.anywhere, id(part): np.full(value.shape, at)} for at in AT)
            squares = [np.square(self.affine(numbers)[0]) for numbers in changed]
            with np.errstate(all='ignore'):
                epsilon = (squares[1] * AT[1] - squares[0] * AT[0]) / (squares[0] - squares[1])
                error = squares[2] * (AT[2] + epsilon) / (squares[0] * (AT[0] + epsilon)) - 1
            fits, dead = (epsilon > LEAST) & (epsilon < MOST) & (np.abs(error) < NEARLY), squares[0] == 0
            if np.all(fits | dead) and not np.all(dead):
                epsilon = np.where(dead, 0, epsilon)
                this = part, np.asarray(value, np.float64).reshape(-1) + np.maximum(epsilon, 0)
                if np.any(epsilon > NONE):
                    return this
                found = found or this
        return found

    def scale_before(self, variance: Known) -> np.ndarray | None:
        """Return what `x` is multiplied by before a mean is taken off and the variance divides; none without a mean.

        Of one array's parts the mean is the one that is taken off as it is, if there is one, else the outermost.
        """
        one, more = (np.full(_thin(variance).shape, at) for at in (AT[0], AT[2]))
        for value in self.values[::-1]:
            means: list[tuple[bool, int, Known]] = []
            for part in value.known.parts() if value.known else ():
                if _thin(part).size != self.channels or part is variance or not self._is_vector(part):
                    continue
                (scale, less), (by, by_less) = zip(
                    *(self.slopes(part, {**self.anywhere, id(variance): at}) for at in (one, more)),
                    strict=True,
                )
                if np.all((by * scale < 0) | (scale == 0)) and _close(by * less, by_less * scale):
                    means.append((not _close(by, -scale), len(means), part))
            if means:
                scale, by = self.slopes(min(means)[2], {**self.nonzero(), id(variance): one})
                with np.errstate(all='ignore'):
                    return np.asarray(-scale / by)
        return None

    def slopes(self, part: Known, numbers: dict[int, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return the scale, and what the shift changes by for each 1 a part goes up; NaN if the scale does, too."""
        scale, shift = self.affine(numbers)
        other, moved = self.affine({**numbers, id(part): np.asarray(part.at(numbers) + 1.0)})
        return scale, np.asarray(np.where(_close(other, scale), moved - shift, np.nan))

    def nonzero(self) -> dict[int, np.ndarray]:
        """Return the numbers there are, ones in place of those zeros that make a scale 0."""
        found: dict[int, np.ndarray] = {}
        for part in self.own:
            value = np.asarray(_thin(part), np.float64)
            other = np.where(value == 0, 1.0, value)
            before, after = (self.affine({**found, id(part): numbers})[0] for numbers in (value, other))
            if np.any((before == 0) & (after != 0)):
                found[id(part)] = other
        return found

    def affine(self, numbers: dict[int, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return scale and shift with some parts, by `id`, other numbers."""
        values = self._numbers(numbers)
        shift = np.asarray(self.expression.at(np.zeros(()), values))
        return np.asarray(self.expression.at(np.ones(()), values) - shift), shift

    def _numbers(self, numbers: dict[int, np.ndarray]) -> dict[int, np.ndarray | None]:
        """Return the numbers of each channel, by `id` of what has them; none of what differs from place to place."""
        return {
            id(part): channels_of(part.known.at(numbers), part.axes) for part in self.values if part.known
        }


def _thin(part: Known) -> np.ndarray:
    """Return the numbers of a part, each once where they repeat along an axis."""
    value = np.asarray(part.value)
    return value[(..., *(slice(None, 1 if step == 0 else None) for step in value.strides))]


def _close(found: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.all(np.abs(found - expected) <= EXACT * np.abs(expected)))
