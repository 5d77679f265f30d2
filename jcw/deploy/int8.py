"""The LiteRT network in whole numbers: int8 weights, one scale for each output channel, and int8 activations.

Images come in as bytes, as everywhere; logits go out as int8, `logit = scale * (stored - zero_point)`, and the file
states both (`jcw.deploy.tflite.ends`). Nothing in between is float.
"""

import contextlib
import io
import warnings
from typing import Any

import numpy as np

from jcw.deploy.litert import interpreter
from jcw.deploy.tflite import ends, from_bytes, make_operator, name_of, schema, to_bytes, whole

PART = 32  # images that are run at once
NARROWEST = 0.01  # of ranges: a dead channel's would have a scale of 0, which no runtime divides by

VERSIONS = {
    'CONV_2D': 3,
    'DEPTHWISE_CONV_2D': 3,
    'FULLY_CONNECTED': 4,
    'MAX_POOL_2D': 2,
    'ADD': 2,
    'MUL': 2,
    'MEAN': 2,
    'RELU': 2,
    'RELU6': 2,
    'LOGISTIC': 2,
    'PAD': 2,
    'MIRROR_PAD': 2,
    'QUANTIZE': 2,
}
"""Of operators, the first that takes int8: an older LiteRT refuses the file instead of misreading it."""


def litert_int8(model: bytes, images: Any) -> bytes:
    """Return a model of `litert_model` in int8, the ranges of activations taken from calibration images.

    A range goes from the least value over all of them to the greatest. Some hundred images of the training set are
    enough; an odd one among them widens ranges.

    Args:
      model: float32, as `litert_model` returned it.
      images: for calibration, uint8 [images height width channels].

    Raises:
      ValueError: ai-edge-quantizer is not installed, the model is not one of ours, or images of another shape or type.
    """
    try:
        from ai_edge_quantizer import quantizer, recipe
    except ImportError:
        raise ValueError(
            'int8 needs the package ai-edge-quantizer: pip install ai-edge-litert ai-edge-quantizer, '
            "or the extra 'litert'"
        ) from None
    interpreter(model, threads=1)  # which checks the file before it is taken apart
    taken, given = ends(model)
    images = np.asarray(images)
    if (taken.dtype, given.dtype) != ('uint8', 'float32'):
        raise ValueError(
            f'need a float32 model of litert_model, uint8 -> float32, got {taken.dtype} -> {given.dtype}'
        )
    if images.dtype != np.uint8 or images.shape[1:] != taken.shape[1:] or not len(images):
        raise ValueError(
            f'calibration needs uint8 images {list(taken.shape[1:])}, got {images.dtype} {list(images.shape)}'
        )
    wide = _without_cast(model)
    with whole(), warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        # The packages' own warnings are not the caller's to mend; large models get a bar whatever is asked for.
        warnings.simplefilter('ignore')
        made = quantizer.Quantizer(wide)
        made.load_quantization_recipe(recipe.static_wi8_ai8())
        ranges = _ranges(wide, images)
        narrow = made.quantize(
            ranges, enable_progress_bar=False, enable_progress_report=False
        ).quantized_model
    return _with_bytes(bytes(narrow))


