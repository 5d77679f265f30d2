"""The deployed network in LiteRT, the format of phones and boards (.tflite): one native operator for each operation.

Arrays are NHWC there as here, and its 'SAME' pads as ours, so nothing is transposed. Biases, ReLU and ReLU6 are part of
the operator before them. What LiteRT has no operator for:

padding unless 'SAME'     PAD, before a pool MIRROR_PAD
normalisation of images   CAST and a 1x1 DEPTHWISE_CONV_2D
gate                      MEAN, two 1x1 CONV_2D, the second with `+ 3` in its bias and ReLU6, MUL by 1/6, MUL;
                          one that a sigmoid opens: LOGISTIC in place of ReLU6
swish                     LOGISTIC, MUL

The file is written from the graph itself, operation by operation, as the ONNX form is.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from jcw.deploy.fold import Folded, random
from jcw.deploy.tflite import Writer, ends, schema
from jcw.graph import Graph, Operation
from jcw.windows import Pads


def litert_model(
    graph: Graph, widths: Sequence[int] | np.ndarray, folded: Folded | None = None, batch: int = 1
) -> bytes:
    """Return a LiteRT model: `images` uint8 [batch height width channels] -> `logits` float32 [batch classes].

    Args:
      graph: of the network.
      widths: one per site.
      folded: the weights; by default random ones, for timing.
      batch: the batch size, which is part of the file.

    Raises:
      ValueError: ai-edge-litert is not installed, or the batch is not positive.
    """
    if batch < 1:
        raise ValueError(f'batch must be positive, got {batch}: a LiteRT file has one batch size')
    fixed = graph.fixed(widths)
    model = _Model(fixed, random(fixed) if folded is None else folded, batch)
    values = [model.normalised()]
    for place, op in enumerate(fixed.operations[1:], 1):
        values.append(FORMS[op.kind](model, place, op, *(values[read] for read in op.reads)))
    return model.writer.finish(values[-1], 'logits')


def litert_logits(model: bytes, images: Any, threads: int = 1) -> Float[np.ndarray, 'images classes']:
    """Run a LiteRT model on this machine's CPU, whole numbers brought back to logits.

    Args:
      model: a file of `litert_model` or `litert_int8`.
      images: uint8 [images height width channels], any number; they go in batches of the model's size, the last one
        filled up.
      threads: at most.

    Raises:
      ValueError: ai-edge-litert is not installed, or images of another shape or type.
    """
    run = interpreter(model, threads)
    taken, given = ends(model)
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.shape[1:] != taken.shape[1:]:
        raise ValueError(
            f'expected uint8 images {list(taken.shape[1:])}, got {images.dtype} {list(images.shape)}'
        )
    parts = []
    for start in range(0, len(images), taken.shape[0]):
        part = images[start : start + taken.shape[0]]
        full = np.zeros(taken.shape, np.uint8)
        full[: len(part)] = part
        parts.append(run(full)[: len(part)])
    stored = np.concatenate([*parts, np.zeros((0, *given.shape[1:]), given.dtype)])
    if given.scale is None:
        return stored
    return np.float32(given.scale) * (stored.astype(np.float32) - np.float32(given.zero_point or 0))


def interpreter(model: bytes, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return a model as a function of one whole batch.

    Raises:
      ValueError: ai-edge-litert is not installed, or it does not take the model: it is damaged, or no such file; by the
        function, where it takes it and cannot run it.
    """
    schema()  # says what to install
    from ai_edge_litert.interpreter import Interpreter

    try:
        held = Interpreter(model_content=model, num_threads=threads)
        held.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise ValueError(f'not a LiteRT model that can be run: {error}') from None
    inputs, outputs = held.get_input_details(), held.get_output_details()
    if len(inputs) != 1 or len(outputs) != 1:
        raise ValueError(
            f'expected a model of one input and one output, got {len(inputs)} and {len(outputs)}'
        )
    (taken,), (given,) = inputs, outputs

    def run(images: np.ndarray) -> np.ndarray:
        try:
            held.set_tensor(taken['index'], images)
            held.invoke()
            return np.asarray(held.get_tensor(given['index']))
        except (RuntimeError, ValueError) as error:
            raise ValueError(f'a damaged LiteRT model, which cannot be run: {error}') from None

    return run


