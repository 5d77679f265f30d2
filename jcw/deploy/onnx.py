"""The deployed network in ONNX: native convolutions, NCHW inside, any batch size.

Bytes [batch height width channels] come in, as everywhere, and are transposed while they are still bytes. Biases and
ReLUs stand where runtimes fuse them into the convolution before them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jcw.deploy.fold import Folded, random
from jcw.nets.kernels import same_padding
from jcw.nets.variables import layer_name
from jcw.space import SearchSpace

OPSET, IR_VERSION = 17, 8  # of 2022: what TensorRT, OpenVINO and Core ML's converters have long read


def onnx_model(
    space: SearchSpace,
    widths: Sequence[int] | np.ndarray,
    folded: Folded | None = None,
    batch: int | None = None,
) -> bytes:
    """Return a checked ONNX model: `images` uint8 [batch height width channels] -> `logits` float32 [batch classes].

    Args:
      space: layers, input shape and number of classes.
      widths: one per layer.
      folded: the weights; by default random ones, for timing.
      batch: the batch size; by default any.

    Raises:
      ValueError: onnx is not installed.
    """
    try:
        import onnx
    except ImportError:
        raise ValueError("ONNX needs the package onnx: pip install 'jcw[onnx]'") from None
    from onnx import TensorProto, helper

    graph = _Graph(random(space, widths) if folded is None else folded)
    graph.normalise_input()
    for index, (spec, sizes) in enumerate(zip(space.layers, space.input_sizes, strict=False)):
        graph.layer(layer_name(index), sizes, spec.kernel, spec.stride)
    graph.head()
    size = 'batch' if batch is None else batch
    images = helper.make_tensor_value_info('images', TensorProto.UINT8, [size, *space.input_shape])
    logits = helper.make_tensor_value_info('logits', TensorProto.FLOAT, [size, space.num_classes])
    body = helper.make_graph(graph.nodes, 'network', [images], [logits], graph.constants)
    opset = [helper.make_opsetid('', OPSET)]
    model = helper.make_model(body, producer_name='jcw', opset_imports=opset, ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


class _Graph:
    """Nodes and constants of a chain; `last` is the name of the tensor so far."""

    def __init__(self, folded: Folded) -> None:
        self.folded = folded
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.last = 'images'

    def normalise_input(self) -> None:
        channels = {name: np.asarray(v)[:, None, None] for name, v in self.folded['input'].items()}
        self._append('Transpose', perm=[0, 3, 1, 2])
        self._append('Cast', to=1)
        self._append('Mul', self._constant('input/scale', channels['scale']))
        self._append('Add', self._constant('input/bias', channels['bias']))

    def layer(self, name: str, sizes: tuple[int, int], kernel: int, stride: int) -> None:
        """Append one layer of an input of `sizes`: dense, or depthwise and pointwise."""
        layer = self.folded[name]
        if 'kernel' in layer:
            self._convolution(name, layer, layer['kernel'].transpose(3, 2, 0, 1), sizes, stride)
        else:
            deep, point = layer['depthwise'], layer['pointwise']
            channelwise = deep['kernel'].transpose(2, 0, 1)[:, None]
            self._convolution(f'{name}/depthwise', deep, channelwise, sizes, stride, len(channelwise))
            self._convolution(f'{name}/pointwise', point, point['kernel'].T[:, :, None, None])

    def head(self) -> None:
        self._append('GlobalAveragePool')
        self._append('Flatten')
        weights = [self._constant(f'head/{name}', self.folded['head'][name]) for name in ('kernel', 'bias')]
        self._append('Gemm', *weights, output='logits')

    def _convolution(
        self,
        name: str,
        part: dict[str, Any],
        kernel: np.ndarray,
        sizes: tuple[int, int] = (1, 1),
        stride: int = 1,
        groups: int = 1,
    ) -> None:
        side = kernel.shape[-1]
        pads = np.transpose([same_padding(size, side, stride) for size in sizes]).ravel().tolist()
        weights = self._constant(f'{name}/kernel', kernel), self._constant(f'{name}/bias', part['bias'])
        self._append('Conv', *weights, pads=pads, group=groups, strides=[stride, stride])
        self._append('Relu')

    def _constant(self, name: str, value: Any) -> str:
        from onnx import numpy_helper

        array = np.ascontiguousarray(value, np.float32)
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def _append(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> None:
        from onnx import helper

        output = output or f'{operator.lower()}_{len(self.nodes)}'
        self.nodes.append(helper.make_node(operator, [self.last, *inputs], [output], **attributes))
        self.last = output
