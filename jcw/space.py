"""Search spaces: the layers of a chain network and the widths each may take."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class LayerSpec:
    """One searchable layer of a chain network.

    Attributes:
      kind: 'conv' is convolution, normalisation, ReLU; 'separable' is a depthwise convolution and a pointwise one,
        each followed by normalisation and ReLU.
      base_width: usual number of output channels.
      kernel: side of the square kernel, odd.
      stride: stride of the convolution (of the depthwise one in 'separable').
    """

    kind: str
    base_width: int
    kernel: int = 3
    stride: int = 1

    def __post_init__(self) -> None:
        if self.kind not in ('conv', 'separable'):
            raise ValueError(f"LayerSpec.kind must be 'conv' or 'separable', got {self.kind!r}")
        if self.base_width < 1 or self.stride < 1:
            raise ValueError(
                f'base_width and stride must be positive, got {self.base_width} and {self.stride}'
            )
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f'LayerSpec.kernel must be odd and positive, got {self.kernel}')


class LayerSignature(NamedTuple):
    """What determines a layer's time: layers with equal signatures share one entry of a latency table."""

    kind: str  # 'conv', 'separable' or 'dense'
    kernel: int
    stride: int
    height: int  # of the layer's input
    width: int  # of the layer's input
    in_channels: int
    out_channels: int


