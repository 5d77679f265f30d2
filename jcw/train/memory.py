"""Memory of a training process on a CPU."""

import os
import sys
from pathlib import Path

MODE = Path('/sys/kernel/mm/transparent_hugepage/enabled')
TUNABLES, HUGE_PAGES = 'GLIBC_TUNABLES', 'glibc.malloc.hugetlb'
BEFORE = 'JCW_GLIBC_TUNABLES'  # what they were, while a program restarts


def restart_with_huge_pages() -> None:
    """Start this program again, once, with huge pages for large blocks of memory.

    On a CPU every training step allocates and frees its temporary memory. The kernel hands it out zeroed, page by page:
    58,000 page faults a step of the full-size supernet, a quarter of its processor time. Pages of 2 MiB take a
    hundredth of the faults and half the time. The allocator must be told in the environment (`GLIBC_TUNABLES`), which
    it reads when a process starts.

    Call it before the program has done anything. It does nothing where the kernel does not leave huge pages to the
    program's choice, without glibc 2.35 or later, and where the setting was made already. Processes that this one
    starts do not inherit it.
    """
    before = os.environ.pop(BEFORE, None)
    if before is not None:
        os.environ[TUNABLES] = before
        if not before:
            del os.environ[TUNABLES]
        return
    tunables = os.environ.get(TUNABLES, '')
    if HUGE_PAGES in tunables or not _matter():
        return
    told = {BEFORE: tunables, TUNABLES: ':'.join(filter(None, [tunables, f'{HUGE_PAGES}=1']))}
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **told})


def _matter() -> bool:
    """Say whether programs may choose huge pages, and this one's allocator can ask for them."""
    try:
        version = (os.confstr('CS_GNU_LIBC_VERSION') or '').removeprefix('glibc ').split('.')
        return '[madvise]' in MODE.read_text() and tuple(map(int, version)) >= (2, 35)
    except (OSError, ValueError):
        return False
