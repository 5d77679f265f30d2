"""Memory of a training process on a CPU."""

import ctypes
import os

import jax

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # parameters of glibc's `mallopt`


def keep_freed() -> None:
    """Have this process keep the memory that it frees, to be used again.

    XLA allocates a program's temporary memory anew in every call. Of glibc it gets blocks of that size from the kernel,
    which takes them back when they are freed and hands out zeroed ones, page by page: 58,000 page faults in a step of
    the full-size supernet on a CPU, a quarter of its processor time. With this there are none, and the process stays as
    large as it has once been.

    Only the main thread's part of the allocator holds such blocks reliably, so that programs are run by the thread that
    calls them, best the main one, not asynchronously by another; until one ends, its thread does nothing else. Call
    this before JAX's first computation. A program of several CPU devices runs in other threads all the same, and gains
    nothing. Without glibc this does nothing.
    """
    if not _glibc():
        return
    allocator = ctypes.CDLL(None)
    allocator.mallopt(MMAP_MAX, 0)
    allocator.mallopt(TRIM_THRESHOLD, -1)
    jax.config.update('jax_cpu_enable_async_dispatch', False)


def _glibc() -> bool:
    try:
        return (os.confstr('CS_GNU_LIBC_VERSION') or '').startswith('glibc')
    except (AttributeError, OSError, ValueError):
        return False
