"""A lock on something that one process at a time may write, with the name of who holds it.

The lock is the operating system's, so it ends with its holder, however that ends; a file beside it, ``<lock>.holder``, says
who. No torch here.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from diito.files import write_text, writing

HOLDER = ".holder"
_GRACE = 15.0
"""Seconds that a holder's own workers may outlive it; they have the lock as long."""


class Held(Exception):
    """Another process holds the lock; ``str`` names it: "process 123 on host"."""


@contextmanager
def hold(path: Path, *, waiting: Callable[[str], object] | None = None) -> Iterator[None]:
    """Hold the lock ``path``.

    ``waiting``: called once with the holder's name before it is waited for; None does not wait. Raises :class:`Held` then, and
    CannotWrite where the lock cannot be made.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _acquire(path, waiting)
        try:
            write_text(_holder_file(path), json.dumps({"process": os.getpid(), "host": socket.gethostname()}) + "\n")
        except BaseException:
            lock.release()
            raise
    try:
        yield
    finally:
        _holder_file(path).unlink(missing_ok=True)
        lock.release()


def holder(path: Path) -> str | None:
    """Who holds the lock ``path``, as far as can be seen without asking for it; None: nobody."""
    if not _holder_file(path).is_file():
        return None
    name, is_gone = _holder(path)
    return None if is_gone else name


def _acquire(path: Path, waiting: Callable[[str], object] | None) -> FileLock:
    lock = FileLock(path)
    patience = time.monotonic() + _GRACE
    said = False
    while True:
        try:
            lock.acquire(timeout=0)
            return lock
        except Timeout:
            name, is_gone = _holder(path)
            if waiting is not None and not said:
                waiting(name)
                said = True
            if waiting is None and not (is_gone and time.monotonic() < patience):
                raise Held(name) from None
            time.sleep(0.05)


def _holder(path: Path) -> tuple[str, bool]:
    """The name of the holder, and whether it is known to have ended."""
    try:
        holder = json.loads(_holder_file(path).read_text(encoding="utf-8"))
        process, host = int(holder["process"]), str(holder["host"])
    except (OSError, ValueError, KeyError, TypeError):  # about to write its name, or to go
        return "another process", True
    return f"process {process} on {host}", host == socket.gethostname() and not _is_alive(process)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _holder_file(path: Path) -> Path:
    return path.with_name(path.name + HOLDER)
