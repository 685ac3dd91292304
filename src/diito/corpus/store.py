"""Text to tokenised sequences in a memory-mapped Arrow file.

1. ``sources.py`` yields documents one by one; ``share`` keeps a seeded subset of them;
2. chunks of documents are tokenised by ``workers`` processes, a few chunks ahead and no more, and come back in order;
3. one of two layouts makes sequences of the stream of tokens, as the form of the text says (``forms.py``). They are joined in
   one place, this process, so no token is lost where one worker's chunk ends and the next begins;
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
from diito.corpus.dataset import Corpus, Statistics
from diito.corpus.forms import Form, form_of
from diito.corpus.framing import Framing
from diito.corpus.packing import DOCUMENTS, MASKS, PADDING, Packed
from diito.corpus.tokenise import Chunk, Documents, Part, tokenise
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
_BATCH_TOKENS = 1 << 19  # written together: few large record batches are searched faster than many small ones
_MOST_TOKENS = 4 * _BATCH_TOKENS  # held of a document in pieces, which is written together where it has fewer
_ARROW, _STATISTICS, _COUNTS = "corpus.arrow", "statistics.json", "token_counts.npy"
_LENGTHS, _DOCUMENTS, _CHECKSUMS = "lengths.npy", "documents.npy", "checksums.json"


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
    form = form_of(section, tokenizer=tokenizer, field=field, framing=framing, padding=padding)
    form.check()
    folder = _cache_folder(section) / _key(form, seed, part)
    if _fault(folder) is not None:
        documents = Documents(form.sources, share=section.share, seed=seed, part=part)
        with _writable(folder.parent, "corpus.cache"):
            _build(folder, lambda partial: _fill(partial, form, documents))
    return _open(folder, [remark for source in form.sources for remark in source.remarks()])


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


def _cache_folder(section: CorpusSection) -> Path:
    if section.cache is not None:
        return expand(section.cache, field="corpus.cache")
    import datasets

    return Path(datasets.config.HF_DATASETS_CACHE) / "diito"


def _key(form: Form, seed: int, part: Part | None) -> str:
    """A name for the result: a hash of everything that it depends on, and of nothing else."""
    section = form.section
    parts: dict[str, Any] = {
        "format": FORMAT,
        "sources": [source.fingerprint() for source in form.sources],
        "tokenizer": form.tokeniser.fingerprint(),
        "layout": [section.layout, form.length],
        **form.rules(),
    }
    if section.share < 1:
        parts["share"] = [section.share, seed]
    if part is not None:
        parts["part"] = asdict(part)
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


def _fill(folder: Path, form: Form, documents: Documents) -> None:
    """Tokenise everything into ``folder``, holding no more than a few chunks in memory."""
    dropped: dict[str, int] = {}
    counts = np.zeros(form.tokeniser.vocabulary, dtype=np.int64)
    longest = predicted = filling = 0
    with (
        _open_writer(folder / _ARROW, form) as write,
        column_of_integers(folder / _LENGTHS) as lengths,
        column_of_integers(folder / _DOCUMENTS) as owners,
    ):
        for ids, sizes, numbers, further in _sequences(form, documents, dropped):
            write({"input_ids": ids, **further}, sizes)
            predicted += int(further.get(MASKS, np.empty(0)).sum())
            filling += int((further.get(DOCUMENTS, np.empty(0)) == PADDING).sum())
            counts += np.bincount(ids, minlength=len(counts))
            longest = max(longest, int(sizes.max(initial=0)))
            lengths.append(sizes)
            owners.append(numbers)
    if not lengths.rows:
        form.refuse_nothing(documents, dropped)
    _number_articles(folder / _DOCUMENTS, documents.articles)
    statistics = Statistics(
        layout=form.section.layout,
        documents=documents.seen,
        documents_used=documents.used,
        sequences=lengths.rows,
        tokens=int(counts.sum()),
        longest=longest,
        dropped=dropped,
        answers=_predicted(predicted, int(counts.sum()), filling) if MASKS in form.columns else "",
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


def _sequences(form: Form, documents: Documents, dropped: dict[str, int]) -> Iterator[Packed]:
    chunks = tokenise(_show_progress(documents), form.tokeniser, workers=form.section.workers)
    return form.sequences(_merge(chunks), dropped)


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
def _open_writer(path: Path, form: Form) -> Iterator[Callable[[dict[str, NDArray[Any]], NDArray[np.int64]], None]]:
    """Writes columns, each the values of successive sequences, joined, and the tokens of each."""
    kinds = {"input_ids": form.tokeniser.dtype, **form.columns}
    size = form.length if form.in_blocks else -1
    schema = pa.schema({name: pa.list_(pa.from_numpy_dtype(kind), size) for name, kind in kinds.items()})

    def column(values: NDArray[Any], sizes: NDArray[np.int64]) -> Any:
        if form.in_blocks:
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
