"""Files as streams, plain or compressed: what goes wrong inside one becomes a sentence about it, and none grows without end."""

from __future__ import annotations

import contextlib
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from diito.faults import is_full
from diito.refusal import Refusal

COMPRESSIONS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open}

UNPACKED_FOLD = 200
"""A compressed file may hold this many times its own size; text rarely reaches 20 times, gzip ends at 1,030 times."""
UNPACKED_FREE = 1 << 26
"""Bytes (64 MiB) that any compressed file may hold, however small it is."""


def stem_suffix(path: Path) -> str:
    """The ending that tells the kind: ``.txt`` for both ``a.txt`` and ``a.txt.gz``; empty where there is none."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


@contextlib.contextmanager
def readable(path: Path, field: str) -> Iterator[None]:
    """Turn what goes wrong inside a file into one sentence (Refusal) about that file."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise Refusal(field, f"'{path}' is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise Refusal(field, f"'{path}' is damaged or not a whole {path.suffix} file ({error})") from error
    except OSError as error:
        if is_full(error):  # of a place that is written to while this file is read
            raise
        raise Refusal(field, f"'{path}' cannot be read ({error.strerror or error})") from error


@contextlib.contextmanager
def open_binary(path: Path, field: str) -> Iterator[Any]:
    """The bytes of a file, unpacked. Raises Refusal for one that cannot be read, and while it is read for one that is damaged
    or grows beyond :data:`UNPACKED_FOLD`."""
    with readable(path, field):
        opener = COMPRESSIONS.get(path.suffix.lower())
        if opener is None:
            with path.open("rb") as stream:
                yield stream
            return
        with opener(path, "rb") as unpacked, io.BufferedReader(_Bounded(unpacked, path, field), 1 << 16) as stream:
            yield stream


@contextlib.contextmanager
def open_text(path: Path, field: str, *, newline: str | None = None) -> Iterator[io.TextIOWrapper]:
    """A file as UTF-8 text, unpacked; a byte-order mark at the start is no part of it. Raises as :func:`open_binary`."""
    with open_binary(path, field) as stream, io.TextIOWrapper(stream, encoding="utf-8-sig", newline=newline) as text:
        yield text


class _Bounded(io.RawIOBase):
    """A stream that is unpacked, up to a limit: a small file can hold more than any disk."""

    def __init__(self, unpacked: Any, path: Path, field: str) -> None:
        self._unpacked, self._path, self._field = unpacked, path, field
        self._left = max(UNPACKED_FREE, UNPACKED_FOLD * path.stat().st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count: int = self._unpacked.readinto(buffer)
        self._left -= count
        if self._left < 0:
            raise Refusal(
                self._field,
                f"'{self._path}' grows more than {UNPACKED_FOLD}-fold when it is unpacked; "
                "if that is meant, unpack it yourself and give the plain file",
            )
        return count
