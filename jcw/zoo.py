"""Published networks as graphs: functions of a builder, every width a site, streams of a stage one site.

Each takes the strides of its stages, by default the published ones, made for images of 224x224.
"""

from collections.abc import Callable, Sequence
from functools import partial

from jcw.builder import Builder
from jcw.graph import Width

NetworkFunction = Callable[..., int]
"""`(builder, *, strides) -> logits`."""


def mobilenet_v1(g: Builder, strides: Sequence[int] = (2, 1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)) -> int:
    """Append MobileNet v1: a 3x3 stem and 13 depthwise-separable blocks (Howard et al., 2017). 14 strides."""
    widths = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
    _check_strides(strides, 14)
    x = g.conv(g.images, g.site('stem', widths[0]), kernel=3, stride=strides[0])
    for index, (width, stride) in enumerate(zip(widths[1:], strides[1:], strict=True), 1):
        x = g.conv(g.depthwise(x, stride=stride), g.site(f'block_{index}', width))
    return g.classify(x)


def inverted_residual(
    g: Builder,
    x: int,
    out: Width,
    expand: Width | None,
    *,
    kernel: int = 3,
    stride: int = 1,
    activation: str = 'relu6',
    gate: Width | None = None,
) -> int:
    """Append expansion, depthwise convolution, gate and projection, with a residual where widths and sizes agree."""
    h = x if expand is None else g.conv(x, expand, activation=activation)
    h = g.depthwise(h, kernel=kernel, stride=stride, activation=activation)
    if gate is not None:
        h = g.gate(h, gate)
    y = g.conv(h, out, activation=None)
    return g.add(x, y) if stride == 1 and g.width(x) == out else y


def mobilenet_v2(g: Builder, strides: Sequence[int] = (2, 1, 2, 2, 2, 1, 2, 1)) -> int:
    """Append MobileNet v2 (Sandler et al., 2018). 8 strides: of the stem and of 7 stages."""
    stages = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))
    return _inverted_residuals(g, strides, stages, (3,) * 7, stem=32, head=1280)


