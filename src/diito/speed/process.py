"""Settings of the whole process that training on a CPU needs: how long threads wait awake, what becomes of freed memory."""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h
_LARGEST = 2**31 - 1


def limit_spinning() -> None:
    """Let threads that wait for others go to sleep after some tens of microseconds, unless the environment says otherwise.

    By default they spin for milliseconds, which is fastest on a machine of one's own and three times slower on one that others
    use too; sleeping at once is slower alone. Only before torch is imported: its threads read the environment then.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # GNU's OpenMP, in torch's own builds for Linux
        os.environ.setdefault("KMP_BLOCKTIME", "0")  # LLVM's and Intel's: milliseconds


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
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _LARGEST))
