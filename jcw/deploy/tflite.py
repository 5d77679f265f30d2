"""LiteRT's file format, a FlatBuffer: written tensor by tensor, and read back as objects.

Only `schema_py_generated` of the package ai-edge-litert is needed, which is the published schema.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import flatbuffers
import numpy as np

SIGNATURE = 'serving_default'
ALIGNMENT = 16  # of every constant, in bytes, as the schema asks for
TYPES: dict[str, str] = {'float32': 'FLOAT32', 'int32': 'INT32', 'uint8': 'UINT8', 'int8': 'INT8'}
OPTIONS: dict[str, str] = {
    'CONV_2D': 'Conv2DOptions',
    'DEPTHWISE_CONV_2D': 'DepthwiseConv2DOptions',
    'FULLY_CONNECTED': 'FullyConnectedOptions',
    'MAX_POOL_2D': 'Pool2DOptions',
    'ADD': 'AddOptions',
    'MUL': 'MulOptions',
    'MEAN': 'ReducerOptions',
    'CAST': 'CastOptions',
    'HARD_SWISH': 'HardSwishOptions',
    'QUANTIZE': 'QuantizeOptions',
    'PAD': 'PadOptions',
    'MIRROR_PAD': 'MirrorPadOptions',
}
"""Of operators that have any."""


class Tensor(NamedTuple):
    """What is known of an input or output; `real = scale * (stored - zero_point)` where there is a scale."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    scale: float | None
    zero_point: int | None


def schema() -> Any:
    """Return the schema's classes.

    Raises:
      ValueError: ai-edge-litert is not installed.
    """
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError:
        raise ValueError(
            'LiteRT needs the package ai-edge-litert: pip install ai-edge-litert ai-edge-quantizer, '
            "or the extra 'litert'"
        ) from None
    return schema_py_generated


class Writer:
    """A model being written: one input, which is tensor 0, and operators in order."""

    def __init__(self, name: str, shape: Sequence[int], dtype: Any) -> None:
        self._schema = schema()
        self._model = self._schema.ModelT(version=3, description='jcw', operatorCodes=[], subgraphs=[])
        self._model.buffers = [self._schema.BufferT()]  # the first is that of tensors without content
        self._part = self._schema.SubGraphT(tensors=[], inputs=[0], operators=[], name='main')
        self._constants: dict[str, int] = {}
        self._add(name, shape, np.dtype(dtype).name)

    def shape(self, tensor: int) -> tuple[int, ...]:
        return tuple(int(size) for size in self._part.tensors[tensor].shape)

    def constant(self, name: str, value: np.ndarray) -> int:
        """Add a constant, once for each name."""
        if name not in self._constants:
            self._model.buffers.append(self._schema.BufferT(data=np.frombuffer(value.tobytes(), np.uint8)))
            number = self._add(name, value.shape, value.dtype.name, len(self._model.buffers) - 1)
            self._constants[name] = number
        return self._constants[name]

    def append(self, operator: str, inputs: Sequence[int], shape: Sequence[int], **options: Any) -> int:
        """Append an operator and return its result, float32; values of options are numbers or the schema's words."""
        number = self._add(f'{operator.lower()}_{len(self._part.operators)}', shape, 'float32')
        self._part.operators.append(self._operator(operator, inputs, number, options))
        return number

    def finish(self, output: int, name: str) -> bytes:
        """Name the output and return the file."""
        self._part.tensors[output].name = name
        self._part.outputs = [output]
        self._model.subgraphs = [self._part]
        ends = [
            [self._schema.TensorMapT(name=self._part.tensors[end].name, tensorIndex=end)]
            for end in (0, output)
        ]
        self._model.signatureDefs = [self._schema.SignatureDefT(*ends, SIGNATURE, 0)]
        return to_bytes(self._model)

    def _operator(self, operator: str, inputs: Sequence[int], output: int, options: dict[str, Any]) -> Any:
        return make_operator(self._model, operator, inputs, output, options)

    def _add(self, name: str, shape: Sequence[int], dtype: str, buffer: int = 0) -> int:
        kind = getattr(self._schema.TensorType, TYPES[dtype])
        self._part.tensors.append(
            self._schema.TensorT(shape=list(shape), type=kind, buffer=buffer, name=name)
        )
        return len(self._part.tensors) - 1


