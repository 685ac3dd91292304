"""How a stream of tokens is cut into sequences: ``blocks`` without padding, or ``lines`` as in the paper.

Both take chunks (the ids of successive documents, and the tokens of each document, of which the last may go on in the next
chunk) and yield :data:`Sequences`. What is left out is counted in ``dropped``, by reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from diito.corpus.framing import Framing
from diito.corpus.tokenise import Chunk, Tokeniser

Sequences: TypeAlias = tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]
"""Ids of successive sequences, joined, specials included; the tokens of each; the number of the document it begins in."""

TAIL = "tokens that fill no block"
SHORT = "sequences too short"
UNKNOWN = "sequences mostly unknown"


def blocks(
    chunks: Iterable[Chunk], tokeniser: Tokeniser, *, length: int, dropped: dict[str, int], apart: bool = False
) -> Iterator[Sequences]:
    """Join all documents and cut them to what fits a sequence of ``length`` within the framing, such as [CLS] ... [SEP].

    Nothing stands between two documents; ``apart`` frames each document instead of each sequence.
    Only the tail of the whole corpus that fills no block is dropped.
    """
    framing = Framing() if apart else tokeniser.framing
    body = length - len(framing)
    start, stop = len(framing.before), length - len(framing.after)
    tail, owners = np.empty(0, dtype=tokeniser.dtype), np.empty(0, dtype=np.int64)
    seen = 0
    for chunk in chunks:
        ids, documents, goes_on = (_frame_documents(chunk, tokeniser) if apart else chunk)[:3]
        first, seen = seen - goes_on, seen - goes_on + len(documents)
        joined = np.concatenate([tail, ids])
        owners = np.concatenate([owners, np.repeat(np.arange(first, seen), documents)])
        count = len(joined) // body
        sequences = np.empty((count, length), dtype=tokeniser.dtype)
        sequences[:, :start] = framing.before
        sequences[:, start:stop] = joined[: count * body].reshape(count, body)
        sequences[:, stop:] = framing.after
        yield sequences.ravel(), np.full(count, length), owners[: count * body : body]
        tail, owners = joined[count * body :], owners[count * body :]
    dropped[TAIL] = len(tail)


def lines(
    chunks: Iterable[Chunk],
    tokeniser: Tokeniser,
    *,
    length: int,
    minimum_tokens: int,
    maximum_unknown: float,
    dropped: dict[str, int],
) -> Iterator[Sequences]:
    """Make each document a sequence within its framing, such as [CLS] ... [SEP]; one longer than ``length`` is split and each
    piece framed again.

    A sequence is then dropped if it has fewer than ``minimum_tokens`` tokens, or if the share of its tokens that are
    unknown is ``maximum_unknown`` or more. Both count the framing among the tokens, as the released code of the
    paper does.
    """
    dropped.update({SHORT: 0, UNKNOWN: 0})
    body = length - len(tokeniser.framing)
    seen = 0
    tail = np.empty(0, dtype=tokeniser.dtype)  # of a document that goes on: a sequence may end in the next chunk
    for chunk in chunks:
        ids, documents, goes_on, unfinished = chunk[:4]
        first, seen = seen - goes_on, seen - goes_on + len(documents)
        if goes_on:
            ids, documents = np.concatenate([tail, ids]), np.concatenate([[len(tail) + documents[0]], documents[1:]])
        if unfinished:
            kept = len(ids) - _rest(int(documents[-1]), body)
            documents = np.concatenate([documents[:-1], [documents[-1] - len(ids) + kept]])
            ids, tail = ids[:kept], ids[kept:]
            documents = documents if documents[-1] else documents[:-1]
        owners = np.repeat(np.arange(first, first + len(documents)), _pieces(documents, body))
        sizes = _split_sizes(documents, body)
        totals = sizes + len(tokeniser.framing)
        short = (totals < minimum_tokens) | (sizes == 0)
        unknown = ~short & (_count_unknown(ids, sizes, tokeniser.unknown) >= maximum_unknown * totals)
        dropped[SHORT] += int(short.sum())
        dropped[UNKNOWN] += int(unknown.sum())
        kept = ~(short | unknown)
        yield _frame(ids[np.repeat(kept, sizes)], sizes[kept], tokeniser), totals[kept], owners[kept]


def _frame_documents(chunk: Chunk, tokeniser: Tokeniser) -> Chunk:
    """The chunk with the framing around each document: before one that begins in it, behind one that ends in it."""
    before, after = tokeniser.framing.before, tokeniser.framing.after
    ends = np.cumsum(chunk.documents)
    sides = [*(ends - chunk.documents for _ in before), *(ends for _ in after)]
    kept = np.ones((len(ends), len(sides)), dtype=np.bool_)
    if chunk.goes_on:
        kept[0, : len(before)] = False
    if chunk.unfinished:
        kept[-1, len(before) :] = False
    tokens = np.broadcast_to(np.array([*before, *after], dtype=tokeniser.dtype), kept.shape)
    ids = np.insert(chunk.ids, np.stack(sides, axis=1)[kept], tokens[kept])  # those at one place stay in their order
    return chunk._replace(ids=ids, documents=chunk.documents + kept.sum(axis=1))


def _split_sizes(documents: NDArray[np.int64], body: int) -> NDArray[np.int64]:
    """The tokens of each piece: full pieces and then the rest. A document without a token is one piece without a
    token."""
    pieces = _pieces(documents, body)
    sizes = np.full(int(pieces.sum()), body, dtype=np.int64)
    sizes[np.cumsum(pieces) - 1] = documents - (pieces - 1) * body
    return sizes


def _rest(tokens: int, body: int) -> int:
    """The tokens of a document's last piece."""
    return tokens - (max(1, -(-tokens // body)) - 1) * body


def _pieces(documents: NDArray[np.int64], body: int) -> NDArray[np.int64]:
    return np.maximum(1, -(-documents // body))


def _count_unknown(ids: NDArray[np.integer], sizes: NDArray[np.int64], unknown: int | None) -> NDArray[np.int64]:
    if unknown is None:
        return np.zeros(len(sizes), dtype=np.int64)
    until = np.concatenate([[0], np.cumsum(ids == unknown)])
    ends = np.cumsum(sizes)
    counts: NDArray[np.int64] = until[ends] - until[ends - sizes]
    return counts


def _frame(ids: NDArray[np.integer], sizes: NDArray[np.int64], tokeniser: Tokeniser) -> NDArray[np.integer]:
    framing = tokeniser.framing
    ends = np.cumsum(sizes + len(framing))
    framed = np.empty(int(ends[-1]) if len(ends) else 0, dtype=tokeniser.dtype)
    body = np.ones(len(framed), dtype=np.bool_)
    for starts, side in ((ends - sizes - len(framing), framing.before), (ends - len(framing.after), framing.after)):
        for offset, token in enumerate(side):
            framed[starts + offset] = token
            body[starts + offset] = False
    framed[body] = ids
    return framed
