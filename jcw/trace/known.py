"""Numbers that are known before any image is: variables, constants, and whatever is computed from them alone.

They are computed as they stand, so normalisation may be written in any arithmetic. Beside a number goes what it
divides by, where that is a root: the variance that a normalisation holds, which its product with a scale would hide.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from jcw.trace.elementwise import PLAIN

ROOTS = {'rsqrt', 'sqrt'}
KEEPS = {'broadcast_in_dim', 'reshape', 'squeeze', 'transpose', 'convert_element_type', 'copy'}
SUMS = {'add', 'add_any', 'sub'}
SCALES = {'mul', 'div', 'neg'}


class Known(NamedTuple):
    """A known array.

    Attributes:
      value: the array.
      square: of what it is, or divides by, the root; of the value's shape.
      root: the square that belongs to `taken`.
      taken: what was added to make it, and has a square: the mean's part in a shift, negative.
      negated: whether it is the negative of something: a mean that is added to be taken off.
    """

    value: Any
    square: Any = None
    root: Any = None
    taken: Any = None
    negated: bool = False


def compute(eqn: Any, operands: list[Known]) -> list[Known]:
    """Return the results of an equation whose operands are all known."""
    values = [operand.value for operand in operands]
    results = _apply(eqn, values)
    name = eqn.primitive.name
    square = None
    if name in ROOTS or (name == 'pow' and np.all(np.abs(np.asarray(values[1])) == 0.5)):
        square = values[0]
    elif name in KEEPS and operands[0].square is not None:
        square = _apply(eqn, [operands[0].square])[0]
    elif name in SCALES or (name == 'integer_pow' and eqn.params['y'] == -1):
        squares = [operand.square for operand in operands if operand.square is not None]
        square = squares[0] if len(squares) == 1 else None
    root, taken = _taken(eqn, operands)
    square, root, taken = (
        None if extra is None else np.broadcast_to(np.asarray(extra), np.shape(results[0]))
        for extra in (square, root, taken)
    )
    negated = name == 'neg' or (name in KEEPS and operands[0].negated)
    return [Known(results[0], square, root, taken, negated), *(Known(value) for value in results[1:])]


def _taken(eqn: Any, operands: list[Known]) -> tuple[Any, Any]:
    """Return what of a sum is divided by a root, and the root's square."""
    name = eqn.primitive.name
    if name in KEEPS and operands[0].taken is not None:
        return tuple(_apply(eqn, [extra])[0] for extra in (operands[0].root, operands[0].taken))
    if name not in SUMS:
        return None, None
    signs = (1, -1 if name == 'sub' else 1)
    parts = [(sign, *part_of_root(operand)) for sign, operand in zip(signs, operands, strict=True)]
    found = [(sign, root, part) for sign, root, part in parts if part is not None]
    if len(found) != 1:
        return None, None
    ((sign, root, part),) = found
    return root, sign * np.asarray(part)


def part_of_root(known: Any) -> tuple[Any, Any]:
    """Return the square of the root that a number or a part of it is divided by, and that part."""
    if known.taken is not None:
        return known.root, known.taken
    return (None, None) if known.square is None else (known.square, known.value)


def _apply(eqn: Any, values: list[Any]) -> list[Any]:
    name, made = eqn.primitive.name, eqn.outvars[0].aval
    if not any(isinstance(value, jax.Array) for value in values):
        # NumPy computes at once what JAX would first compile, for every shape anew.
        if name == 'broadcast_in_dim':
            return [_broadcast(np.asarray(values[0]), eqn.params)]
        if name in ('reshape', 'squeeze'):
            return [np.reshape(values[0], made.shape)]
        if name in PLAIN and np.issubdtype(made.dtype, np.floating):
            with np.errstate(all='ignore'):
                return [np.asarray(PLAIN[name](*values), made.dtype)]
    return [_as_numpy(value) for value in bind(eqn, values)]


def bind(eqn: Any, values: list[Any]) -> list[Any]:
    """Run one equation that is no call of a program within it."""
    results = eqn.primitive.bind(*values, **eqn.params)
    return list(results) if eqn.primitive.multiple_results else [results]


def _broadcast(value: np.ndarray, params: dict[str, Any]) -> np.ndarray:
    """Repeat without taking memory: a bias that meets a batch of maps is as small as it was."""
    shape = [1] * len(params['shape'])
    for place, size in zip(params['broadcast_dimensions'], value.shape, strict=True):
        shape[place] = size
    return np.broadcast_to(value.reshape(shape), params['shape'])


def _as_numpy(value: Any) -> Any:
    key = isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended)
    return value if key else np.asarray(value)