def make_operator(
    model: Any, operator: str, inputs: Sequence[int], output: int, options: dict[str, Any]
) -> Any:
    """Return an operator's object, its code being entered in the model's list of codes."""
    types = schema()
    code = getattr(types.BuiltinOperator, operator)
    known = [held.builtinCode for held in model.operatorCodes]
    if code not in known:
        known.append(code)
        old = min(code, 127)  # where files of 2020 and before had it, in a byte
        model.operatorCodes.append(types.OperatorCodeT(builtinCode=code, deprecatedBuiltinCode=old))
    made = types.OperatorT(opcodeIndex=known.index(code), inputs=list(inputs), outputs=[output])
    kind = OPTIONS.get(operator)
    if kind is not None:
        made.builtinOptionsType = getattr(types.BuiltinOptions, kind)
        made.builtinOptions = getattr(types, f'{kind}T')()
        for name, value in options.items():
            setattr(made.builtinOptions, name, _number(types, name, value))
    return made


def _number(types: Any, option: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    words = {'padding': types.Padding, 'mode': types.MirrorPadMode}.get(option, types.ActivationFunctionType)
    return getattr(types.TensorType if option.endswith('DataType') else words, value)


def to_bytes(model: Any) -> bytes:
    """Return the file of a model's objects, every constant aligned."""
    types = schema()
    model.buffers = [_aligned(types, buffer.data) for buffer in model.buffers]
    content = sum(0 if buffer.data is None else len(buffer.data) for buffer in model.buffers)
    builder = flatbuffers.Builder(content + (1 << 16))
    builder.Finish(model.Pack(builder), b'TFL3')
    return bytes(builder.Output())


def _aligned(types: Any, data: np.ndarray | None) -> Any:
    class Aligned(types.BufferT):
        def Pack(self, builder: flatbuffers.Builder) -> int:
            content = None
            if self.data is not None and len(self.data):
                builder.Prep(ALIGNMENT, len(self.data))
                content = builder.CreateByteVector(self.data.tobytes())
            types.BufferStart(builder)
            if content is not None:
                types.BufferAddData(builder, content)
            return int(types.BufferEnd(builder))

    return Aligned(data)


def from_bytes(model: bytes) -> Any:
    """Return a model's objects.

    Raises:
      ValueError: it is no LiteRT model, or damaged.
    """
    types = schema()
    if bytes(model[4:8]) != b'TFL3':
        raise ValueError('not a LiteRT model: it does not begin as one')
    with whole():
        read = types.ModelT.InitFromPackedBuf(bytearray(model))
        for buffer in read.buffers:
            if buffer.offset > 1:  # of a large model: the content lies behind the FlatBuffer
                buffer.data = np.frombuffer(model, np.uint8, buffer.size, buffer.offset)
                buffer.offset = buffer.size = 0
    return read


@contextmanager
def whole() -> Iterator[None]:
    """Say that a model is damaged where what it states leads nowhere; the reader of FlatBuffers follows it blindly."""
    try:
        yield
    except Exception as error:
        raise ValueError(f'a damaged LiteRT model: {type(error).__name__}: {error}') from error


def operators(model: bytes) -> Counter[str]:
    """Count the operators of a model by name.

    Raises:
      ValueError: it is no LiteRT model, or damaged.
    """
    read, types = from_bytes(model), schema()
    names = {value: name for name, value in vars(types.BuiltinOperator).items() if not name.startswith('_')}
    with whole():
        codes = [names[code.builtinCode] for code in read.operatorCodes]
        return Counter(codes[op.opcodeIndex] for op in read.subgraphs[0].operators)


def ends(model: bytes) -> tuple[Tensor, Tensor]:
    """Return the types, shapes and scales of a model's input and output.

    Raises:
      ValueError: it is no LiteRT model, or damaged.
    """
    read, types = from_bytes(model), schema()
    names = {getattr(types.TensorType, name): dtype for dtype, name in TYPES.items()}

    def described(part: Any, number: int) -> Tensor:
        tensor, scale, zero = part.tensors[number], None, None
        held = tensor.quantization
        if held is not None and held.scale is not None and len(held.scale):
            scale, zero = float(held.scale[0]), int(held.zeroPoint[0])
        return Tensor(
            name_of(part, number), names[tensor.type], tuple(int(n) for n in tensor.shape), scale, zero
        )

    with whole():
        part = read.subgraphs[0]
        return described(part, int(part.inputs[0])), described(part, int(part.outputs[0]))


def name_of(part: Any, tensor: int) -> str:
    """Return a tensor's name, which is bytes where it was read."""
    name = part.tensors[tensor].name
    return str(name.decode() if isinstance(name, bytes) else name)
