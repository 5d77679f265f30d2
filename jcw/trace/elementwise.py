"""What a primitive does to each number by itself, in float64: by it chains of arithmetic are recognised."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Function = Callable[..., Any]
_erf = np.vectorize(math.erf, otypes=[float])


def _logistic(x: Any) -> Any:
    return 0.5 * (1 + np.tanh(0.5 * x))


PLAIN: dict[str, Function] = {
    'add': np.add,
    'add_any': np.add,
    'sub': np.subtract,
    'mul': np.multiply,
    'div': np.divide,
    'neg': np.negative,
    'max': np.maximum,
    'min': np.minimum,
    'exp': np.exp,
    'exp2': np.exp2,
    'log': np.log,
    'log2': np.log2,
    'log1p': np.log1p,
    'expm1': np.expm1,
    'tanh': np.tanh,
    'logistic': _logistic,
    'abs': np.abs,
    'sign': np.sign,
    'sqrt': np.sqrt,
    'rsqrt': lambda x: 1 / np.sqrt(x),
    'square': np.square,
    'pow': np.power,
    'erf': _erf,
    'erfc': lambda x: 1 - _erf(x),
    'gt': np.greater,
    'lt': np.less,
    'ge': np.greater_equal,
    'le': np.less_equal,
    'eq': np.equal,
    'ne': np.not_equal,
    'and': np.logical_and,
    'or': np.logical_or,
    'not': np.logical_not,
    'clamp': lambda low, x, high: np.minimum(np.maximum(x, low), high),
    'select_n': lambda which, *cases: np.choose(np.asarray(which, int), cases),
}
SAME = {
    'copy',
    'copy_p',
    'convert_element_type',
    'stop_gradient',
    'reduce_precision',
    'name',
    'sharding_constraint',
}
"""Primitives that leave numbers as they are, but for rounding."""


def function_of(name: str, params: dict[str, Any]) -> Function | None:
    """Return what a primitive does to each number; none where it does more than that."""
    if name == 'integer_pow':
        return lambda x: np.power(x, float(params['y']))
    return PLAIN.get(name)


def _relu(x: Any) -> Any:
    return np.maximum(x, 0)


def _relu6(x: Any) -> Any:
    return np.minimum(np.maximum(x, 0), 6)


RECOGNISED: dict[str, Function] = {
    'relu': _relu,
    'relu6': _relu6,
    'hard_sigmoid': lambda x: _relu6(x + 3) / 6,
    'hard_swish': lambda x: x * _relu6(x + 3) / 6,
    'sigmoid': _logistic,
    'swish': lambda x: x * _logistic(x),
}
"""Activations of operations, and what gates multiply by."""


def _selu(x: Any) -> Any:
    return 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0)))


REFUSED: dict[str, Function] = {
    'GELU': lambda x: x * (1 + _erf(x / np.sqrt(2))) / 2,
    'GELU (its approximation)': lambda x: x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2,
    'ELU': lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    'SELU': _selu,
    'Mish': lambda x: x * np.tanh(np.logaddexp(x, 0)),
    'softplus': lambda x: np.logaddexp(x, 0),
    'tanh': np.tanh,
    'hard tanh': lambda x: np.clip(x, -1, 1),
    "a square, as of instance normalisation's moments, which are of each image and not of the training": np.square,
    **{
        f'leaky ReLU of slope {a:g}': lambda x, a=a: np.where(x > 0, x, a * x)
        for a in (0.01, 0.1, 0.2, 0.25, 0.3)
    },
}
"""Activations that a graph does not have, for the message that says so."""