def efficientnet_lite(
    g: Builder, strides: Sequence[int] = (2, 1, 2, 2, 2, 1, 2, 1), *, version: int = 0
) -> int:
    """Append EfficientNet-lite 0 to 4 (Tan and Le, 2019, without gates, with ReLU6). 8 strides: stem and 7 stages."""
    wider, deeper = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8))[version]
    usual = ((1, 16, 1), (6, 24, 2), (6, 40, 2), (6, 80, 3), (6, 112, 3), (6, 192, 4), (6, 320, 1))
    repeats = [n if index in (0, 6) else -int(-n * deeper // 1) for index, (_, _, n) in enumerate(usual)]
    stages = tuple(
        (t, _round_to_8(width * wider), n) for (t, width, _), n in zip(usual, repeats, strict=True)
    )
    return _inverted_residuals(g, strides, stages, (3, 3, 5, 3, 5, 5, 3), stem=32, head=1280)


def mobilenet_v3(
    g: Builder, strides: Sequence[int] = (2, 1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1)
) -> int:
    """Append MobileNet v3 large: gates and hard-swish (Howard et al., 2019). 16 strides: of the stem and 15 blocks."""
    blocks = (  # kernel, expansion, output, gate, activation
        (3, None, 16, False, 'relu'),
        (3, 64, 24, False, 'relu'),
        (3, 72, 24, False, 'relu'),
        (5, 72, 40, True, 'relu'),
        (5, 120, 40, True, 'relu'),
        (5, 120, 40, True, 'relu'),
        (3, 240, 80, False, 'hard_swish'),
        (3, 200, 80, False, 'hard_swish'),
        (3, 184, 80, False, 'hard_swish'),
        (3, 184, 80, False, 'hard_swish'),
        (3, 480, 112, True, 'hard_swish'),
        (3, 672, 112, True, 'hard_swish'),
        (5, 672, 160, True, 'hard_swish'),
        (5, 960, 160, True, 'hard_swish'),
        (5, 960, 160, True, 'hard_swish'),
    )
    _check_strides(strides, 16)
    x = g.conv(g.images, g.site('stem', 16), kernel=3, stride=strides[0], activation='hard_swish')
    stream, last = g.width(x), 16
    for index, ((kernel, expand, width, gated, activation), stride) in enumerate(
        zip(blocks, strides[1:], strict=True), 1
    ):
        if width != last:
            stream, last = g.site(f'stream_{index}', width), width
        x = inverted_residual(
            g,
            x,
            stream,
            None if expand is None else g.site(f'expand_{index}', expand),
            kernel=kernel,
            stride=stride,
            activation=activation,
            gate=g.site(f'gate_{index}', _round_to_8((expand or 16) / 4)) if gated else None,
        )
    x = g.conv(x, g.site('head', 960), activation='hard_swish')
    return g.dense(g.dense(g.mean(x), g.site('features', 1280), activation='hard_swish'), g.num_classes)


def _inverted_residuals(
    g: Builder,
    strides: Sequence[int],
    stages: Sequence[tuple[int, int, int]],
    kernels: Sequence[int],
    *,
    stem: int,
    head: int,
) -> int:
    """Append stages of (expansion, width, blocks), the stem before and the last 1x1 convolution after them."""
    _check_strides(strides, 8)
    x = g.conv(g.images, g.site('stem', stem), kernel=3, stride=strides[0], activation='relu6')
    width = stem
    for stage, ((expansion, out, count), kernel) in enumerate(zip(stages, kernels, strict=True), 1):
        stream = g.site(f'stream_{stage}', out)
        for block in range(1, count + 1):
            expand = g.site(f'expand_{stage}_{block}', expansion * width) if expansion > 1 else None
            stride = strides[stage] if block == 1 else 1
            x, width = inverted_residual(g, x, stream, expand, kernel=kernel, stride=stride), out
    return g.classify(g.conv(x, g.site('head', head), activation='relu6'))


def basic_block(g: Builder, x: int, out: Width, inner: Width, stride: int) -> int:
    """Append two 3x3 convolutions and a residual, projected where width or size change (He et al., 2016)."""
    y = g.conv(g.conv(x, inner, kernel=3, stride=stride), out, kernel=3, activation=None)
    return g.add(_shortcut(g, x, out, stride), y, activation='relu')


def bottleneck(g: Builder, x: int, out: Width, first: Width, second: Width, stride: int) -> int:
    """Append 1x1, 3x3 and 1x1 convolutions and a residual; the 3x3 one has the stride."""
    h = g.conv(g.conv(x, first), second, kernel=3, stride=stride)
    return g.add(_shortcut(g, x, out, stride), g.conv(h, out, activation=None), activation='relu')


def _shortcut(g: Builder, x: int, out: Width, stride: int) -> int:
    same = stride == 1 and g.width(x) == out
    return x if same else g.conv(x, out, stride=stride, activation=None)


def resnet(g: Builder, strides: Sequence[int], *, depth: int) -> int:
    """Append a residual network (He et al., 2016): 18, 34 or 50 layers, or 20 or 56 for images of 32x32.

    5 strides: of the stem and of 4 stages; 4 for the small ones. A max pool follows a stem of stride 2.
    """
    if depth not in (18, 34, 50, 20, 56):
        raise ValueError(f'depth must be 18, 34, 50, 20 or 56, got {depth}')
    counts: tuple[int, ...] = (2, 2, 2, 2) if depth == 18 else (3, 4, 6, 3)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    if depth in (20, 56):
        counts, widths = ((depth - 2) // 6,) * 3, (16, 32, 64)
    _check_strides(strides, 1 + len(counts))
    small = len(widths) == 3
    x = g.conv(g.images, g.site('stem', widths[0]), kernel=3 if small else 7, stride=strides[0])
    if not small and strides[0] > 1:
        x = g.max_pool(x, kernel=3, stride=2)
    for stage, (width, count) in enumerate(zip(widths, counts, strict=True), 1):
        same = depth != 50 and stage == 1  # the stem's stream goes on
        stream = g.width(x) if same else g.site(f'stream_{stage}', 4 * width if depth == 50 else width)
        for block in range(1, count + 1):
            stride, name = strides[stage] if block == 1 else 1, f'{stage}_{block}'
            if depth == 50:
                inner = g.site(f'first_{name}', width), g.site(f'second_{name}', width)
                x = bottleneck(g, x, stream, *inner, stride)
            else:
                x = basic_block(g, x, stream, g.site(f'inner_{name}', width), stride)
    return g.classify(x)


def _check_strides(strides: Sequence[int], count: int) -> None:
    if len(strides) != count:
        raise ValueError(f'this network takes {count} strides, got {len(strides)}')


def _round_to_8(width: float) -> int:
    """Round to a multiple of 8, by no more than a tenth down, as these networks' authors do."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * width else rounded


NETWORKS: dict[str, NetworkFunction] = {
    'mobilenet_v1': mobilenet_v1,
    'mobilenet_v2': mobilenet_v2,
    'mobilenet_v3': mobilenet_v3,
    **{f'efficientnet_lite{version}': partial(efficientnet_lite, version=version) for version in range(5)},
    **{f'resnet{depth}': partial(resnet, strides=(1, 1, 2, 2), depth=depth) for depth in (20, 56)},
    **{f'resnet{depth}': partial(resnet, strides=(2, 1, 2, 2, 2), depth=depth) for depth in (18, 34, 50)},
}
"""By name."""