def _ranges(model: bytes, images: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """Return least and greatest value of every activation, by name; a byte's are 0 and 255, so that it is itself."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_content=model,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    part = from_bytes(model).subgraphs[0]
    outputs = [int(op.outputs[0]) for op in part.operators]
    activations = {name_of(part, number): number for number in outputs}
    ranges = {'images': (0.0, 255.0)}
    for start in range(0, len(images), PART):
        chunk = images[start : start + PART].astype(np.float32)
        interpreter.resize_tensor_input(0, chunk.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(0, chunk)
        interpreter.invoke()
        for name, tensor in activations.items():
            values = interpreter.get_tensor(tensor)
            low, high = ranges.get(name, (np.inf, -np.inf))
            ranges[name] = (min(low, values.min()), max(high, values.max()))
    rank = {name_of(part, number): len(tensor.shape) for number, tensor in enumerate(part.tensors)}
    return {
        name: {
            'min': np.full((1,) * rank[name], low, np.float32),
            'max': np.full((1,) * rank[name], max(high, low + NARROWEST), np.float32),
        }
        for name, (low, high) in ranges.items()
    }


def _without_cast(model: bytes) -> bytes:
    """Return the model without its first operator, so that it takes images as float32."""
    read = from_bytes(model)
    part = read.subgraphs[0]
    first = part.operators.pop(0)
    if read.operatorCodes[first.opcodeIndex].builtinCode != schema().BuiltinOperator.CAST:
        raise ValueError('not a model of litert_model: it does not begin with CAST')
    if not read.signatureDefs:
        raise ValueError('not a model of litert_model: it states no signature')
    part.tensors.pop(0)  # the bytes; the tensors after it move up
    part.tensors[0].name = 'images'
    for op in part.operators:
        op.inputs, op.outputs = [n - 1 for n in op.inputs], [n - 1 for n in op.outputs]
    part.outputs = [n - 1 for n in part.outputs]
    for end in read.signatureDefs[0].outputs:
        end.tensorIndex -= 1
    _part_hard_swish(read)
    return to_bytes(read)


def _part_hard_swish(read: Any) -> None:
    """Write hard-swish as `x * (relu6(x + 3) / 6)`: XNNPACK, LiteRT's fast CPU path, takes it in int8 only so."""
    part, types = read.subgraphs[0], schema()
    codes = [code.builtinCode for code in read.operatorCodes]
    if types.BuiltinOperator.HARD_SWISH not in codes:
        return

    def tensor(name: str, shape: Any, buffer: int = 0) -> int:
        kind = types.TensorType.FLOAT32
        part.tensors.append(types.TensorT(shape=shape, type=kind, buffer=buffer, name=name))
        return len(part.tensors) - 1

    def constant(name: str, value: float) -> int:
        content = np.frombuffer(np.float32(value).tobytes(), np.uint8)
        read.buffers.append(types.BufferT(data=content))
        return tensor(name, [], len(read.buffers) - 1)

    three, sixth = constant('hard_swish/three', 3), constant('hard_swish/sixth', 1 / 6)
    written = []
    for op in part.operators:
        if codes[op.opcodeIndex] != types.BuiltinOperator.HARD_SWISH:
            written.append(op)
            continue
        x, y = int(op.inputs[0]), int(op.outputs[0])
        name, shape = name_of(part, y), part.tensors[y].shape
        shifted, opened = tensor(f'{name}/shifted', shape), tensor(f'{name}/opened', shape)
        relu6 = {'fusedActivationFunction': 'RELU6'}
        written += [
            make_operator(read, 'ADD', [x, three], shifted, relu6),
            make_operator(read, 'MUL', [shifted, sixth], opened, {}),
            make_operator(read, 'MUL', [x, opened], y, {}),
        ]
    part.operators = written


def _with_bytes(model: bytes) -> bytes:
    """Return a quantised model with a first operator that takes bytes: from scale 1 and zero point 0 to -128."""
    read, types = from_bytes(model), schema()
    part = read.subgraphs[0]
    narrow = int(part.inputs[0])
    taken = part.tensors[narrow]
    scale = types.QuantizationParametersT(scale=[1.0], zeroPoint=[0])
    part.tensors.append(
        types.TensorT(
            shape=taken.shape, type=types.TensorType.UINT8, buffer=0, name='images', quantization=scale
        )
    )
    taken.name = 'signed'
    bytes_in = len(part.tensors) - 1
    part.operators.insert(0, make_operator(read, 'QUANTIZE', [bytes_in], narrow, {}))
    _enter(read, bytes_in)
    for code in read.operatorCodes:
        for name, version in VERSIONS.items():
            if code.builtinCode == getattr(types.BuiltinOperator, name):
                code.version = version
    return to_bytes(read)


def _enter(read: Any, tensor: int) -> None:
    """Make a tensor the model's input."""
    read.subgraphs[0].inputs = [tensor]
    (only,) = read.signatureDefs[0].inputs
    only.tensorIndex = tensor
