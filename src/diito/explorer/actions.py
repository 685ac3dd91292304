"""What a press of a button does to a view. What a browser sends is read strictly: it may be anything."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from diito.explorer.subjects import Subjects
from diito.explorer.view import View
from diito.refusal import Refusal


def acted(view: View, act: object, subjects: Subjects) -> View:
    """The settled ``view`` after an action, a mapping with a ``kind``. Raises Refusal for one that there is not."""
    if not isinstance(act, Mapping):
        raise Refusal("action", "is no mapping with a kind")
    kind = act.get("kind")
    if kind == "swap":
        first, last = sorted((_number(act, "first"), _number(act, "last")))
        assert view.first is not None and view.read is not None
        return dataclasses.replace(view, first=first, last=last, read=max(0, first + view.read - view.first))
    if kind == "read":
        return dataclasses.replace(view, read=_number(act, "at"))
    if kind == "slot":
        return dataclasses.replace(view, slot=_number(act, "at"))
    if kind == "donor":
        return dataclasses.replace(view, donor=(view.donor + 1) % 10**6)
    if kind == "aligned":
        return dataclasses.replace(view, aligned=act.get("on") is True)
    if kind == "layer":
        return _with_layer(dataclasses.replace(view, aligned=True), act, subjects)
    if kind == "cell":
        at = _number(act, "at", least=-(10**6)) + (view.slot or 0) if act.get("mean") is True else _number(act, "at")
        if at < 0:
            raise Refusal("swap", "there is no token so far before the answer in this text")
        moved = acted(view, {"kind": "swap", "first": at, "last": at}, subjects)
        return _with_layer(moved, act, subjects)
    raise Refusal("action", f"{str(kind)[:20]!r} is none of swap, read, slot, donor, aligned, layer and cell")


def _with_layer(view: View, act: Mapping[str, Any], subjects: Subjects) -> View:
    """The layer of a model, and with it those of the others that are aligned with it, where they are chosen together."""
    role, layer = act.get("model"), _number(act, "layer")
    if role not in subjects.models:
        raise Refusal("model", f"{str(role)[:20]!r} is none of {', '.join(subjects.models)}")
    together = subjects.aligned(role, layer) if view.aligned else None
    return dataclasses.replace(view, **({role: (layer,)} if together is None else together))


def _number(act: Mapping[str, Any], name: str, least: int = 0) -> int:
    number = act.get(name)
    if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= 10**6:
        raise Refusal(name, f"{str(number)[:20]!r} is no number from {least} on")
    return number
