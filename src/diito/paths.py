"""Paths as the user writes them: ``~`` and environment variables are expanded here and nowhere else."""

from __future__ import annotations

import os
import re
from pathlib import Path

from diito.refusal import Refusal

_VARIABLE = re.compile(r"\$(\w+|\{[^}]*\})")


def expand(path: str | Path, *, field: str = "") -> Path:
    """The path with ``~`` as the home folder and ``$NAME`` or ``${NAME}`` as the variable's value.

    A sign $ in the name of something that exists is that sign. Raises Refusal, naming ``field``, for a variable that is not set
    and a user that does not exist: the folder would be called ``$NAME`` or ``~name``.
    """
    written = str(path)
    home = os.path.expanduser(written)
    expanded = home if os.path.lexists(home) else os.path.expanduser(os.path.expandvars(written))
    if not os.path.lexists(expanded) and (left := _VARIABLE.search(expanded)):
        raise Refusal(
            field, f"the environment variable {left.group()} in {written!r} is not set; set it, or write the path in full"
        )
    if expanded.startswith("~"):
        raise Refusal(field, f"{written!r} begins with the home folder of a user who does not exist; write the path in full")
    return Path(expanded)
