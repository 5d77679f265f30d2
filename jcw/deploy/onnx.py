"""The deployed network in ONNX: native convolutions, NCHW inside, any batch size.

Bytes [batch height width channels] come in, as everywhere, and are transposed while they are still bytes. Biases and
activations stand where runtimes fuse them into the convolution before them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jcw.deploy.fold import Folded, random
from jcw.graph import Graph, Operation

OPSET, IR_VERSION = 17, 8  # of 2022: what TensorRT, OpenVINO and Core ML's converters have long read


def onnx_model(
    graph: Graph,
    widths: Sequence[int] | np.ndarray,
    folded: Folded | None = None,
    batch: int | None = None,
) -> bytes:
    """Return a checked ONNX model: `images` uint8 [batch height width channels] -> `logits` float32 [batch classes].

    Args:
      graph: of the network.
      widths: one per site.
      folded: the weights; by default random ones, for timing.
      batch: the batch size; by default any.

    Raises:
      ValueError: onnx is not installed.
    """
    try:
        import onnx
    except ImportError:
        raise ValueError('ONNX needs the package onnx: pip install onnx onnxruntime') from None
    from onnx import TensorProto, helper

    fixed = graph.fixed(widths)
    model = _Model(fixed, random(fixed) if folded is None else folded)
    values = [model.normalised()]
    for place, op in enumerate(fixed.operations[1:], 1):
        values.append(FORMS[op.kind](model, place, *(values[read] for read in op.reads)))
    model.append('Identity', values[-1], output='logits')
    size = 'batch' if batch is None else batch
    images = helper.make_tensor_value_info('images', TensorProto.UINT8, [size, *graph.input_shape])
    logits = helper.make_tensor_value_info('logits', TensorProto.FLOAT, [size, graph.num_classes])
    body = helper.make_graph(model.nodes, 'network', [images], [logits], model.constants)
    opset = [helper.make_opsetid('', OPSET)]
    made = helper.make_model(body, producer_name='jcw', opset_imports=opset, ir_version=IR_VERSION)
    onnx.checker.check_model(made, full_check=True)
    return made.SerializeToString()


class _Model:
    """Nodes and constants; tensors go by their names."""

    def __init__(self, graph: Graph, folded: Folded) -> None:
        self.graph, self.folded = graph, folded
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def op(self, place: int) -> tuple[Operation, dict[str, Any]]:
        op = self.graph.operations[place]
        return op, self.folded.get(op.name, {})

    def normalised(self) -> str:
        channels = {name: np.asarray(v)[:, None, None] for name, v in self.folded['images'].items()}
        x = self.append('Transpose', 'images', perm=[0, 3, 1, 2])
        x = self.append('Cast', x, to=1)
        x = self.append('Mul', x, self.constant('images/scale', channels['scale']))
        return self.append('Add', x, self.constant('images/bias', channels['bias']))

    def convolved(self, place: int, x: str, kernel: np.ndarray, groups: int = 1) -> str:
        op, own = self.op(place)
        weights = self.constant(f'{op.name}/kernel', kernel), self.constant(f'{op.name}/bias', own['bias'])
        step = [op.stride, op.stride]
        y = self.append('Conv', x, *weights, pads=self.pads(op), group=groups, strides=step)
        return self.activated(y, op.activation)

    def pads(self, op: Operation) -> list[int]:
        return [int(pad) for pad in np.transpose(self.graph.pads(op)).ravel()]

    def activated(self, x: str, activation: str | None) -> str:
        return x if activation is None else ACTIVATIONS[activation](self, x)

    def product(self, x: str, name: str, kernel: Any, bias: Any) -> str:
        return self.append(
            'Gemm', x, self.constant(f'{name}/kernel', kernel), self.constant(f'{name}/bias', bias)
        )

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        from onnx import numpy_helper

        if name not in {tensor.name for tensor in self.constants}:
            self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value, dtype), name))
        return name

    def append(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        from onnx import helper

        output = output or f'{operator.lower()}_{len(self.nodes)}'
        self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output


def _conv(model: _Model, place: int, x: str) -> str:
    return model.convolved(place, x, model.op(place)[1]['kernel'].transpose(3, 2, 0, 1))


def _depthwise(model: _Model, place: int, x: str) -> str:
    kernel = model.op(place)[1]['kernel'].transpose(2, 0, 1)[:, None]
    return model.convolved(place, x, kernel, len(kernel))


def _add(model: _Model, place: int, *terms: str) -> str:
    x = model.append('Add', *terms) if len(terms) > 1 else terms[0]
    return model.activated(x, model.op(place)[0].activation)


def _gate(model: _Model, place: int, x: str) -> str:
    op, own = model.op(place)
    squeezed = model.append('Flatten', model.append('GlobalAveragePool', x))
    inner = model.product(squeezed, f'{op.name}/reduce', own['reduce_kernel'], own['reduce_bias'])
    inner = model.activated(inner, op.activation)
    opened = model.product(inner, f'{op.name}/expand', own['expand_kernel'], own['expand_bias'])
    if op.opening == 'sigmoid':
        opened = model.append('Sigmoid', opened)
    else:
        opened = model.append('HardSigmoid', opened, alpha=1 / 6, beta=0.5)
    return model.append(
        'Mul', x, model.append('Unsqueeze', opened, model.constant('positions', [2, 3], np.int64))
    )


def _max_pool(model: _Model, place: int, x: str) -> str:
    op, _ = model.op(place)
    size, step = [op.kernel, op.kernel], [op.stride, op.stride]
    return model.append('MaxPool', x, kernel_shape=size, strides=step, pads=model.pads(op))


def _mean(model: _Model, place: int, x: str) -> str:
    return model.append('Flatten', model.append('GlobalAveragePool', x))


def _dense(model: _Model, place: int, x: str) -> str:
    op, own = model.op(place)
    return model.activated(model.product(x, op.name, own['kernel'], own['bias']), op.activation)


FORMS: dict[str, Callable[..., str]] = {
    'conv': _conv,
    'depthwise': _depthwise,
    'add': _add,
    'gate': _gate,
    'max_pool': _max_pool,
    'mean': _mean,
    'dense': _dense,
}


def _relu6(model: _Model, x: str) -> str:
    return model.append('Clip', x, model.constant('zero', 0.0), model.constant('six', 6.0))


ACTIVATIONS: dict[str, Callable[[_Model, str], str]] = {
    'relu': lambda model, x: model.append('Relu', x),
    'relu6': _relu6,
    'hard_swish': lambda model, x: model.append('HardSwish', x),
    'swish': lambda model, x: model.append('Mul', x, model.append('Sigmoid', x)),
}