@dataclasses.dataclass(frozen=True)
class SearchSpace:
    """A chain of layers and the widths each may take; a classifier of fixed size follows the last layer.

    Attributes:
      layers: the searchable layers, input first.
      input_shape: height, width and channels of an image.
      num_classes: outputs of the classifier.
      width_choices: per layer, its allowed widths, strictly increasing.
    """

    layers: tuple[LayerSpec, ...]
    input_shape: tuple[int, int, int]
    num_classes: int
    width_choices: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError('a search space needs at least one layer')
        if len(self.layers) != len(self.width_choices):
            raise ValueError(f'{len(self.layers)} layers but {len(self.width_choices)} lists of widths')
        for layer, widths in enumerate(self.width_choices):
            if not widths or widths[0] < 1 or any(a >= b for a, b in itertools.pairwise(widths)):
                raise ValueError(
                    f'widths of layer {layer} must be positive and strictly increasing, got {widths}'
                )
        if len(self.input_shape) != 3 or min(self.input_shape) < 1 or self.num_classes < 1:
            raise ValueError(
                f'input_shape {self.input_shape} and num_classes {self.num_classes} must be positive'
            )

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @cached_property
    def num_choices(self) -> np.ndarray:
        """Number of widths of each layer, int32 [layers]."""
        return np.array([len(widths) for widths in self.width_choices], np.int32)

    @cached_property
    def width_table(self) -> np.ndarray:
        """Width of each choice, int32 [layers choices]; 0 where a layer has fewer choices."""
        table = np.zeros((self.num_layers, self.num_choices.max()), np.int32)
        for layer, widths in enumerate(self.width_choices):
            table[layer, : len(widths)] = widths
        return table

    @cached_property
    def smallest(self) -> np.ndarray:
        """The configuration of least widths, int32 [layers]."""
        return np.array([widths[0] for widths in self.width_choices], np.int32)

    @cached_property
    def largest(self) -> np.ndarray:
        """The configuration of greatest widths, int32 [layers]."""
        return np.array([widths[-1] for widths in self.width_choices], np.int32)

    @cached_property
    def base(self) -> np.ndarray:
        """The usual configuration, int32 [layers]; each width the nearest allowed one to `base_width`."""
        return self.nearest([layer.base_width for layer in self.layers])

    @property
    def num_configurations(self) -> int:
        return math.prod(int(n) for n in self.num_choices)

    def nearest(self, widths: Sequence[float]) -> np.ndarray:
        """Return the configuration whose widths are nearest to those given, the smaller on a tie, int32 [layers]."""
        chosen = [
            min(allowed, key=lambda w: abs(w - x))
            for allowed, x in zip(self.width_choices, widths, strict=True)
        ]
        return np.array(chosen, np.int32)

    def to_widths(self, choices: Any) -> Any:
        """Look up the widths of choices, [... layers] -> [... layers]; NumPy in, NumPy out; JAX in, JAX out."""
        if isinstance(choices, jax.Array):
            return jnp.asarray(self.width_table)[jnp.arange(self.num_layers), choices]
        choices = np.asarray(choices)
        if (
            choices.shape[-1:] != (self.num_layers,)
            or (choices < 0).any()
            or (choices >= self.num_choices).any()
        ):
            raise ValueError(
                f'choices must end in {self.num_layers} indices below {self.num_choices.tolist()}, '
                f'got {choices.tolist()}'
            )
        return self.width_table[np.arange(self.num_layers), choices]

    def to_choices(self, widths: Any) -> np.ndarray:
        """Look up the choices of widths, [... layers] -> int32 [... layers].

        Raises:
          ValueError: a width is not among its layer's choices.
        """
        widths = np.asarray(widths)
        if widths.shape[-1:] != (self.num_layers,):
            raise ValueError(f'expected {self.num_layers} widths, got shape {widths.shape}')
        match = widths[..., None] == self.width_table
        missing = ~match.any(-1)
        if missing.any():
            layer = int(np.argwhere(missing)[0][-1])
            wrong = widths[..., layer][missing[..., layer]].flat[0]
            raise ValueError(f'width {wrong} of layer {layer} is not one of {self.width_choices[layer]}')
        return match.argmax(-1).astype(np.int32)

    @cached_property
    def input_sizes(self) -> tuple[tuple[int, int], ...]:
        """Height and width of the input of each layer and, last, of the global average pool; padding is 'SAME'."""
        sizes = [self.input_shape[:2]]
        for layer in self.layers:
            height, width = sizes[-1]
            sizes.append((-(-height // layer.stride), -(-width // layer.stride)))
        return tuple(sizes)

    def signature(self, layer: int, in_channels: int, out_channels: int) -> LayerSignature:
        """Return the signature of a layer between two widths; `layer = num_layers` is the classifier."""
        height, width = self.input_sizes[layer]
        if layer == self.num_layers:
            return LayerSignature('dense', 1, 1, height, width, int(in_channels), self.num_classes)
        spec = self.layers[layer]
        return LayerSignature(
            spec.kind, spec.kernel, spec.stride, height, width, int(in_channels), int(out_channels)
        )

    def signatures(self, widths: Sequence[int] | np.ndarray) -> tuple[LayerSignature, ...]:
        """Return the signatures of a whole network, classifier included: `layers + 1` of them."""
        channels = [self.input_shape[2], *(int(w) for w in widths), self.num_classes]
        pairs = itertools.pairwise(channels)
        return tuple(self.signature(layer, a, b) for layer, (a, b) in enumerate(pairs))

    def to_json(self) -> dict[str, Any]:
        """Return the space as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> 'SearchSpace':
        """Read what `to_json` wrote."""
        height, width, channels = value['input_shape']
        return cls(
            layers=tuple(LayerSpec(**layer) for layer in value['layers']),
            input_shape=(int(height), int(width), int(channels)),
            num_classes=int(value['num_classes']),
            width_choices=tuple(tuple(int(w) for w in widths) for widths in value['width_choices']),
        )


def round_width(width: float, divisor: int) -> int:
    """Round to the nearest multiple of `divisor`, halves up, at least one multiple."""
    return max(divisor, math.floor(width / divisor + 0.5) * divisor)


def with_multipliers(
    layers: Sequence[LayerSpec],
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    min_multiplier: float = 0.2,
    max_multiplier: float = 1.5,
    levels: int = 14,
    divisor: int = 8,
) -> SearchSpace:
    """Build the space in which every layer takes `levels` even multiples of its base width.

    Widths are multiples of `divisor`, duplicates removed, and the base width is always among them.

    Raises:
      ValueError: no level, or multipliers that are not 0 < min <= max.
    """
    if levels < 1 or divisor < 1:
        raise ValueError(f'levels and divisor must be positive, got {levels} and {divisor}')
    if not 0 < min_multiplier <= max_multiplier:
        raise ValueError(
            f'need 0 < min_multiplier <= max_multiplier, got {min_multiplier} and {max_multiplier}'
        )
    multipliers = np.linspace(min_multiplier, max_multiplier, levels)

    def choices(layer: LayerSpec) -> tuple[int, ...]:
        widths = {round_width(layer.base_width * m, divisor) for m in multipliers}
        return tuple(sorted(widths | {round_width(layer.base_width, divisor)}))

    return SearchSpace(tuple(layers), input_shape, num_classes, tuple(choices(layer) for layer in layers))


MOBILENET_V1_WIDTHS = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
MOBILENET_V1_STRIDES = (2, 1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)


def mobilenet_v1(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    base_multiplier: float = 1.0,
    min_multiplier: float = 0.2,
    max_multiplier: float = 1.5,
    levels: int = 14,
    divisor: int = 8,
    strides: Sequence[int] | None = None,
) -> SearchSpace:
    """Build MobileNet v1's space: a 3x3 stem, 13 depthwise-separable blocks, a classifier (Howard et al., 2017).

    Args:
      input_shape: height, width and channels of an image.
      num_classes: outputs of the classifier.
      base_multiplier: factor on all base widths, itself not searched.
      min_multiplier: least width multiplier of a layer.
      max_multiplier: greatest width multiplier of a layer.
      levels: number of even steps between the two, both included.
      divisor: widths are multiples of it.
      strides: one per layer; by default the published ones, which divide an image's side by 32.

    Raises:
      ValueError: `strides` does not have 14 entries, or an argument is out of range.
    """
    strides = MOBILENET_V1_STRIDES if strides is None else tuple(strides)
    if len(strides) != len(MOBILENET_V1_WIDTHS):
        raise ValueError(f'MobileNet v1 has {len(MOBILENET_V1_WIDTHS)} layers, got {len(strides)} strides')
    if base_multiplier <= 0:
        raise ValueError(f'base_multiplier must be positive, got {base_multiplier}')
    widths = [round_width(w * base_multiplier, divisor) for w in MOBILENET_V1_WIDTHS]
    layers = [
        LayerSpec('conv' if i == 0 else 'separable', w, kernel=3, stride=s)
        for i, (w, s) in enumerate(zip(widths, strides, strict=True))
    ]
    return with_multipliers(
        layers,
        input_shape,
        num_classes,
        min_multiplier=min_multiplier,
        max_multiplier=max_multiplier,
        levels=levels,
        divisor=divisor,
    )
