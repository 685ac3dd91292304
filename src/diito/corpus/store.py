"""Text to tokenised sequences in a memory-mapped Arrow file.

1. ``sources.py`` yields documents one by one; ``share`` keeps a seeded subset of them;
2. chunks of documents are tokenised by ``workers`` processes, a few chunks ahead and no more, and come back in order;
3. one of two layouts makes sequences of the stream of tokens: ``layouts.py``, of conversations ``packing.py``. They are joined
   in one place, this process, so no token is lost where one worker's chunk ends and the next begins;
4. the sequences go straight to an Arrow file (uint16 where the vocabulary allows), with the count of every token id and
   the statistics beside it, in a folder named by everything the result depends on;
5. :class:`diito.corpus.dataset.Corpus` maps that file into memory and reads the rows it is asked for.

Memory is a few chunks whatever the size of the corpus. What it needs to resume: nothing, a finished folder is found
again by its name, and its files by their checksums, so one that is damaged is made again. A folder appears under that name only
when it is whole; a killed run leaves a ``.partial`` one behind that nothing reads and the next run removes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from diito.corpus.columns import column_of_integers
from diito.corpus.conversations import Conversations, ConversationTokeniser, are_conversations, conversations_of
from diito.corpus.dataset import Corpus, Statistics
from diito.corpus.framing import Framing, document_framing, framing_of
from diito.corpus.layouts import SHORT, TAIL, UNKNOWN, blocks, lines
from diito.corpus.packing import DOCUMENTS, MASKS, PADDING, WITHOUT_ANSWER, Packed, pack
from diito.corpus.sources import HubDataset, LocalFiles, find_sources
from diito.corpus.tokenise import Chunk, Documents, Part, Tokeniser, tokenise
from diito.faults import is_forbidden, is_full
from diito.files import CannotWrite, checksums, first_difference, read_json, replace_folder, write_json, writing
from diito.locks import hold
from diito.paths import expand
from diito.refusal import Refusal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from diito.recipe import CorpusSection


FORMAT = 3
"""Part of every cache key: raise it when the files or the rules that make them change."""
FORMAT_OF_CONVERSATIONS = 1
"""The same for the rules by which conversations become sequences."""
LENGTH = 512
"""Tokens of a sequence where a section names none; a model may allow fewer."""
_BATCH_TOKENS = 1 << 19  # written together: few large record batches are searched faster than many small ones
_MOST_TOKENS = 4 * _BATCH_TOKENS  # held of a document in pieces, which is written together where it has fewer
_ARROW, _STATISTICS, _COUNTS = "corpus.arrow", "statistics.json", "token_counts.npy"
_LENGTHS, _DOCUMENTS, _CHECKSUMS = "lengths.npy", "documents.npy", "checksums.json"


class NothingLeft(Refusal):
    """There is text, but no sequence could be made of it."""


def load_corpus(
    section: CorpusSection,
    *,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    field: str = "corpus",
    framing: Framing | None = None,
    part: Part | None = None,
    padding: int | None = None,
) -> Corpus:
    """Tokenise the text that ``section`` names, or find it tokenised already.

    Args:
        section: sources, layout, length and the rest; ``workers`` and ``cache`` do not change the result.
        tokenizer: a literal ``<unk>`` in the text, as in WikiText, becomes its unknown token, where it has one and does not
            know ``<unk>`` itself.
        seed: chooses the documents where ``share`` is below 1.
        field: the recipe's name of ``section``, for errors.
        framing: what stands around each sequence, as the task says; None: what the tokenizer itself adds.
        part: the held-out documents alone, or all others; None takes all.
        padding: id that lines will be padded with; None: the tokenizer's own.

    Raises Refusal, naming the field, for text that cannot be read and for a corpus of which nothing is left
    (:class:`NothingLeft`).
    """
    padding = tokenizer.pad_token_id if padding is None else padding
    sources: Sequence[LocalFiles | HubDataset | Conversations]
    if are_conversations(section.sources, field=f"{field}.sources"):
        sources = conversations_of(section.sources, field=f"{field}.sources")
        tokeniser = ConversationTokeniser.for_tokenizer(
            tokenizer, field=field, framing=framing, answers_only=section.assistant_only_loss, section=field
        )
    else:
        sources = find_sources(section.sources, field=f"{field}.sources")
        if section.document_boundaries:
            framing = document_framing(framing or framing_of(tokenizer, field=field), tokenizer, field=field)
        tokeniser = Tokeniser.for_tokenizer(tokenizer, field=field, framing=framing)
    _check_section(section, tokeniser, field, padding)
    folder = _cache_folder(section) / _key(section, sources, tokeniser, seed, part, padding)
    if _fault(folder) is not None:
        documents = Documents(sources, share=section.share, seed=seed, part=part)
        with _writable(folder.parent, "corpus.cache"):
            _build(folder, lambda partial: _fill(partial, section, documents, tokeniser, field, padding))
    return _open(folder, [remark for source in sources for remark in source.remarks()])


@contextlib.contextmanager
def _writable(cache: Path, field: str) -> Iterator[None]:
    """Turn a disk that is full and a folder that cannot be written into one sentence about the cache."""
    try:
        yield
    except CannotWrite:
        raise
    except OSError as error:
        if is_full(error):
            sentence = (
                f"the disk of {cache} or of the temporary files is full ({error.strerror}); free some space, or give another"
            )
        elif is_forbidden(error):
            sentence = f"{cache} cannot be written ({error.strerror}); give another folder"
        else:
            raise
        raise Refusal(field, sentence) from error


def _check_section(section: CorpusSection, tokeniser: Tokeniser, field: str, padding: int | None) -> None:
    if not 0 < section.share <= 1:
        raise Refusal(f"{field}.share", f"{section.share} is no share; give a number above 0 and at most 1")
    shortest = len(tokeniser.framing) + 1
    if _length(section) < shortest:
        beside = f" beside {tokeniser.frame}" if shortest > 1 else ""
        raise Refusal(f"{field}.length", f"{section.length} leaves no room for a token{beside}; give at least {shortest}")
    if section.workers < 1:
        raise Refusal(f"{field}.workers", f"{section.workers} processes cannot tokenise; give at least 1")
    if padding is None and isinstance(tokeniser, ConversationTokeniser):
        raise Refusal(
            "teacher.tokenizer",
            f"conversations have different lengths and are padded, and {type(tokeniser.tokenizer).__name__} has no pad token; "
            "give one that has",
        )
    if section.layout == "lines" and padding is None:
        raise Refusal(
            f"{field}.layout",
            f"lines have different lengths and are padded, and {type(tokeniser.tokenizer).__name__} has no pad token; "
            "give blocks, or a tokenizer that has one",
        )


def _length(section: CorpusSection) -> int:
    return LENGTH if section.length is None else section.length


def _cache_folder(section: CorpusSection) -> Path:
    if section.cache is not None:
        return expand(section.cache, field="corpus.cache")
    import datasets

    return Path(datasets.config.HF_DATASETS_CACHE) / "diito"


def _key(
    section: CorpusSection,
    sources: Sequence[LocalFiles | HubDataset | Conversations],
    tokeniser: Tokeniser,
    seed: int,
    part: Part | None,
    padding: int | None,
) -> str:
    """A name for the result: a hash of everything that it depends on, and of nothing else."""
    parts: dict[str, Any] = {
        "format": FORMAT,
        "sources": [source.fingerprint() for source in sources],
        "tokenizer": tokeniser.fingerprint(),
        "layout": [section.layout, _length(section)],
    }
    if section.document_boundaries and not isinstance(tokeniser, ConversationTokeniser):
        parts["apart"] = True
    if section.share < 1:
        parts["share"] = [section.share, seed]
    if part is not None:
        parts["part"] = asdict(part)
    if isinstance(tokeniser, ConversationTokeniser):
        parts["conversations"] = [FORMAT_OF_CONVERSATIONS, padding]
    elif section.layout == "lines":
        parts["rules"] = [section.minimum_tokens, section.maximum_unknown]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _build(folder: Path, fill: Callable[[Path], None]) -> None:
    """Make ``folder``, or make it again, by filling another one and renaming it; a second process waits and finds it made."""

    def say_who(holder: str) -> None:
        print(f"waiting for {holder}, which tokenises the same text", file=sys.stderr, flush=True)

    with hold(folder.with_suffix(".lock"), waiting=say_who):
        for leftover in folder.parent.glob(f"{folder.name}.partial-*"):  # of a killed run, since the lock is ours
            shutil.rmtree(leftover)
        fault = _fault(folder)
        if fault is None:
            return
        if folder.exists():
            print(f"the tokenised text in {folder} is not whole ({fault}); it is made again", file=sys.stderr, flush=True)
        partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
        try:
            with writing(partial):
                partial.mkdir()
            fill(partial)
            write_json(partial / _CHECKSUMS, checksums(partial))
            replace_folder(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _fault(folder: Path) -> str | None:
    """What keeps a folder from being read; None: it is there, and as it was written."""
    try:
        sums = read_json(folder / _CHECKSUMS)
    except ValueError:
        sums = {}
    return first_difference(folder, sums) if sums else f"it has no {_CHECKSUMS}"


def _fill(
    folder: Path, section: CorpusSection, documents: Documents, tokeniser: Tokeniser, field: str, padding: int | None
) -> None:
    """Tokenise everything into ``folder``, holding no more than a few chunks in memory."""
    dropped: dict[str, int] = {}
    counts = np.zeros(tokeniser.vocabulary, dtype=np.int64)
    longest = predicted = filling = 0
    with (
        _open_writer(folder / _ARROW, section, tokeniser) as write,
        column_of_integers(folder / _LENGTHS) as lengths,
        column_of_integers(folder / _DOCUMENTS) as owners,
    ):
        for ids, sizes, numbers, further in _sequences(section, documents, tokeniser, dropped, padding):
            write({"input_ids": ids, **further}, sizes)
            predicted += int(further.get(MASKS, np.empty(0)).sum())
            filling += int((further.get(DOCUMENTS, np.empty(0)) == PADDING).sum())
            counts += np.bincount(ids, minlength=len(counts))
            longest = max(longest, int(sizes.max(initial=0)))
            lengths.append(sizes)
            owners.append(numbers)
    _check_left(lengths.rows, section, documents, tokeniser, dropped, field)
    _number_articles(folder / _DOCUMENTS, documents.articles)
    statistics = Statistics(
        layout=section.layout,
        documents=documents.seen,
        documents_used=documents.used,
        sequences=lengths.rows,
        tokens=int(counts.sum()),
        longest=longest,
        dropped=dropped,
        answers=_predicted(predicted, int(counts.sum()), filling) if isinstance(tokeniser, ConversationTokeniser) else "",
    )
    with writing(folder):
        np.save(folder / _COUNTS, counts, allow_pickle=False)
    write_json(folder / _STATISTICS, asdict(statistics))


def _predicted(tokens: int, whole: int, filling: int) -> str:
    """How much of conversations is predicted, in words."""
    padding = f", {filling:,} others are padding" if filling else ""
    return f"{tokens:,} of {whole - filling:,} tokens are predicted{padding}"


def _number_articles(path: Path, headings: Sequence[int]) -> None:
    """Put articles in place of documents, where these are the lines of some."""
    if headings:
        documents = np.load(path, mmap_mode="r+", allow_pickle=False)
        for start in range(0, len(documents), _BATCH_TOKENS):
            rows = slice(start, start + _BATCH_TOKENS)
            documents[rows] = np.searchsorted(headings, documents[rows], side="right")
        documents.flush()


def _sequences(
    section: CorpusSection, documents: Documents, tokeniser: Tokeniser, dropped: dict[str, int], padding: int | None
) -> Iterator[Packed]:
    chunks = _merge(tokenise(_show_progress(documents), tokeniser, workers=section.workers))
    length, in_blocks = _length(section), section.layout == "blocks"
    if isinstance(tokeniser, ConversationTokeniser):
        assert padding is not None
        yield from pack(chunks, length=length, dropped=dropped, in_blocks=in_blocks, padding=padding)
        return
    if in_blocks:
        made = blocks(chunks, tokeniser, length=length, dropped=dropped, apart=section.document_boundaries)
    else:
        made = lines(
            chunks,
            tokeniser,
            length=length,
            minimum_tokens=section.minimum_tokens,
            maximum_unknown=section.maximum_unknown,
            dropped=dropped,
        )
    for ids, sizes, numbers in made:
        yield ids, sizes, numbers, {}


def _show_progress(documents: Documents) -> Iterator[str]:
    from datasets.utils import tqdm

    # disable=None: only on a terminal; datasets.disable_progress_bars() silences this one as well.
    yield from tqdm(documents, desc="Tokenising", unit=" documents", disable=None)


def _merge(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """Join small chunks into ones of at least ``_BATCH_TOKENS`` tokens, the last excepted."""
    held: list[Chunk] = []
    tokens = 0
    for chunk in chunks:
        held.append(chunk)
        tokens += len(chunk.ids)
        if tokens >= (_MOST_TOKENS if chunk.unfinished else _BATCH_TOKENS):
            yield _join(held)
            held, tokens = [], 0
    if held:
        yield _join(held)


def _join(chunks: Sequence[Chunk]) -> Chunk:
    sizes = np.concatenate([chunk.documents for chunk in chunks])
    firsts = np.cumsum([0, *(len(chunk.documents) for chunk in chunks[:-1])])
    begins = np.ones(len(sizes), dtype=np.bool_)
    begins[firsts[1:]] = [not chunk.goes_on for chunk in chunks[1:]]
    documents = np.add.reduceat(sizes, np.flatnonzero(begins))
    ids = np.concatenate([chunk.ids for chunk in chunks])
    marks = [chunk.predicted for chunk in chunks if chunk.predicted is not None]
    predicted = np.concatenate(marks) if marks else None
    return Chunk(ids, documents, goes_on=chunks[0].goes_on, unfinished=chunks[-1].unfinished, predicted=predicted)


@contextlib.contextmanager
def _open_writer(
    path: Path, section: CorpusSection, tokeniser: Tokeniser
) -> Iterator[Callable[[dict[str, NDArray[Any]], NDArray[np.int64]], None]]:
    """Writes columns, each the values of successive sequences, joined, and the tokens of each."""
    fixed = section.layout == "blocks"
    kinds: dict[str, Any] = {"input_ids": tokeniser.dtype}
    if isinstance(tokeniser, ConversationTokeniser):
        kinds |= {MASKS: np.uint8, **({DOCUMENTS: np.int32} if fixed else {})}
    size = _length(section) if fixed else -1
    schema = pa.schema({name: pa.list_(pa.from_numpy_dtype(kind), size) for name, kind in kinds.items()})

    def column(values: NDArray[Any], sizes: NDArray[np.int64]) -> Any:
        if fixed:
            return pa.FixedSizeListArray.from_arrays(pa.array(values), size)
        ends = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(ends), pa.array(values))

    def write(columns: dict[str, NDArray[Any]], sizes: NDArray[np.int64]) -> None:
        if len(sizes):
            with writing(path):
                stream.write_batch(pa.record_batch([column(columns[name], sizes) for name in kinds], schema=schema))

    with contextlib.ExitStack() as stack:
        with writing(path):
            file = stack.enter_context(pa.OSFile(str(path), "wb"))
            stream = stack.enter_context(pa.ipc.new_stream(file, schema))
        yield write
        with writing(path):
            stack.close()


def _check_left(
    sequences: int,
    section: CorpusSection,
    documents: Documents,
    tokeniser: Tokeniser,
    dropped: dict[str, int],
    field: str,
) -> None:
    """Refuse a corpus of which nothing is left, saying which setting would leave something."""
    if sequences:
        return
    if not documents.seen:
        raise NothingLeft(f"{field}.sources", "there is no document, all text is blank; give files that hold text")
    if not documents.used:
        raise NothingLeft(
            f"{field}.share",
            f"{section.share} of {documents.seen:,} documents is none; give at least {1 / documents.seen:.2g}, or more text",
        )
    if isinstance(tokeniser, ConversationTokeniser):
        raise NothingLeft(
            f"{field}.length",
            f"no conversation is left: in {dropped[WITHOUT_ANSWER]:,} the first {_length(section)} tokens hold nothing to "
            "predict; give a longer one, or data with answers",
        )
    if section.layout == "blocks":
        tokens = dropped[TAIL]
        framing = len(tokeniser.framing)
        shorter = f"a length of at most {tokens + framing}, or more text" if tokens else "other text"
        beside = f" beside {tokeniser.frame}" if framing else ""
        raise NothingLeft(
            f"{field}.length",
            f"the corpus has {tokens:,} tokens, and one block of {_length(section)} takes "
            f"{_length(section) - framing:,}{beside}; "
            f"give {shorter}",
        )
    raise NothingLeft(
        f"{field}.minimum_tokens",
        f"no sequence is left, {dropped[SHORT]:,} have fewer than {section.minimum_tokens} "
        f"tokens and {dropped[UNKNOWN]:,} are unknown for {section.maximum_unknown:.0%} or more; "
        "give a lower minimum, other text or another tokenizer",
    )


def _open(folder: Path, remarks: Sequence[str]) -> Corpus:
    import datasets

    statistics = Statistics(**json.loads((folder / _STATISTICS).read_text(encoding="utf-8")))
    ragged = statistics.layout == "lines"
    return Corpus(
        datasets.Dataset.from_file(str(folder / _ARROW)),
        lengths=np.load(folder / _LENGTHS, mmap_mode="r", allow_pickle=False) if ragged else None,
        documents=np.load(folder / _DOCUMENTS, mmap_mode="r", allow_pickle=False),
        token_counts=torch.from_numpy(np.load(folder / _COUNTS, allow_pickle=False)),
        statistics=statistics,
        remarks=remarks,
    )
