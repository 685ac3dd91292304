"""The memory allocator of the process, where it stands in the way of training on a CPU."""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, instead of giving large blocks back to the system at once.

    A step makes and frees gigabytes in tensors of many megabytes; given back, each of their pages is zeroed and mapped again
    at the next step. Only glibc has this switch, and where the environment sets one of its MALLOC_ variables that stands.
    Returns whether the switch was set.
    """
    chosen_by_user = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if not sys.platform.startswith("linux") or chosen_by_user:
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST) and mallopt(_M_TRIM_THRESHOLD, _LARGEST))
