"""Documents to token ids, in several processes and in order.

1. :class:`Documents` reads the sources, keeps a seeded ``share`` and counts what it saw;
2. :func:`tokenise` hands chunks of them to worker processes, a few chunks ahead of what has been taken and no more;
3. each chunk comes back, in the order of the text, as one array of ids without specials and the tokens of each
   document. A long document is tokenised piece by piece: what a tokenizer holds for a character is hundreds of bytes.

What it needs to resume: nothing; a second reading gives the same documents and the same tokens.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import multiprocessing
import os
import random
import signal
import sys
import threading
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from diito.corpus.framing import Framing, framing_of, unknown_id
from diito.corpus.pieces import Piece, begins, cut, ends


class Chunk(NamedTuple):
    """The tokens of successive documents."""

    ids: NDArray[Any]
    """Of all of them, joined."""
    documents: NDArray[np.int64]
    """The number of tokens of each."""
    goes_on: bool = False
    """Whether the first document is the rest of the last one of the chunk before."""
    unfinished: bool = False
    """Whether the last document goes on in the next chunk."""
    predicted: NDArray[np.uint8] | None = None
    """Of conversations: 1 for each token that is predicted."""


CHUNK_CHARACTERS = 1 << 18
"""Text tokenised at a time, a quarter of a megabyte: it bounds memory, for the encodings of a tokenizer are large."""
_AHEAD = 3  # chunks in flight for each process
_UNKNOWN = "<unk>"


@dataclass(frozen=True)
class Part:
    """The documents that are held out, or the others: a draw for each document, keyed by the seed and its text.

    So no text is on both sides, whatever stands around it and however often.
    """

    share: float
    """Of the documents, the held-out ones, on average."""
    seed: int
    held_out: bool
    """Whether this is the held-out part."""

    def has(self, document: str) -> bool:
        """Whether the document belongs to this part; of one in pieces, as its first piece says."""
        key = f"held out {self.seed}".encode()
        digest = hashlib.blake2b(document.encode("utf-8", "surrogatepass"), key=key, digest_size=8).digest()
        return (int.from_bytes(digest, "big") < self.share * 2**64) == self.held_out


@runtime_checkable
class Source(Protocol):
    """What documents are read from."""

    def documents(self) -> Iterator[str]:
        """The documents in order, the same ones whenever it is asked."""


class Documents:
    """The documents of all sources in order, or a seeded subset of exactly round(share * documents) of them, in order.

    ``part``: of those that belong to it; None takes all.

    ``seen`` and ``used`` count as they pass. Which documents are kept is a function of (seed, number of documents)
    alone. ``articles``: which of the used ones, counted from 0, is the heading of an article, in WikiText's form.
    """

    def __init__(self, sources: Sequence[Source], *, share: float, seed: int, part: Part | None = None) -> None:
        self.sources, self.share, self.seed, self.part = sources, share, seed, part
        self.seen = self.used = 0
        self.articles = array("q")

    def __iter__(self) -> Iterator[str]:
        self.seen = self.used = 0
        self.articles = array("q")
        for document in self._chosen():
            if begins(document):
                if _is_heading(document):
                    self.articles.append(self.used)
                self.used += 1
            yield document

    def _chosen(self) -> Iterator[str]:
        if self.share == 1:
            for document in self._read():
                self.seen += begins(document)
                yield document
            return
        # Selection sampling (Knuth, The Art of Computer Programming 2, 3.4.2, algorithm S): an exact number of
        # documents with nothing held in memory, at the price of reading the text twice.
        total = sum(map(begins, self._read()))
        wanted = round(self.share * total)
        draws = random.Random(f"documents {self.seed}")
        for document in self._read():
            if begins(document):
                chosen = draws.random() * (total - self.seen) < wanted - self.used
                self.seen += 1
            if chosen:
                yield document

    def _read(self) -> Iterator[str]:
        documents = itertools.chain.from_iterable(source.documents() for source in self.sources)
        return documents if self.part is None else self._belonging(documents, self.part)

    def _belonging(self, documents: Iterable[str], part: Part) -> Iterator[str]:
        belongs = False
        for document in documents:
            if begins(document):
                belongs = part.has(document)
            if belongs:
                yield document


def _is_heading(document: str) -> bool:
    """``= Title =``; those of sections have more signs (``= = Section = =``)."""
    return document.startswith("= ") and document.endswith(" =") and not document.startswith("= =")


@dataclass(frozen=True)
class Tokeniser:
    """A Hugging Face tokenizer reduced to what a corpus needs: texts in, joined ids without specials out."""

    tokenizer: Any
    framing: Framing
    """What stands around each sequence."""
    unknown: int | None
    """Id that stands for an unknown word, if there is one."""
    vocabulary: int
    """One more than the highest id."""
    replacement: str | None
    """What a literal ``<unk>`` of the text is read as; None leaves it alone."""

    splits: ClassVar[bool] = True
    """Whether a long document can be tokenised piece by piece."""

    @classmethod
    def for_tokenizer(cls, tokenizer: Any, *, field: str, framing: Framing | None = None, **others: Any) -> Tokeniser:
        """``framing``: what stands around each sequence; None: what the tokenizer itself adds.

        Raises Refusal, naming ``field``, for a tokenizer that turns no text into tokens.
        """
        ids = tokenizer.get_vocab()
        unknown = unknown_id(tokenizer)
        return cls(
            tokenizer=tokenizer,
            framing=framing_of(tokenizer, field=field) if framing is None else framing,
            unknown=unknown,
            vocabulary=max(ids.values()) + 1,
            replacement=None if unknown is None or _UNKNOWN in ids else tokenizer.unk_token,
            **others,
        )

    @property
    def frame(self) -> str:
        """The framing in words, for messages: ``[CLS] and [SEP]``."""
        names = self.tokenizer.convert_ids_to_tokens([*self.framing.before, *self.framing.after])
        return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)

    @property
    def dtype(self) -> type[np.uint16] | type[np.int32]:
        """The narrowest type that holds every id."""
        return np.uint16 if self.vocabulary <= 1 << 16 else np.int32

    def __call__(self, texts: list[str]) -> Chunk:
        starts = [index for index, text in enumerate(texts) if begins(text) or index == 0]
        whole = [text if begins(text) else self._continued(text) for text in texts]
        encoded = self._encode(whole)
        lengths = np.array([len(ids) for ids in encoded], dtype=np.int64)
        joined = np.fromiter(itertools.chain.from_iterable(encoded), dtype=self.dtype, count=int(lengths.sum()))
        documents = lengths if len(starts) == len(texts) else np.add.reduceat(lengths, starts)
        return Chunk(joined, documents, goes_on=not begins(texts[0]), unfinished=not ends(texts[-1]))

    def _continued(self, text: str) -> str:
        """A piece that goes on behind a word, without the space it begins with where the tokenizer puts one there itself."""
        words = text.split(maxsplit=2)[:2]
        if not text.startswith(" ") or len(words) < 2:
            return text
        first, second = words
        whole, before, after = self._encode([f"{first} {second}", first, f" {second}"])
        return text if whole == before + after else text[1:]

    def _encode(self, texts: list[str]) -> list[list[int]]:
        if self.replacement is not None:
            texts = [text.replace(_UNKNOWN, self.replacement) for text in texts]
        # verbose: documents longer than the model takes are cut later, so that warning would mislead.
        encoded: list[list[int]] = self.tokenizer(
            [str(text) for text in texts],
            add_special_tokens=False,
            truncation=False,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]
        return encoded

    def fingerprint(self) -> str:
        """A hash of all that decides which ids a text gets."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None:
            content = json.loads(backend.to_str())
            # Left over from whoever used the tokenizer before; both are off here.
            content.pop("truncation", None)
            content.pop("padding", None)
        else:
            content = [repr(self.tokenizer), sorted(self.tokenizer.get_vocab().items())]
        # One id on a side stands as itself: so the corpora of BERT and RoBERTa keep the names that 0.1.0 gave them.
        sides = [side[0] if len(side) == 1 else list(side) for side in (self.framing.before, self.framing.after)]
        parts = [content, type(self.tokenizer).__name__, *sides, self.unknown, self.replacement]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def tokenise(documents: Iterable[str], tokeniser: Tokeniser, *, workers: int) -> Iterator[Chunk]:
    """Yield the tokens of the documents, chunk after chunk in order, whatever the number of worker processes.

    Text that is no more than a chunk for each worker is tokenised right here.
    """
    chunks = _chunks(documents, splits=tokeniser.splits)
    head = list(itertools.islice(chunks, workers + 1))
    with _one_thread_each():
        if workers == 1 or len(head) <= workers:
            yield from map(tokeniser, itertools.chain(head, chunks))
        else:
            yield from _tokenise_in_processes(itertools.chain(head, chunks), tokeniser, workers)


