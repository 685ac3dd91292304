"""The kinds of evaluation by name, and those of the user's own. No torch here.

What a kind is stands in ``kind.py``; the rows stand with what they measure.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
from collections.abc import Iterator
from typing import Any

from diito.evaluation.fine_tuning.kinds import FINE_TUNING
from diito.evaluation.harness.kinds import HARNESS
from diito.evaluation.held_out.kinds import HELD_OUT
from diito.evaluation.kind import Figure, Job, Kind, Result
from diito.evaluation.settings import AllSettings
from diito.evaluation.structure.kinds import STRUCTURE
from diito.plugins import load
from diito.refusal import Refusal

__all__ = ["GROUP", "KINDS", "PARTS", "Figure", "Job", "Kind", "Result", "check_packages", "find", "parts_of", "refusals_under"]

GROUP = "diito.evaluations"
"""The entry points by which an installed package adds kinds."""

PARTS = [field.name for field in dataclasses.fields(AllSettings) if field.name != "parts"]
"""The kinds that ``all`` is composed of, and that a grid measures its students on."""


def _parts_of_all(settings: AllSettings) -> dict[str, Any]:
    for name in settings.parts:
        if name not in PARTS:
            raise Refusal("parts", f"{name!r} is not one of {', '.join(PARTS)}")
    if not settings.parts:
        raise Refusal("parts", f"the list is empty; give some of {', '.join(PARTS)}")
    return {name: getattr(settings, name) for name in PARTS if name in settings.parts}


def _nothing_of_its_own(*arguments: Any, **keywords: Any) -> Any:
    raise AssertionError("a kind that is composed of others is measured part by part")


_ALL = Kind(
    "all",
    AllSettings,
    jobs=_nothing_of_its_own,
    identity=_nothing_of_its_own,
    tables=_nothing_of_its_own,
    parts=_parts_of_all,
)

KINDS: dict[str, Kind] = {kind.name: kind for kind in (*HELD_OUT, STRUCTURE, *FINE_TUNING, HARNESS, _ALL)}
"""The kinds of evaluation by name."""


def find(reference: str | Kind) -> Kind:
    """The kind of that name: one of :data:`KINDS`, an entry point, or ``module:row``. Raises Refusal where there is none."""
    kind = reference if isinstance(reference, Kind) else load(reference, field="KIND", group=GROUP, known=KINDS)
    if not isinstance(kind, Kind):
        raise Refusal("KIND", f"{reference} is a {type(kind).__name__}; it must be a diito.evaluation.kinds.Kind")
    return kind


def parts_of(kind: Kind, settings: Any) -> list[tuple[str, Kind, Any]]:
    """What is measured one after another: the flags' prefix, the kind and the settings of each."""
    if kind.parts is None:
        return [("", kind, settings)]
    return [(f"{name}.", find(name), part) for name, part in kind.parts(settings).items()]


def check_packages(kind: Kind, settings: Any) -> None:
    """Refuse (Refusal) to start without the packages that a measurement with these settings would miss at its end."""
    for _, part, part_settings in parts_of(kind, settings):
        for module in part.packages(part_settings):
            if importlib.util.find_spec(module) is None:
                raise Refusal("", f"{module} is not installed; install it with: pip install 'diito[{part.extra}]'")


@contextlib.contextmanager
def refusals_under(prefix: str, settings: Any) -> Iterator[None]:
    """Refusals of a field of ``settings`` come out with ``prefix`` before it, as the user writes it; others as they are."""
    try:
        yield
    except Refusal as refusal:
        if _has_field(settings, refusal.field):
            raise refusal.under(prefix) from refusal
        raise


def _has_field(settings: Any, path: str) -> bool:
    """Whether a dotted path, such as ``alignment.pairs[0].student``, leads into the settings."""
    first, _, rest = path.partition(".")
    name, index, _ = first.partition("[")
    if not dataclasses.is_dataclass(settings) or not any(field.name == name for field in dataclasses.fields(settings)):
        return False
    return not rest or bool(index) or _has_field(getattr(settings, name), rest)
