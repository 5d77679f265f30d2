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
    _refuse_unknown(weights)
    return {name: _pack(part, weights) for name, part in folded.items()}


def _refuse_unknown(weights: str) -> None:
    if weights not in FORMATS:
        raise ValueError(f'weights are stored as one of {FORMATS}, got {weights!r}')


def _pack(part: dict[str, Any], weights: str) -> dict[str, Any]:
    packed = dict(part)
    for name, leaf in part.items():
        if not name.endswith('kernel') or weights == 'float32':
            continue
        kernel = np.asarray(leaf, np.float32)
        if weights == 'bfloat16':
            packed[name] = kernel.astype(jnp.bfloat16)
            continue
        scale = np.abs(kernel).max(tuple(range(kernel.ndim - 1))) / 127
        packed[name] = np.rint(kernel / np.where(scale > 0, scale, 1)).astype(np.int8)
        packed[f'{name}_scale'] = scale.astype(np.float32)
    return packed


def packed(shapes: Folded, weights: str) -> Folded:
    """Return the shapes and types that `pack` makes of weights, from theirs.

    Raises:
      ValueError: an unknown format.
    """
    _refuse_unknown(weights)
    return {name: _packed(part, weights) for name, part in shapes.items()}


def _packed(part: dict[str, Any], weights: str) -> dict[str, Any]:
    shapes = dict(part)
    for name, leaf in part.items():
        if name.endswith('kernel') and weights != 'float32':
            shapes[name] = jax.ShapeDtypeStruct(leaf.shape, weights)
            if weights == 'int8':
                shapes[f'{name}_scale'] = jax.ShapeDtypeStruct(leaf.shape[-1:], np.float32)
    return shapes


def unpack(stored: Folded) -> Folded:
    """Widen stored weights to float32; works on arrays of NumPy and of JAX."""
    return {name: _unpack(part) for name, part in stored.items()}


def _unpack(part: dict[str, Any]) -> dict[str, Any]:
    widened = {}
    for name, leaf in part.items():
        if name.endswith('kernel'):
            scale = part.get(f'{name}_scale')
            widened[name] = leaf.astype(np.float32) * (1 if scale is None else scale)
        elif not name.endswith('kernel_scale'):
            widened[name] = leaf
    return widened