def _chunks(documents: Iterable[str], *, splits: bool) -> Iterator[list[str]]:
    chunk: list[str] = []
    characters = 0
    if splits:
        documents = itertools.chain.from_iterable(cut(document, CHUNK_CHARACTERS) for document in documents)
    for document in documents:
        chunk.append(document)
        characters += len(document)
        if characters >= CHUNK_CHARACTERS or isinstance(document, Piece):
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _tokenise_in_processes(chunks: Iterable[list[str]], tokeniser: Tokeniser, workers: int) -> Iterator[Chunk]:
    # Forking where that is usual: a spawned process would run the main script of the caller again.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(tokeniser,))
    pending: deque[Future[Chunk]] = deque()
    try:
        for chunk in chunks:
            pending.append(pool.submit(_work, chunk))
            if len(pending) >= _AHEAD * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_worker: Tokeniser | None = None  # of a worker process, set once when it starts


def _start_worker(tokeniser: Tokeniser) -> None:
    global _worker
    _worker = tokeniser
    # The parent decides when to stop; its own handlers have been inherited and are not for us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # A parent that was killed outright can stop nobody: without this its workers would wait for ever.
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(texts: list[str]) -> Chunk:
    assert _worker is not None
    return _worker(texts)


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Keep the tokenizers library from starting threads of its own: processes that fork later would trip over them."""
    name = "TOKENIZERS_PARALLELISM"
    if name in os.environ:
        yield
        return
    os.environ[name] = "false"
    try:
        yield
    finally:
        del os.environ[name]
