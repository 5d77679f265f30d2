"""The same network in PyTorch, made from the graph: one module for each kind of operation.

Maps are NCHW in name and channels last in memory, PyTorch's faster layout on CPUs.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from jcw.graph import NORMALISED

ACTIVATIONS = {
    None: nn.Identity,
    'relu': lambda: nn.ReLU(inplace=True),
    'relu6': lambda: nn.ReLU6(inplace=True),
    'hard_swish': nn.Hardswish,
    'swish': nn.SiLU,
}


class Network(nn.Module):
    """A graph at its largest widths: in training with batch normalisation, deployed with the weights it is given.

    Args:
      graph: of the network; of one configuration if it is deployed.
      folded: the deployed network's weights; without them, PyTorch's own initial ones.
    """

    def __init__(self, graph, folded=None):
        super().__init__()
        self.graph = graph
        self.parts = nn.ModuleDict()
        for place, op in enumerate(graph.operations[1:], 1):
            own = None if folded is None else folded.get(op.name, {})
            self.parts[op.name] = MODULES[op.kind](graph, place, own)

    def forward(self, x, masks=None):
        """Return logits; `masks`, [1 channels] or [batch channels] by site, narrow the network."""
        values = {0: x}
        for place, op in enumerate(self.graph.operations[1:], 1):
            given = {'mask': masks.get(op.inner)} if masks and op.kind == 'gate' else {}
            y = self.parts[op.name](*(values[read] for read in op.reads), **given)
            if masks and op.out in masks and op.kind in (*NORMALISED, 'dense'):
                mask = masks[op.out]
                y = y * (mask if y.ndim == 2 else mask[:, :, None, None])
            values[place] = y
            for read in {read for read in op.reads if self.graph.readers[read][-1] == place}:
                del values[read]
        return y


class Convolution(nn.Module):
    """A convolution; then batch normalisation, or the deployed bias; then an activation."""

    def __init__(self, graph, place, own):
        super().__init__()
        op = graph.operations[place]
        inputs = graph.width(graph.operations[op.reads[0]].out, graph.largest)
        outputs = graph.width(op.out, graph.largest)
        self.pads = _pads(graph, op, exact=own is not None)
        inside = (self.pads[2], self.pads[0]) if _even(self.pads) else 0
        groups = inputs if op.kind == 'depthwise' else 1
        settings = {'padding': inside, 'groups': groups, 'bias': own is not None or not op.norm}
        self.plain = nn.Conv2d(inputs, outputs, op.kernel, op.stride, **settings)
        self.norm = nn.BatchNorm2d(outputs) if own is None and op.norm else nn.Identity()
        self.activation = ACTIVATIONS[op.activation]()
        if own is not None:
            kernel = own['kernel'][:, :, None, :] if op.kind == 'depthwise' else own['kernel']
            _set(self.plain, kernel.transpose(3, 2, 0, 1), own['bias'])

    def forward(self, x):
        x = x if _even(self.pads) else functional.pad(x, self.pads)
        return self.activation(self.norm(self.plain(x)))


class Add(nn.Module):
    """A sum, and an activation."""

    def __init__(self, graph, place, own):
        super().__init__()
        self.activation = ACTIVATIONS[graph.operations[place].activation]()

    def forward(self, *terms):
        return self.activation(sum(terms[1:], start=terms[0]))


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, graph, place, own):
        super().__init__()
        op = graph.operations[place]
        channels, inner = (graph.width(end, graph.largest) for end in (op.out, op.inner))
        self.reduce, self.expand = nn.Linear(channels, inner), nn.Linear(inner, channels)
        self.activation = ACTIVATIONS[op.activation]()
        if own:
            _set(self.reduce, own['reduce_kernel'].T, own['reduce_bias'])
            _set(self.expand, own['expand_kernel'].T, own['expand_bias'])

    def forward(self, x, mask=None):
        inner = self.activation(self.reduce(x.mean((2, 3))))
        inner = inner if mask is None else inner * mask
        return x * functional.hardsigmoid(self.expand(inner))[:, :, None, None]


class MaxPool(nn.Module):
    """Maxima of windows."""

    def __init__(self, graph, place, own):
        super().__init__()
        op = graph.operations[place]
        self.pads = _pads(graph, op, exact=own is not None)
        inside = (self.pads[2], self.pads[0]) if _even(self.pads) else 0
        self.pool = nn.MaxPool2d(op.kernel, op.stride, inside)

    def forward(self, x):
        return self.pool(x if _even(self.pads) else functional.pad(x, self.pads, value=-torch.inf))


class Mean(nn.Module):
    """The mean over positions."""

    def __init__(self, graph, place, own):
        super().__init__()

    def forward(self, x):
        return x.mean((2, 3))


class Dense(nn.Module):
    """A product with a matrix, a bias, an activation."""

    def __init__(self, graph, place, own):
        super().__init__()
        op = graph.operations[place]
        inputs = graph.width(graph.operations[op.reads[0]].out, graph.largest)
        self.linear = nn.Linear(inputs, graph.width(op.out, graph.largest))
        self.activation = ACTIVATIONS[op.activation]()
        if own:
            _set(self.linear, own['kernel'].T, own['bias'])

    def forward(self, x):
        return self.activation(self.linear(x))


MODULES = {
    'conv': Convolution,
    'depthwise': Convolution,
    'add': Add,
    'gate': Gate,
    'max_pool': MaxPool,
    'mean': Mean,
    'dense': Dense,
}


def _pads(graph, op, exact):
    """Return zeros left, right, above, below; in place of 'SAME' as many on both sides, which is cheaper to train."""
    if not exact and op.pads is None:
        return (op.kernel // 2,) * 4
    rows, columns = graph.pads(op)
    return (*columns, *rows)


def _even(pads):
    return pads[0] == pads[1] and pads[2] == pads[3]


def _set(module, kernel, bias):
    module.weight.data = torch.tensor(np.ascontiguousarray(kernel))
    module.bias.data = torch.tensor(np.asarray(bias))