class _Model:
    """What is written so far; tensors go by their numbers."""

    def __init__(self, graph: Graph, folded: Folded, batch: int) -> None:
        self.graph, self.folded, self.batch = graph, folded, batch
        self.writer = Writer('images', (batch, *graph.input_shape), np.uint8)

    def normalised(self) -> int:
        channels = self.folded['images']
        shape = self.writer.shape(0)
        x = self.writer.append('CAST', [0], shape, inDataType='UINT8', outDataType='FLOAT32')
        kernel = self.constant('images/scale', np.asarray(channels['scale'])[None, None, None])
        bias = self.constant('images/bias', channels['bias'])
        return self.writer.append(
            'DEPTHWISE_CONV_2D', [x, kernel, bias], shape, strideW=1, strideH=1, depthMultiplier=1
        )

    def constant(self, name: str, value: Any) -> int:
        return self.writer.constant(name, np.ascontiguousarray(value, np.float32))

    def weights(self, op: Operation, kernel: Any) -> list[int]:
        bias = self.folded[op.name]['bias']
        return [self.constant(f'{op.name}/kernel', kernel), self.constant(f'{op.name}/bias', bias)]

    def convolved(self, operator: str, place: int, op: Operation, inputs: list[int], **options: int) -> int:
        shape = (self.batch, *self.graph.sizes[place], self.channels(op))
        step: dict[str, Any] = {'strideW': op.stride, 'strideH': op.stride}
        if op.pads is not None:
            step['padding'] = 'VALID'
            inputs = [self.padded(operator, inputs[0], op.pads), *inputs[1:]]
        return self.activated(operator, inputs, shape, op.activation, **step, **options)

    def padded(self, operator: str, x: int, pads: Pads) -> int:
        """Put zeros around a map; around that of a pool its own numbers again, which its windows have anyway."""
        if not np.any(pads):
            return x
        batch, height, width, channels = self.writer.shape(x)
        rows, columns = pads
        shape = (batch, height + sum(rows), width + sum(columns), channels)
        name = f'pads/{rows}/{columns}'
        around = self.writer.constant(name, np.array([(0, 0), rows, columns, (0, 0)], np.int32))
        if operator != 'MAX_POOL_2D':
            return self.writer.append('PAD', [x, around], shape)
        return self.writer.append('MIRROR_PAD', [x, around], shape, mode='SYMMETRIC')

    def channels(self, op: Operation) -> int:
        return self.graph.width(op.out, self.graph.largest)

    def activated(
        self, operator: str, inputs: list[int], shape: tuple[int, ...], activation: str | None, **options: Any
    ) -> int:
        fused = FUSED.get(activation)
        if fused is not None:
            return self.writer.append(operator, inputs, shape, fusedActivationFunction=fused, **options)
        return UNFUSED[activation](self, self.writer.append(operator, inputs, shape, **options))

    def mean(self, x: int, keep: bool) -> int:
        batch, _, _, channels = self.writer.shape(x)
        axes = self.writer.constant('positions', np.array([1, 2], np.int32))
        shape = (batch, 1, 1, channels) if keep else (batch, channels)
        return self.writer.append('MEAN', [x, axes], shape, keepDims=keep)


def _conv(model: _Model, place: int, op: Operation, x: int) -> int:
    kernel = np.transpose(model.folded[op.name]['kernel'], (3, 0, 1, 2))
    return model.convolved('CONV_2D', place, op, [x, *model.weights(op, kernel)])


def _depthwise(model: _Model, place: int, op: Operation, x: int) -> int:
    inputs = [x, *model.weights(op, np.asarray(model.folded[op.name]['kernel'])[None])]
    return model.convolved('DEPTHWISE_CONV_2D', place, op, inputs, depthMultiplier=1)


def _add(model: _Model, place: int, op: Operation, first: int, *others: int) -> int:
    shape = model.writer.shape(first)
    if not others:
        return UNFUSED[op.activation](model, first)
    for other in others[:-1]:
        first = model.writer.append('ADD', [first, other], shape)
    return model.activated('ADD', [first, others[-1]], shape, op.activation)


def _gate(model: _Model, place: int, op: Operation, x: int) -> int:
    own = {name: np.asarray(leaf) for name, leaf in model.folded[op.name].items()}
    squeezed, hard = model.mean(x, keep=True), op.opening == 'hard_sigmoid'
    for layer, activation, shift in (
        ('reduce', op.activation, 0),
        ('expand', *(('relu6', 3) if hard else (None, 0))),
    ):
        kernel = model.constant(f'{op.name}/{layer}_kernel', own[f'{layer}_kernel'].T[:, None, None])
        bias = model.constant(f'{op.name}/{layer}_bias', own[f'{layer}_bias'] + shift)
        shape = (model.batch, 1, 1, own[f'{layer}_kernel'].shape[1])
        squeezed = model.activated(
            'CONV_2D', [squeezed, kernel, bias], shape, activation, strideW=1, strideH=1
        )
    if hard:
        sixth = model.constant('sixth', 1 / 6)
        opened = model.writer.append('MUL', [squeezed, sixth], model.writer.shape(squeezed))
    else:
        opened = _alone('LOGISTIC')(model, squeezed)
    return model.writer.append('MUL', [x, opened], model.writer.shape(x))


def _max_pool(model: _Model, place: int, op: Operation, x: int) -> int:
    window = {'filterWidth': op.kernel, 'filterHeight': op.kernel}
    return model.convolved('MAX_POOL_2D', place, op, [x], **window)


def _mean(model: _Model, place: int, op: Operation, x: int) -> int:
    return model.mean(x, keep=False)


def _dense(model: _Model, place: int, op: Operation, x: int) -> int:
    kernel = np.transpose(model.folded[op.name]['kernel'])
    shape = (model.batch, model.channels(op))
    return model.activated('FULLY_CONNECTED', [x, *model.weights(op, kernel)], shape, op.activation)


FORMS: dict[str, Callable[..., int]] = {
    'conv': _conv,
    'depthwise': _depthwise,
    'add': _add,
    'gate': _gate,
    'max_pool': _max_pool,
    'mean': _mean,
    'dense': _dense,
}

FUSED: dict[str | None, str] = {None: 'NONE', 'relu': 'RELU', 'relu6': 'RELU6'}
"""Activations that are part of the operator before them."""


def _alone(operator: str) -> Callable[[_Model, int], int]:
    return lambda model, x: model.writer.append(operator, [x], model.writer.shape(x))


def _swish(model: _Model, x: int) -> int:
    return model.writer.append('MUL', [x, _alone('LOGISTIC')(model, x)], model.writer.shape(x))


UNFUSED: dict[str | None, Callable[[_Model, int], int]] = {
    None: lambda model, x: x,
    'relu': _alone('RELU'),
    'relu6': _alone('RELU6'),
    'hard_swish': _alone('HARD_SWISH'),
    'swish': _swish,
}
"""Activations as operators of their own."""
