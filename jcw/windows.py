"""Where windows over rows and columns begin and end."""

from collections.abc import Sequence

Pads = tuple[tuple[int, int], tuple[int, int]]
"""What is put before and after rows, before and after columns."""


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return the zeros 'SAME' puts before and after an axis of `size` entries; the odd one goes after."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def pads_of(size: Sequence[int], kernel: int, stride: int, pads: Pads | None = None) -> Pads:
    """Return pads, those of 'SAME' where none are given."""
    if pads is not None:
        return pads
    rows, columns = (same_padding(n, kernel, stride) for n in size)
    return rows, columns


def size_after(
    size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], pads: Pads
) -> tuple[int, int]:
    """Return height and width of what windows over a map give."""
    height, width = (
        int(n + low + high - k) // int(s) + 1
        for n, k, s, (low, high) in zip(size, kernel, stride, pads, strict=True)
    )
    return height, width
