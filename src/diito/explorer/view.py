"""What one looks at, as data: the texts, the swapped span, the layers. It goes into a link and comes back from one.

A link comes from anybody, and so does what a browser sends: both are read strictly and bounded, and refused in a sentence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from diito.refusal import Refusal

LONGEST_TEXT = 2_000
"""Characters of a text."""
_MOST_LAYERS = 1_000
_TEXTS = ("base", "base_pair", "source", "source_pair")
_NUMBERS = ("first", "last", "read", "slot", "donor")
MODELS = ("teacher", "student", "against")
"""The models that are shown, by what a link calls them."""


@dataclass(frozen=True)
class View:
    """What is shown. What is None is chosen by what the texts are."""

    base: str
    source: str
    base_pair: str = ""
    """The second text of the base, of tasks that have two."""
    source_pair: str = ""
    first: int | None = None
    """The first swapped token of the base."""
    last: int | None = None
    """The last swapped token."""
    read: int | None = None
    """The token of the source that the first swapped token reads."""
    slot: int | None = None
    """The token of the base at which the answer is read."""
    teacher: tuple[int, ...] | None = None
    """The swapped layers of each model."""
    student: tuple[int, ...] | None = None
    against: tuple[int, ...] | None = None
    donor: int = 0
    """Which draw the random donor is."""
    aligned: bool = True
    """Whether layers are chosen together, as the alignment pairs them."""

    def __post_init__(self) -> None:
        for name in _TEXTS:
            text = getattr(self, name)
            if not isinstance(text, str):
                raise Refusal(name, f"{text!r} is no text")
            if len(text) > LONGEST_TEXT:
                raise Refusal(name, f"has {len(text):,} characters; give at most {LONGEST_TEXT:,}")
            if any(0xD800 <= ord(character) < 0xE000 for character in text):
                raise Refusal(name, "holds half a character (a lone surrogate); leave it out")
        for name in _NUMBERS:
            number = getattr(self, name)
            if number is not None and not (_is_whole(number) and 0 <= number <= 10**6):
                raise Refusal(name, f"{str(number)[:20]!r} is no number from 0 on")
        for name in MODELS:
            layers = getattr(self, name)
            if layers is not None and not (
                0 < len(layers) <= _MOST_LAYERS and all(map(_is_whole, layers)) and sorted({*layers}) == [*layers]
            ):
                raise Refusal(name, "layers are increasing numbers from 0 on, such as 2,3")

    def with_texts(self, **texts: str) -> View:
        """With other texts; where they are others, what is swapped and read is chosen anew."""
        if all(getattr(self, name) == text for name, text in texts.items()):
            return self
        changes: dict[str, Any] = {**texts, "first": None, "last": None, "read": None, "slot": None}
        return dataclasses.replace(self, **changes)

    def link(self) -> str:
        """The query of an address that gives this view again."""
        parts: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value == field.default:
                continue
            parts[field.name] = ",".join(map(str, value)) if isinstance(value, tuple) else value
        if not self.aligned:
            parts["aligned"] = "no"
        return urlencode(parts)

    @classmethod
    def of_link(cls, query: Mapping[str, str]) -> View:
        """The view of a query, as :meth:`link` makes it. Raises Refusal for one that it cannot have made."""
        known = {field.name for field in dataclasses.fields(cls)}
        parts: dict[str, Any] = {}
        for name, value in query.items():
            if name not in known:
                continue  # what a browser or a proxy adds
            if name in _NUMBERS:
                parts[name] = _number(name, value)
            elif name in MODELS:
                parts[name] = tuple(_number(name, each) for each in value.split(",")[: _MOST_LAYERS + 1])
            elif name == "aligned":
                parts[name] = value != "no"
            else:
                parts[name] = value
        if "base" not in parts or "source" not in parts:
            raise Refusal("link", "names no base or no source; copy the whole address")
        return cls(**parts)


def _is_whole(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 0


def _number(name: str, value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= 7):
        raise Refusal(name, f"{value[:20]!r} is no number from 0 on")
    return int(value)
