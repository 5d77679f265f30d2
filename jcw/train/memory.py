"""Memory of a training process on a CPU."""

import ctypes

ARENA_MAX, MMAP_MAX, TRIM_THRESHOLD = -8, -4, -1  # of glibc's mallopt


def keep_freed() -> bool:
    """Let this process keep the memory it frees; say whether its allocator could be told.

    On a CPU every step allocates and frees all its buffers. By default the allocator returns them to the kernel, which
    hands them out again page by page and zeroed: 160,000 page faults a step at 224x224, a quarter of its processor
    time. Call this before the first computation. The process then stays as large as it ever was, and grows larger by
    fragmentation. Without glibc nothing is done.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    # One arena, since others are limited in size and fall back to mappings, which are returned when freed.
    return all([mallopt(ARENA_MAX, 1), mallopt(MMAP_MAX, 0), mallopt(TRIM_THRESHOLD, -1)])
