"""Numbers that are known before any image is: variables, constants, and whatever is computed from them alone.

They are computed as they stand, so normalisation may be written in any arithmetic. Each remembers what it was computed
from, so that `moments` can tell what it would be with other variables.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jcw.trace.elementwise import PLAIN, SAME, function_of

MOVES = {
    'broadcast_in_dim',
    'reshape',
    'squeeze',
    'expand_dims',
    'transpose',
    'concatenate',
    'stack',
    'slice',
}
PICKS = {'dynamic_slice', 'gather', 'split', 'unstack'}
"""Primitives whose results are as good as variables of their own: the rows of stacked ones."""


@dataclasses.dataclass(eq=False)
class Known:
    """A known array.

    Attributes:
      value: the array.
      eqn: the arithmetic that it was computed by; none of a variable, and of what more than arithmetic made.
      operands: of that.
      mixes: whether there is more than arithmetic in it: a sum over an axis, a product of matrices.
    """

    value: Any
    eqn: Any = None
    operands: 'tuple[Known, ...]' = ()
    mixes: bool = False

    def parts(self) -> 'list[Known]':
        """Return itself and what it is computed from, each once, outer ones first."""
        return inner_first(self, lambda part: part.operands)[::-1]

    def at(self, numbers: Mapping[int, np.ndarray]) -> np.ndarray:
        """Return what it is where some of its parts, by `id`, are other numbers; repeated axes have length 1."""
        found: dict[int, np.ndarray] = {}
        for part in reversed(self.parts()):
            if id(part) in numbers:
                found[id(part)] = numbers[id(part)]
            elif part.eqn is None:
                found[id(part)] = np.asarray(part.value)
            else:
                found[id(part)] = _again(part.eqn, [found[id(operand)] for operand in part.operands])
        return found[id(self)]


def inner_first(whole: Any, of: Callable[[Any], Sequence[Any]]) -> list[Any]:
    """Return a whole and all that it is made of, each once, after what it is made of itself."""
    found: dict[int, Any] = {}
    stack = [(whole, False)]
    while stack:
        part, made = stack.pop()
        if made:
            found.setdefault(id(part), part)
        elif id(part) not in found:
            stack += [(part, True), *((inner, False) for inner in reversed(of(part)))]
    return list(found.values())


def compute(eqn: Any, operands: list[Known]) -> list[Known]:
    """Return the results of an equation whose operands are all known."""
    results, name = _apply(eqn, [operand.value for operand in operands]), eqn.primitive.name
    mixes = any(operand.mixes for operand in operands)
    if name in PICKS:
        return [Known(value, mixes=mixes) for value in results]
    if name in MOVES or name in SAME or function_of(name, eqn.params) is not None:
        return [Known(value, eqn, tuple(operands), mixes) for value in results]
    return [Known(value, mixes=True) for value in results]


def _again(eqn: Any, values: list[np.ndarray]) -> np.ndarray:
    """Compute a part anew in float64, without repeating what repeats."""
    name, params = eqn.primitive.name, eqn.params
    if name == 'transpose':
        return np.transpose(values[0], params['permutation'])
    if name == 'broadcast_in_dim':
        shape = [1] * len(params['shape'])
        for place, size in zip(params['broadcast_dimensions'], values[0].shape, strict=True):
            shape[place] = size
        return values[0].reshape(shape)
    if name in MOVES:
        whole = [np.broadcast_to(v, atom.aval.shape) for v, atom in zip(values, eqn.invars, strict=True)]
        if name == 'concatenate':
            return np.concatenate(whole, params['dimension'])
        if name == 'stack':
            return np.stack(whole, params['axis'])
        if name == 'slice':
            starts, limits, steps = (params[key] for key in ('start_indices', 'limit_indices', 'strides'))
            return whole[0][tuple(map(slice, starts, limits, steps or (None,) * len(starts)))]
        return whole[0].reshape(eqn.outvars[0].aval.shape)
    function = function_of(name, params)
    if function is None:
        return values[0]
    with np.errstate(all='ignore'):
        return np.asarray(function(*values))


def _apply(eqn: Any, values: list[Any]) -> list[Any]:
    name, made = eqn.primitive.name, eqn.outvars[0].aval
    if not any(isinstance(value, jax.Array) for value in values):
        # NumPy computes at once what JAX would first compile, for every shape anew.
        if name == 'broadcast_in_dim':
            return [np.broadcast_to(_again(eqn, [np.asarray(values[0])]), made.shape)]  # takes no memory
        if name in ('reshape', 'squeeze'):
            return [np.reshape(values[0], made.shape)]
        if name in PLAIN and np.issubdtype(made.dtype, np.floating):
            with np.errstate(all='ignore'):
                return [np.asarray(PLAIN[name](*values), made.dtype)]
    with jax.ensure_compile_time_eval():  # the program may be run as part of another
        return [_as_numpy(value) for value in bind(eqn, values)]


def bind(eqn: Any, values: list[Any]) -> list[Any]:
    """Run one equation that is no call of a program within it."""
    results = eqn.primitive.bind(*values, **eqn.params)
    return list(results) if eqn.primitive.multiple_results else [results]


def _as_numpy(value: Any) -> Any:
    key = isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended)
    return value if key else np.asarray(value)
