"""Kernels and windows with any padding, as windows of an odd side with the padding 'SAME' that graphs have."""

import numpy as np

from jcw.nets.kernels import same_padding

Pads = tuple[tuple[int, int], tuple[int, int]]
"""Zeros before and after rows, before and after columns."""


def size_after(
    size: tuple[int, int], side: tuple[int, int], stride: tuple[int, int], pads: Pads
) -> tuple[int, int]:
    """Return height and width of a convolution's result."""
    height, width = (
        int(n + low + high - k) // int(s) + 1
        for n, k, s, (low, high) in zip(size, side, stride, pads, strict=True)
    )
    return height, width


def keeps_size(size: tuple[int, int], after: tuple[int, int], stride: int) -> bool:
    """Say whether a result has the size that 'SAME' gives."""
    return all(m == -(-n // stride) for n, m in zip(size, after, strict=True))


def dilated(kernel: np.ndarray, dilation: tuple[int, int]) -> np.ndarray:
    """Put the zeros of a dilation between a kernel's entries, (h, w, ...)."""
    if tuple(dilation) == (1, 1):
        return kernel
    sides = [(k - 1) * d + 1 for k, d in zip(kernel.shape, dilation, strict=False)]
    wide = np.zeros((*sides, *kernel.shape[2:]), kernel.dtype)
    wide[:: dilation[0], :: dilation[1]] = kernel
    return wide


def as_same(kernel: np.ndarray, size: tuple[int, int], stride: int, pads: Pads) -> np.ndarray | None:
    """Return the smallest square kernel of odd side, (k, k, ...), that with 'SAME' does what `kernel` does with `pads`.

    Entries that meet padding alone are left out where that helps, and zeros put in where windows begin elsewhere.
    None where the result's size is not the one that 'SAME' gives.
    """
    sides = kernel.shape[0], kernel.shape[1]
    if not keeps_size(size, size_after(size, sides, (stride, stride), pads), stride):
        return None
    own = max(sides)
    if sides == (own, own) and own % 2 and _starts(size, own, stride) == [low for low, _ in pads]:
        return kernel
    lows = []
    for axis, (n, (low, _)) in enumerate(zip(size, pads, strict=True)):
        live = _live(n, kernel.shape[axis], stride, low)
        kernel = np.take(kernel, np.arange(live[0], live[-1] + 1), axis)
        lows.append(low - live[0])
    for side in range(1, 2 * (max(size) + own + stride), 2):
        offsets = [start - low for start, low in zip(_starts(size, side, stride), lows, strict=True)]
        if all(o >= 0 and o + k <= side for o, k in zip(offsets, kernel.shape, strict=False)):
            wide = np.zeros((side, side, *kernel.shape[2:]), kernel.dtype)
            (top, left), (h, w) = offsets, kernel.shape[:2]
            wide[top : top + h, left : left + w] = kernel
            return wide
    return None


def _starts(size: tuple[int, int], side: int, stride: int) -> list[int]:
    return [same_padding(n, side, stride)[0] for n in size]


def _live(n: int, side: int, stride: int, low: int) -> list[int]:
    """Return the entries of a kernel that meet a row at all; one that meets none, if there is no other."""
    starts = range(-low, -low + stride * -(-n // stride), stride)
    live = [i for i in range(side) if any(0 <= start + i < n for start in starts)]
    return live or [min(max(low, 0), side - 1)]
