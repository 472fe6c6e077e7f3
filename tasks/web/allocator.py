"""Parsing page after page without giving the memory of each tree back to the kernel in between."""

import ctypes
import sys
from functools import cache

# glibc, malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 64 << 20
_MAPPED_BYTES = 32 << 20  # the most that glibc takes


@cache
def keep_freed_memory() -> bool:
    """Let this process keep up to 64 MiB that it has freed; True where that is in our hands (glibc). Once a process.

    lexbor frees a page's tree in large pieces. By default glibc hands them to the kernel at once and asks for them
    again at the next page, and every new page of memory is a fault: 5.5 us instead of 25 for the smallest document,
    and about 30 % of the time of parsing (documentation pages, 35 KB).
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return bool(mallopt and mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES) and mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES))
