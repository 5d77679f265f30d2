"""The unknowns of a latency table: one entry per layer signature of a space, and which network uses which."""

import dataclasses
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jcw.field import Field, chain_scopes
from jcw.space import LayerSignature, SearchSpace

Choices = Int[np.ndarray, 'samples layers']


class Work(NamedTuple):
    """What a layer does for one image, in its deployed form: normalisation folded into weights and biases."""

    depthwise: float  # multiply-adds
    dense: float  # multiply-adds of convolutions, products and the classifier
    activations: float  # numbers read and written
    parameters: float  # weights and biases


@dataclasses.dataclass(frozen=True)
class Signatures:
    """All layer signatures of a space, each counted once, however many layers and widths share it."""

    space: SearchSpace

    @cached_property
    def index(self) -> Int[np.ndarray, 'stages choices choices']:
        """Entry of each (layer or classifier, input choice, output choice); -1 where there is no such pair.

        The image's channels and the classes are the only choice, 0, on the outer sides.
        """
        most = int(self.space.num_choices.max())
        index = np.full((self.space.num_layers + 1, most, most), -1, np.int32)
        known: dict[LayerSignature, int] = {}
        for layer, (inputs, outputs) in enumerate(zip(self._channels, self._channels[1:], strict=False)):
            for i, a in enumerate(inputs):
                for j, b in enumerate(outputs):
                    index[layer, i, j] = known.setdefault(self.space.signature(layer, a, b), len(known))
        return index

    @cached_property
    def all(self) -> tuple[LayerSignature, ...]:
        """Every signature, in order of its entry."""
        found: dict[int, LayerSignature] = {}
        for layer, i, j in np.argwhere(self.index >= 0):
            channels = self._channels[layer][i], self._channels[layer + 1][j]
            found[int(self.index[layer, i, j])] = self.space.signature(int(layer), *channels)
        return tuple(found[entry] for entry in range(len(found)))

    def __len__(self) -> int:
        return int(self.index.max()) + 1

    def entries(self, choices: Int[np.ndarray, '*samples layers']) -> Int[np.ndarray, '*samples stages']:
        """Look up the entries that networks use, one per layer and one for the classifier."""
        outer = np.zeros((*choices.shape[:-1], 1), choices.dtype)
        padded = np.concatenate([outer, choices, outer], -1)
        return self.index[np.arange(self.space.num_layers + 1), padded[..., :-1], padded[..., 1:]]

    def incidence(self, choices: Choices) -> Float[np.ndarray, 'samples signatures']:
        """Count how often each network uses each entry; latency = incidence @ table."""
        matrix = np.zeros((len(choices), len(self)), np.float32)
        np.add.at(matrix, (np.arange(len(choices))[:, None], self.entries(choices)), 1)
        return matrix

    @cached_property
    def monotone_pairs(self) -> Int[np.ndarray, 'pairs 2']:
        """Pairs (narrower, wider) that differ by one step of the input or of the output width."""
        along_output = np.stack([self.index[:, :, :-1], self.index[:, :, 1:]], -1).reshape(-1, 2)
        along_input = np.stack([self.index[:, :-1], self.index[:, 1:]], -1).reshape(-1, 2)
        pairs = np.concatenate([along_output, along_input])
        return np.unique(pairs[(pairs >= 0).all(-1)], axis=0)

    @cached_property
    def work(self) -> Float[np.ndarray, 'signatures 4']:
        """Work of every entry, in the order of `Work`'s fields."""
        return np.array([work_of(signature) for signature in self.all], np.float64)

    def to_cost(self, entries: Float[np.ndarray, ' signatures'], base: float) -> Field:
        """Arrange a table's entries as potentials of a chain whose score is `base` plus their sum."""
        space, most = self.space, int(self.space.num_choices.max())
        values = np.where(self.index >= 0, entries[self.index], 0.0)
        unary = np.where(np.arange(most) < space.num_choices[:, None], 0.0, -np.inf)
        unary[0] += values[0, 0] + base
        unary[-1] += values[-1, :, 0]
        return Field(unary, values[1:-1], chain_scopes(space.num_layers))

    @property
    def _channels(self) -> tuple[tuple[int, ...], ...]:
        return ((self.space.input_shape[2],), *self.space.width_choices, (self.space.num_classes,))


def peak_activations(signature: LayerSignature) -> float:
    """Return the most numbers that are alive at once in a layer: what an operation reads and what it writes."""
    kind, _, stride, height, width, inputs, outputs = signature
    pixels = height * width
    positions = -(-height // stride) * -(-width // stride)
    if kind == 'dense':
        return pixels * inputs + outputs
    if kind == 'conv':
        return pixels * inputs + positions * outputs
    return max(pixels * inputs + positions * inputs, positions * (inputs + outputs))


def work_of(signature: LayerSignature) -> Work:
    """Count a layer's multiply-adds, activations and parameters; padding is 'SAME'."""
    kind, kernel, stride, height, width, inputs, outputs = signature
    pixels = height * width
    positions = -(-height // stride) * -(-width // stride)
    window = kernel * kernel
    if kind == 'dense':
        return Work(0, inputs * outputs, pixels * inputs + outputs, inputs * outputs + outputs)
    if kind == 'conv':
        weights = window * inputs * outputs
        return Work(0, positions * weights, pixels * inputs + positions * outputs, weights + outputs)
    return Work(
        depthwise=positions * window * inputs,
        dense=positions * inputs * outputs,
        activations=pixels * inputs + positions * (2 * inputs + outputs),
        parameters=window * inputs + inputs + inputs * outputs + outputs,
    )
