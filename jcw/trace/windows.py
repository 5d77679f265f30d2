"""Kernels of any shape as square ones, and padding as graphs state it."""

import numpy as np

from jcw.windows import Pads, pads_of, size_after


def dilated(kernel: np.ndarray, dilation: tuple[int, int]) -> np.ndarray:
    """Put the zeros of a dilation between a kernel's entries, (h, w, ...)."""
    if tuple(dilation) == (1, 1):
        return kernel
    sides = [(k - 1) * d + 1 for k, d in zip(kernel.shape, dilation, strict=False)]
    wide = np.zeros((*sides, *kernel.shape[2:]), kernel.dtype)
    wide[:: dilation[0], :: dilation[1]] = kernel
    return wide


def squared(kernel: np.ndarray, pads: Pads) -> tuple[np.ndarray, Pads]:
    """Put zeros around a kernel, (h, w, ...), until it is square, and as much more padding around the map."""
    side = max(kernel.shape[:2])
    more = [((side - k) // 2, side - k - (side - k) // 2) for k in kernel.shape[:2]]
    kernel = np.pad(kernel, (*more, *((0, 0) for _ in kernel.shape[2:])))
    rows, columns = ((low + a, high + b) for (low, high), (a, b) in zip(pads, more, strict=True))
    return kernel, (rows, columns)


def stated(size: tuple[int, int], side: int, stride: int, pads: Pads) -> Pads | None:
    """Return pads less what no window meets; none where these are the pads of 'SAME'."""
    after = size_after(size, (side, side), (stride, stride), pads)
    rows, columns = (
        (low, max((m - 1) * stride + side - n - low, 0))
        for n, m, (low, _) in zip(size, after, pads, strict=True)
    )
    return None if (rows, columns) == pads_of(size, side, stride) else (rows, columns)
