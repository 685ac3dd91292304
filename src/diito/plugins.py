"""Parts of the user's own: a name that diito knows, an entry point of an installed package, or an import path.

A package offers parts under the entry-point groups ``diito.losses``, ``diito.positions``, ``diito.pairings``,
``diito.tasks`` and ``diito.evaluations``. An import path is ``package.module:attribute``; modules in the current directory
are found, as with ``python -m``. No torch here.
"""

from __future__ import annotations

import difflib
import importlib
import re
import sys
from collections.abc import Collection, Mapping
from importlib.metadata import entry_points
from typing import TypeVar

from diito.refusal import Refusal

Part = TypeVar("Part")


def load(reference: str, *, field: str, group: str, known: Mapping[str, Part]) -> Part:
    """The part that ``reference`` names. Raises :class:`Refusal` naming ``field`` where there is none.

    ``group``: of entry points, such as ``diito.losses``; ``known``: diito's own parts by name.
    """
    if reference in known:
        return known[reference]
    check_reference(reference, field=field, group=group, known=known)
    if "" not in sys.path:
        sys.path.insert(0, "")
    module_name, _, attribute = reference.partition(":")
    try:
        for entry in entry_points(group=group, name=reference):
            part: Part = entry.load()
            return part
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's own module does when it is imported
        kind = "" if isinstance(error, ImportError) else f"{type(error).__name__}: "
        raise Refusal(field, f"{reference} cannot be imported: {kind}{error}") from error
    if not hasattr(module, attribute):
        near = difflib.get_close_matches(attribute, dir(module), n=1)
        hint = f"; did you mean {module_name}:{near[0]}?" if near else ""
        raise Refusal(field, f"{module_name} has no {attribute}{hint}")
    part = getattr(module, attribute)
    return part


def check_reference(reference: str, *, field: str, group: str, known: Collection[str]) -> None:
    """Refuse a reference that can be nothing, without importing anything."""
    if reference in known or re.fullmatch(r"\w+(\.\w+)*:\w+", reference):
        return
    names = [*known, *sorted(installed(group))]
    if reference in names:
        return
    near = difflib.get_close_matches(reference, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"give one of {', '.join(names)}" if names else "none is installed"
    raise Refusal(field, f"{reference!r} is not known; {hint} (or an import path, such as my_package.module:name)")


def installed(group: str) -> set[str]:
    """The names of the parts that installed packages offer under ``group``."""
    return {entry.name for entry in entry_points(group=group)}
