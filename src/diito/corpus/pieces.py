"""Long documents in pieces, so that none has to be held or tokenised whole.

A document is an ordinary string, or for a long one a run of :class:`Piece`. Where it is cut depends on its stripped text alone,
whatever file it came from, and lies between two words where there are any: a tokenizer sees the same words on either side.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator

LONGEST = 1 << 22
"""Characters of a document that are read at a time: what is longer comes in pieces."""
_SEARCHED = 1 << 16  # characters in which a place to cut is looked for


class Piece(str):
    """A piece of a document; of one that was cut between two words the space begins the second piece."""

    first: bool
    last: bool

    def __new__(cls, text: str, first: bool = False, last: bool = False) -> Piece:
        piece = super().__new__(cls, text)
        piece.first, piece.last = first, last
        return piece


def begins(document: str) -> bool:
    """Whether this is a document, or the first piece of one."""
    return not isinstance(document, Piece) or document.first


def ends(document: str) -> bool:
    """Whether this is a document, or the last piece of one."""
    return not isinstance(document, Piece) or document.last


def strip_and_cut(parts: Iterable[str], longest: int) -> Iterator[str]:
    """The document whose text comes in ``parts``, without white space around it: nothing where it is blank, one string where
    it has at most ``longest`` characters, else pieces."""
    held, first = "", True
    for part in parts:
        held = held + part if held else part
        if first:
            held = held.lstrip()
        start = 0
        # White space at the end is none of the document's, unless text follows; as much as that is not waited for.
        while len(held) - start > longest and (len(held) - start > 2 * longest or len(held.rstrip()) - start > longest):
            stop = start + _find_cut(held[start : start + longest + 1], longest)
            yield Piece(held[start:stop], first=first)
            start, first = stop, False
        held = held[start:]
    held = held.rstrip()
    if not first:
        yield Piece(held, last=True)
    elif held:
        yield held


def cut(document: str, longest: int) -> Iterator[str]:
    """A document or piece in pieces of at most ``longest`` characters."""
    first, last, start = begins(document), ends(document), 0
    if len(document) <= longest:
        yield document
        return
    while len(document) - start > longest:
        stop = start + _find_cut(document[start : start + longest + 1], longest)
        yield Piece(document[start:stop], first=first and start == 0)
        start = stop
    yield Piece(document[start:], first=False, last=last)


def _find_cut(text: str, longest: int) -> int:
    """Where to cut a text of more than ``longest`` characters: before the last space between two words, before any white space,
    behind the last sign that is no letter, or where no accent is taken from its letter."""
    lowest = max(1, longest // 2, longest - _SEARCHED)
    place = longest + 1
    while (place := text.rfind(" ", lowest, place)) > 0:
        if text[place - 1].isalnum() and text[place + 1 : place + 2].isalnum():
            return place
    for place in range(longest, lowest, -1):
        if text[place].isspace() and not text[place - 1].isspace():
            return place
    for place in range(longest, lowest, -1):
        if not text[place - 1].isalnum() and text[place].isalnum():
            return place
    place = longest
    while place > lowest and (unicodedata.combining(text[place]) or unicodedata.category(text[place]) in ("Cf", "Mn", "Mc")):
        place -= 1
    return place
