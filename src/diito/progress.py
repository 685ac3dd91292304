"""Bars with the time left, on a terminal, while a command wants them; a function called from Python shows none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from tqdm import tqdm

_WANTED: ContextVar[bool] = ContextVar("bars", default=False)


@contextmanager
def bars(*, wanted: bool = True) -> Iterator[None]:
    """Show :func:`bar` on a terminal within."""
    token = _WANTED.set(wanted)
    try:
        yield
    finally:
        _WANTED.reset(token)


def bar(items: Iterable[Any], name: str, unit: str, *, total: int | None = None, done: int = 0) -> Any:
    """``items`` with a bar (of tqdm) of that name, which counts them in ``unit``.

    ``total``: of items that do not say how many they are; ``done`` before the first of them.
    """
    shown: dict[str, Any] = {"desc": name, "unit": f" {unit}", "total": total, "initial": done, "dynamic_ncols": True}
    return tqdm(items, **shown, disable=None if _WANTED.get() else True)
