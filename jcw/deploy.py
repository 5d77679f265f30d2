"""The network that ships: sliced, normalisation folded into convolutions, bytes in and logits out.

A folder holds it: `weights/` (an orbax checkpoint of nested dictionaries), `network.json` (what it is, readable by
any program) and `network.stablehlo` (the whole function, for any batch size on CPU, CUDA and TPU).
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import Array, Float, UInt8

from jcw.nets import kernels
from jcw.nets.masking import EPSILON
from jcw.nets.mobilenet import Variables, layer_name, network
from jcw.nets.slicing import slice_variables
from jcw.space import SearchSpace

FORMAT = 1

Folded = dict[str, Any]
"""Nested dictionaries of a deployed network's arrays: `input`, `layer_00` ..., `head`."""


def fold(variables: Variables, space: SearchSpace, mean: Sequence[float], std: Sequence[float]) -> Folded:
    """Fold the normalisation of a standalone network's layers into its kernels, that of images into one scale."""
    params, stats = variables['params'], variables['batch_stats']
    folded: Folded = {
        'input': {
            'scale': 1 / (255 * np.asarray(std, np.float32)),
            'bias': -np.asarray(mean, np.float32) / np.asarray(std, np.float32),
        }
    }
    for index, spec in enumerate(space.layers):
        name = layer_name(index)
        if spec.kind == 'conv':
            folded[name] = _fold(params[name]['kernel'], params[name]['norm'], stats[name]['norm'])
        else:
            folded[name] = {
                part: _fold(params[name][part], params[name][f'{part}_norm'], stats[name][f'{part}_norm'])
                for part in ('depthwise', 'pointwise')
            }
    folded['head'] = dict(params['head'])
    return folded


def _fold(kernel: jax.Array, norm: dict[str, jax.Array], stats: dict[str, jax.Array]) -> dict[str, jax.Array]:
    factor = norm['scale'] / jnp.sqrt(stats['variance'] + EPSILON)
    return {'kernel': kernel * factor, 'bias': norm['bias'] - stats['mean'] * factor}


def forward(
    folded: Folded,
    images: UInt8[Array, 'batch height width channels'],
    strides: Sequence[int],
    *,
    dtype: Any = jnp.float32,
    implementation: kernels.Implementation = 'auto',
) -> Float[Array, 'batch classes']:
    """Return the logits of images as bytes."""
    x = (images.astype(jnp.float32) * folded['input']['scale'] + folded['input']['bias']).astype(dtype)
    for index, stride in enumerate(strides):
        layer = jax.tree.map(lambda leaf: leaf.astype(dtype), folded[layer_name(index)])
        if 'kernel' in layer:
            x = jax.nn.relu(kernels.dense(x, layer['kernel'], stride, implementation) + layer['bias'])
        else:
            deep, point = layer['depthwise'], layer['pointwise']
            x = jax.nn.relu(kernels.depthwise(x, deep['kernel'], stride, implementation) + deep['bias'])
            x = jax.nn.relu(kernels.pointwise(x, point['kernel'], implementation) + point['bias'])
    return x.mean((1, 2), dtype=jnp.float32) @ folded['head']['kernel'] + folded['head']['bias']


def build(
    space: SearchSpace, widths: Sequence[int], batch: int, dtype: Any = jnp.float32
) -> tuple[Callable[[Folded, Any], jax.Array], tuple[Folded, Any]]:
    """Return the deployed function of a configuration and arguments of no meaning: what a runtime times."""
    unnamed = ([0.5] * space.input_shape[2],) * 2
    strides = tuple(layer.stride for layer in space.layers)

    def function(folded: Folded, images: jax.Array) -> jax.Array:
        return forward(folded, images, strides, dtype=dtype)

    def variables() -> Folded:
        return fold(network(space, widths).init(jax.random.key(0)), space, *unnamed)

    folded = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.01, leaf.dtype), jax.eval_shape(variables))
    return function, (folded, np.full((batch, *space.input_shape), 128, np.uint8))


def export(
    folder: str | Path,
    variables: Variables,
    space: SearchSpace,
    widths: Sequence[int],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    class_names: Sequence[str] = (),
    details: Mapping[str, Any] | None = None,
) -> Path:
    """Write the deployable folder, all or nothing.

    Args:
      folder: to be made, or replaced.
      variables: of the supernet or of a network of exactly these widths.
      space: layers, input shape and number of classes.
      widths: one per layer.
      mean: of each input channel, in [0, 1].
      std: likewise.
      class_names: of the logits, for `network.json`.
      details: further JSON values for `network.json`: latency, accuracy, device.
    """
    folder = Path(folder).resolve()
    folded = jax.device_get(fold(slice_variables(variables, space, widths), space, mean, std))
    partial = folder.with_name(folder.name + '.partial')
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(partial / 'weights', folded)
    (partial / 'network.stablehlo').write_bytes(_stablehlo(folded, space))
    description = {
        'format': FORMAT,
        'widths': [int(w) for w in widths],
        'space': space.to_json(),
        'mean': list(mean),
        'std': list(std),
        'class_names': list(class_names),
        'versions': {'jax': jax.__version__, 'orbax': ocp.__version__},
        **(details or {}),
    }
    (partial / 'network.json').write_text(json.dumps(description, indent=1))
    old = folder.with_name(folder.name + '.old')
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(partial, folder)
    shutil.rmtree(old, ignore_errors=True)
    return folder


def _stablehlo(folded: Folded, space: SearchSpace) -> bytes:
    from jax import export as jax_export

    strides = tuple(layer.stride for layer in space.layers)
    (batch,) = jax_export.symbolic_shape('batch')
    images = jax.ShapeDtypeStruct((batch, *space.input_shape), jnp.uint8)
    function = jax.jit(lambda images: forward(folded, images, strides))
    return bytes(jax_export.export(function, platforms=('cpu', 'cuda', 'tpu'))(images).serialize())


class Deployed(NamedTuple):
    """A network read back from its folder."""

    logits: Callable[[Any], jax.Array]  # uint8 [batch height width channels] -> float32 [batch classes]
    description: dict[str, Any]


def load(folder: str | Path) -> Deployed:
    """Read a folder that `export` wrote.

    Raises:
      ValueError: a file is missing, or the format is newer than this library.
    """
    folder = Path(folder).resolve()
    for name in ('network.json', 'weights'):
        if not (folder / name).exists():
            raise ValueError(f'{folder} is not a deployed network: it has no {name}')
    description = json.loads((folder / 'network.json').read_text())
    if description['format'] != FORMAT:
        raise ValueError(f'{folder} has format {description["format"]}; this library reads {FORMAT}')
    space = SearchSpace.from_json(description['space'])
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.metadata(folder / 'weights').item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        folded = checkpointer.restore(folder / 'weights', restore_args=as_numpy)
    strides = tuple(layer.stride for layer in space.layers)
    compiled = jax.jit(lambda folded, images: forward(folded, images, strides))

    def logits(images: Any) -> jax.Array:
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[1:] != space.input_shape or images.dtype != np.uint8:
            raise ValueError(
                f'expected uint8 images [batch {" ".join(map(str, space.input_shape))}], '
                f'got {images.dtype} {images.shape}'
            )
        return compiled(folded, images)

    return Deployed(logits, description)
