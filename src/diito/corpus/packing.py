"""Whole conversations as sequences: each alone (``lines``), or several in a block of one length without seeing each other.

What is longer than a sequence is cut at its end; what has nothing left to predict is left out. Blocks are filled best fit
first, the longest conversations first, among a few thousand at a time; what stays empty is padding, a document of its own.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diito.corpus.tokenise import Chunk

PADDING = -1
"""The number of the document that padding makes."""
CUT = "ends of conversations longer than a sequence"
WITHOUT_ANSWER = "conversations without an answer in what is kept"
MASKS, DOCUMENTS = "assistant_masks", "documents"
"""Columns: 1 where a token is predicted; the number of its conversation in a block."""


class _Kept(NamedTuple):
    """A conversation as it is kept."""

    number: int
    ids: NDArray[Any]
    predicted: NDArray[np.uint8]


Packed = tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64], dict[str, NDArray[Any]]]
"""Ids of successive sequences, joined; the tokens of each; the number of the conversation it begins with; further columns."""


def pack(chunks: Iterable[Chunk], *, length: int, dropped: dict[str, int], in_blocks: bool, padding: int) -> Iterator[Packed]:
    """Make each conversation a sequence of at most ``length`` tokens, or blocks of ``length``, filled up with ``padding``."""
    dropped.update({CUT: 0, WITHOUT_ANSWER: 0})
    seen = 0
    for chunk in chunks:
        kept = list(_kept(chunk, seen, length, dropped))
        seen += len(chunk.documents)
        if kept:
            yield _in_blocks(kept, length, padding, chunk.ids.dtype) if in_blocks else _alone(kept)


def _kept(chunk: Chunk, first: int, length: int, dropped: dict[str, int]) -> Iterator[_Kept]:
    assert chunk.predicted is not None
    ends = np.cumsum(chunk.documents)[:-1]
    for index, (ids, predicted) in enumerate(
        zip(np.split(chunk.ids, ends), np.split(chunk.predicted, ends), strict=True), start=first
    ):
        if not predicted[1:length].any():
            dropped[WITHOUT_ANSWER] += 1
            continue
        dropped[CUT] += len(ids) > length
        yield _Kept(index, ids[:length], predicted[:length])


def _alone(kept: list[_Kept]) -> Packed:
    sizes = np.array([len(each.ids) for each in kept], dtype=np.int64)
    numbers = np.array([each.number for each in kept], dtype=np.int64)
    further: dict[str, NDArray[Any]] = {MASKS: np.concatenate([each.predicted for each in kept])}
    return np.concatenate([each.ids for each in kept]), sizes, numbers, further


def _in_blocks(kept: list[_Kept], length: int, padding: int, dtype: Any) -> Packed:
    blocks = _fill([len(each.ids) for each in kept], length)
    ids = np.full((len(blocks), length), padding, dtype=dtype)
    predicted = np.zeros((len(blocks), length), dtype=np.uint8)
    documents = np.full((len(blocks), length), PADDING, dtype=np.int32)
    for row, members in enumerate(blocks):
        place = 0
        for number, member in enumerate(members):
            stop = place + len(kept[member].ids)
            ids[row, place:stop] = kept[member].ids
            predicted[row, place:stop] = kept[member].predicted
            documents[row, place:stop] = number
            place = stop
    owners = np.array([kept[members[0]].number for members in blocks], dtype=np.int64)
    further: dict[str, NDArray[Any]] = {MASKS: predicted.ravel(), DOCUMENTS: documents.ravel()}
    return ids.ravel(), np.full(len(blocks), length), owners, further


def _fill(sizes: list[int], length: int) -> list[list[int]]:
    """Which conversations stand in each block, in their order: each goes where least room is left for it."""
    blocks: list[list[int]] = []
    room: list[tuple[int, int]] = []  # what is left of each block, ascending, and its number
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        place = bisect.bisect_left(room, (sizes[index], 0))
        if place == len(room):
            blocks.append([])
            left, block = length, len(blocks) - 1
        else:
            left, block = room.pop(place)
        blocks[block].append(index)
        if left > sizes[index]:
            bisect.insort(room, (left - sizes[index], block))
    return [sorted(members) for members in blocks]
