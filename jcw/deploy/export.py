"""Write the folder of a deployed network."""

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax import export as jax_export

import jcw
from jcw.deploy import folder as files
from jcw.deploy.fold import Folded, fold
from jcw.deploy.inference import forward
from jcw.deploy.int8 import litert_int8
from jcw.deploy.litert import litert_model
from jcw.deploy.onnx import onnx_model
from jcw.deploy.storage import pack, unpack
from jcw.deploy.tflite import ends
from jcw.graph import Graph
from jcw.nets.axes import Variables, slice_variables

PLATFORMS = ('cpu', 'cuda', 'tpu')


def export(
    folder: str | Path,
    variables: Variables,
    graph: Graph,
    widths: Sequence[int] | np.ndarray,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    class_names: Sequence[str] = (),
    details: Mapping[str, Any] | None = None,
    weights: str = 'float32',
    onnx: bool = False,
    litert: int = 0,
    calibration: np.ndarray | None = None,
    accuracy_of: Callable[[bytes], float] | None = None,
) -> Path:
    """Write the deployable folder, all or nothing: a previous one stays until the new one is complete.

    Args:
      folder: to be made, or replaced; what lies in it is told in `jcw.deploy.folder`.
      variables: of the supernet, its statistics recalibrated, or of a network of exactly these widths.
      graph: of the network.
      widths: one per site.
      mean: of each input channel, in [0, 1].
      std: likewise.
      class_names: of the logits, for `network.json`.
      details: further JSON values for `network.json`, such as `accuracy` and `latency` (predicted and measured,
        device).
      weights: 'float32', 'bfloat16' or 'int8', in which kernels are stored.
      onnx: also write `network.onnx`; needs the extra `onnx`.
      litert: also write `network.tflite`, for batches of this size; needs the extra `litert`, the next one, too.
      calibration: also write `network.int8.tflite`, the ranges of activations taken from these images of the training
        set, uint8 [images height width channels].
      accuracy_of: of a LiteRT file, called for each that is written; `network.json` states it with types and scales.

    Raises:
      ValueError: widths, names or weights that do not fit, numbers that are not finite, or details that are not JSON
        or would replace what the export itself states.
    """
    folder = Path(folder).resolve()
    if class_names and len(class_names) != graph.num_classes:
        raise ValueError(f'{len(class_names)} class names for {graph.num_classes} classes')
    fixed = graph.fixed(widths)
    stored = pack(fold(slice_variables(variables, graph, widths), fixed, mean, std), weights)
    if not all(np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in jax.tree.leaves(stored)):
        raise ValueError('the variables hold numbers that are not finite')
    if calibration is not None and not litert:
        raise ValueError('calibration is for the int8 form of LiteRT: give litert, its batch size, too')
    lite = _litert(graph, widths, unpack(stored), litert, calibration) if litert else {}
    about = {name: _about(model, accuracy_of) for name, model in lite.items()}
    description = _describe(graph, widths, mean, std, class_names, weights, about, dict(details or {}))

    def write(partial: Path) -> None:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(partial / files.WEIGHTS, stored)
        (partial / files.STABLEHLO).write_bytes(stablehlo(stored, fixed))
        if onnx:
            (partial / files.ONNX).write_bytes(onnx_model(graph, widths, unpack(stored)))
        for name, model in lite.items():
            (partial / name).write_bytes(model)
        files.write_description(partial, description)

    files.replace(folder, write)
    return folder


def stablehlo(stored: Folded, graph: Graph) -> bytes:
    """Serialise the whole function, weights included, for any batch size and the platforms of `PLATFORMS`."""
    (batch,) = jax_export.symbolic_shape('batch')
    images = jax.ShapeDtypeStruct((batch, *graph.input_shape), np.uint8)

    def network(images: jax.Array) -> jax.Array:
        return forward(unpack(jax.tree.map(jax.numpy.asarray, stored)), images, graph)

    return bytes(jax_export.export(jax.jit(network), platforms=PLATFORMS)(images).serialize())


def _litert(
    graph: Graph,
    widths: Sequence[int] | np.ndarray,
    folded: Folded,
    batch: int,
    calibration: np.ndarray | None,
) -> dict[str, bytes]:
    model = litert_model(graph, widths, folded, batch)
    narrow = {} if calibration is None else {files.LITERT_INT8: litert_int8(model, calibration)}
    return {files.LITERT: model, **narrow}


def _about(model: bytes, accuracy_of: Callable[[bytes], float] | None) -> dict[str, Any]:
    """Describe a LiteRT file: `real = scale * (stored - zero_point)` where its numbers are whole."""
    taken, given = (end._asdict() for end in ends(model))
    return {'input': taken, 'output': given, 'accuracy': None if accuracy_of is None else accuracy_of(model)}


def _describe(
    graph: Graph,
    widths: Sequence[int] | np.ndarray,
    mean: Sequence[float],
    std: Sequence[float],
    class_names: Sequence[str],
    weights: str,
    litert: dict[str, Any],
    details: dict[str, Any],
) -> dict[str, Any]:
    stated = {
        'format': files.FORMAT,
        'architecture': files.ARCHITECTURE,
        'graph': graph.to_json(),
        'widths': [int(w) for w in widths],
        'input_shape': list(graph.input_shape),
        'input_dtype': 'uint8',
        'mean': [float(m) for m in mean],
        'std': [float(s) for s in std],
        'class_names': [str(name) for name in class_names],
        'weights': weights,
        'litert': litert,
        'versions': {
            'jcw': jcw.__version__,
            'jax': jax.__version__,
            'orbax': ocp.__version__,
            'python': platform.python_version(),
        },
    }
    clash = sorted(set(details) & {*stated, 'checksums'})
    if clash:
        raise ValueError(f'details may not replace {", ".join(clash)}')
    description = {'accuracy': None, 'latency': None, **details, **stated}
    try:
        json.dumps(description, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f'details are not JSON: {error}') from None
    return description
