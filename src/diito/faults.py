"""What an error of a library says to the user: the part of its message that helps, and what kind of fault it is.

For errors that come up while something is loaded that the user named; those of the program itself stay as they are.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Iterator

from diito.refusal import Refusal, Refusals

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_UNREACHABLE = (
    "ConnectError",
    "ConnectTimeout",
    "ConnectionError",
    "OfflineModeIsEnabled",
    "ProxyError",
    "ReadError",
    "ReadTimeout",
    "RemoteProtocolError",
)
"""Errors of the libraries that reach the hub, by name: which library it is changes with theirs."""
_EMPTY = ("an error occurred while generating the dataset",)
_EXAMPLE = ("example of usage", "this happened while the")
_LONGEST = 2_000  # characters of a message: a list of configurations is long


@contextlib.contextmanager
def loading(what: str, field: str, *, advice: str) -> Iterator[None]:
    """Around the call of a library that loads ``what`` the user named: an error of any type becomes one Refusal of ``field``.

    A full disk, a cache that cannot be written and a hub that cannot be reached are told apart; anything else is told with the
    library's own reason and ``advice``. For nothing but that call, since a fault of the program must stay a traceback.
    """
    try:
        with quiet_hub():
            yield
    except (Refusal, Refusals, MemoryError):
        raise
    except Exception as error:
        raise Refusal(field, f"{what} cannot be loaded{_because(error, advice)}") from error


@contextlib.contextmanager
def quiet_hub() -> Iterator[None]:
    """Keep the hub's client from printing a line for each of its tries: what comes of the last one is said."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _because(error: Exception, advice: str) -> str:
    if is_full(error):
        return f": the disk is full ({reason(error)}); free some space, or set HF_HOME to a folder on another disk"
    if is_forbidden(error):
        return f": its cache is not accessible ({reason(error)}); set HF_HOME to a folder of your own"
    if "gated" in reason(error).lower():
        return f" ({reason(error)}); ask for it on its page, then log in with: hf auth login"
    if is_unreachable(error):
        return f": the hub cannot be reached ({reason(error)}); check the network, or give a local copy"
    return f" ({reason(error)}); {advice}"


def reason(error: BaseException) -> str:
    """The message of an error in one line, for a sentence: of its cause where it says nothing itself.

    All lines count, not the first one: the list of configurations, the package that is missing or the second of two sizes
    often stands in a later one.
    """
    for each in causes(error):
        told = " ".join(_telling(str(each))).rstrip(".:")
        if told:
            named = told if told[0].isalpha() else f"{type(each).__name__}: {told}"  # of a key or a list alone
            return named if len(named) <= _LONGEST else f"{named[:_LONGEST].rstrip()} …"
    return type(error).__name__


def is_full(error: BaseException) -> bool:
    """Whether the error, or one that it comes from, is a full disk, a quota or a limit on the size of files."""
    return any(
        (isinstance(each, OSError) and each.errno in _FULL) or os.strerror(errno.ENOSPC) in str(each)  # of a library in Rust
        for each in causes(error)
    )


def is_forbidden(error: BaseException) -> bool:
    """Whether the error comes from a file or folder that this user may not write or read."""
    return any(isinstance(each, OSError) and each.errno in _FORBIDDEN for each in causes(error))


def is_unreachable(error: BaseException) -> bool:
    """Whether the error comes from a server that does not answer."""
    return any(type(each).__name__ in _UNREACHABLE or isinstance(each, ConnectionError) for each in causes(error))


def remedy(error: BaseException) -> str:
    """What the user can do about something that could not be written."""
    return "make that place writable" if is_forbidden(error) and not is_full(error) else "free some space"


def _telling(message: str) -> Iterator[str]:
    """The words of a message without the lines that help nobody."""
    for line in message.splitlines():
        words = " ".join(line.split())
        if words.lower().startswith(_EXAMPLE):
            return
        if not words.lower().startswith(_EMPTY):
            yield from words.split()


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error, what caused it, what caused that."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
