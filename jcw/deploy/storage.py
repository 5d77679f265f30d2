"""How weights are stored: in float32, in bfloat16, or in int8 with one scale for each output channel.

What is stored narrow is widened once, when a network is loaded: files shrink, the speed stays.
"""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jcw.deploy.fold import Folded

Format = Literal['float32', 'bfloat16', 'int8']
FORMATS: tuple[str, ...] = get_args(Format)


def pack(folded: Folded, weights: str = 'float32') -> Folded:
    """Round kernels to a stored format; biases and the scale of images stay float32.

    In int8 a kernel is `kernel * scale`, `scale = max |kernel| / 127` over each output channel.

    Raises:
      ValueError: an unknown format.
    """
    if weights not in FORMATS:
        raise ValueError(f'weights are stored as one of {FORMATS}, got {weights!r}')
    return {name: _pack(part, weights) for name, part in folded.items()}


def _pack(part: dict[str, Any], weights: str) -> dict[str, Any]:
    if 'depthwise' in part:
        return {name: _pack(inner, weights) for name, inner in part.items()}
    if 'kernel' not in part or weights == 'float32':
        return dict(part)
    kernel = np.asarray(part['kernel'], np.float32)
    if weights == 'bfloat16':
        return {**part, 'kernel': kernel.astype(jnp.bfloat16)}
    scale = np.abs(kernel).max(tuple(range(kernel.ndim - 1))) / 127
    steps = kernel / np.where(scale > 0, scale, 1)
    return {**part, 'kernel': np.rint(steps).astype(np.int8), 'scale': scale.astype(np.float32)}


def packed(shapes: Folded, weights: str) -> Folded:
    """Return the shapes and types that `pack` makes of weights, from theirs.

    Raises:
      ValueError: an unknown format.
    """
    if weights not in FORMATS:
        raise ValueError(f'weights are stored as one of {FORMATS}, got {weights!r}')
    return {name: _packed(part, weights) for name, part in shapes.items()}


def _packed(part: dict[str, Any], weights: str) -> dict[str, Any]:
    if 'depthwise' in part:
        return {name: _packed(inner, weights) for name, inner in part.items()}
    if 'kernel' not in part or weights == 'float32':
        return dict(part)
    kernel = part['kernel']
    narrow = jax.ShapeDtypeStruct(kernel.shape, weights)
    if weights == 'bfloat16':
        return {**part, 'kernel': narrow}
    return {**part, 'kernel': narrow, 'scale': jax.ShapeDtypeStruct(kernel.shape[-1:], np.float32)}


def unpack(stored: Folded) -> Folded:
    """Widen stored weights to float32; works on arrays of NumPy and of JAX."""
    return {name: part if name == 'input' else _unpack(part) for name, part in stored.items()}


def _unpack(part: dict[str, Any]) -> dict[str, Any]:
    if 'depthwise' in part:
        return {name: _unpack(inner) for name, inner in part.items()}
    kernel = part['kernel'].astype(np.float32)
    return {'kernel': kernel * part['scale'] if 'scale' in part else kernel, 'bias': part['bias']}
