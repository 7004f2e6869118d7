"""Keep the memory that a step frees for the next one.

glibc hands large freed blocks back to the operating system: those above its mmap threshold (at most 32 MiB, so the
gradient of every word embedding) at once, the others whenever the top of the heap is free. The next step asks for the
same sizes again, and the system has to fill tens of thousands of fresh pages with zeros: on a processor 5 to 12 % of a
small encoder's step. Kept blocks hold the same numbers at other addresses, so nothing that is computed changes.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator

# Parameters of mallopt(3), by their numbers in glibc's malloc.h, and its defaults.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_NEVER, _NO_BLOCKS = 2**31 - 1, 0
_LARGEST_DYNAMIC_TRIM, _DEFAULT_BLOCKS = 64 * 2**20, 65536


@contextlib.contextmanager
def kept_memory() -> Iterator[None]:
    """Inside, freed memory stays with the process; on leaving, what is free goes back to the operating system.

    Concerns the whole process. Does nothing where the C library is not glibc, and little in a thread whose allocation
    once failed: glibc moves it to another arena, whose blocks of 64 MiB and more are mapped one by one.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    libc.mallopt(_MMAP_MAX, _NO_BLOCKS)
    libc.mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        libc.mallopt(_MMAP_MAX, _DEFAULT_BLOCKS)
        # glibc would move its threshold up to this value by itself as large blocks are freed.
        libc.mallopt(_TRIM_THRESHOLD, _LARGEST_DYNAMIC_TRIM)
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
