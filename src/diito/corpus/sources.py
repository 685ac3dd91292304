"""Where the text of a corpus comes from: finding it, checking it early, reading it one document at a time.

1. :func:`find_sources` turns what a recipe names into :class:`LocalFiles` and :class:`HubDataset`, in the same order;
2. :func:`check_sources` opens the local files before anything slow happens, so that a mistyped path answers at once;
3. ``documents()`` of either kind yields one stripped, non-empty string a document, holding no more than a chunk of a
   file;
4. ``fingerprint()`` says which text that was, for the key of the tokenised corpus.

A document is a line of a ``.txt`` file, and a row of ``.jsonl``, ``.parquet`` or a hub dataset. Nothing here is random
and nothing is kept: reading again from the start gives the same documents. No torch, and ``datasets`` only for hub
datasets.
"""

from __future__ import annotations

import contextlib
import glob
import gzip
import itertools
import json
import lzma
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diito.embedded import resolve
from diito.refusal import Refusal

if TYPE_CHECKING:
    from diito.recipe import SourceSection

FORMATS = (".txt", ".jsonl", ".parquet")
COMPRESSIONS = {".gz": gzip.open, ".xz": lzma.open}
SUPPORTED = ".txt, .jsonl or .parquet (also .gz or .xz)"

CHECKED_CHARACTERS = 1 << 26
"""check_sources decodes this much of a file: a second start must stay quick beside a corpus of many gigabytes. What
lies beyond is checked, with the same sentences, when it is tokenised."""
CHECKED_ROWS = 100
"""check_sources parses this many lines of a .jsonl file."""
_ROWS = 1_000  # rows of a parquet file or hub dataset held at a time


@dataclass(frozen=True)
class LocalFiles:
    """The files that one source names, in reading order."""

    paths: tuple[Path, ...]
    column: str
    field: str

    def documents(self) -> Iterator[str]:
        for path in self.paths:
            yield from read_file(path, column=self.column, field=self.field)

    def fingerprint(self) -> list[Any]:
        stats = [(path, path.stat()) for path in self.paths]
        return [self.column, [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in stats]]

    def size(self) -> int:
        """Bytes on disk, no more than the text has."""
        return sum(path.stat().st_size for path in self.paths)


@dataclass(frozen=True)
class HubDataset:
    """One split of a dataset of the Hugging Face hub. Code that comes with a dataset is never run."""

    dataset: str
    config: str | None
    split: str
    revision: str | None
    column: str
    field: str

    def documents(self) -> Iterator[str]:
        table = self._load().select_columns([self.column]).with_format("arrow")
        row = itertools.count(1)
        for batch in table.iter(_ROWS):
            for value in batch[self.column].to_pylist():
                yield from _clean(value, f"{self.dataset}, row {next(row)}", self.column, self.field)

    def fingerprint(self) -> list[Any]:
        return [self.dataset, self.column, self._load()._fingerprint]

    def size(self) -> int:
        """Bytes of the text, about."""
        return int(self._load().select_columns([self.column]).data.nbytes)

    def _load(self) -> Any:
        import datasets

        try:
            table = datasets.load_dataset(self.dataset, self.config, split=self.split, revision=self.revision)
        except (OSError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise Refusal(
                self.field,
                f"the hub dataset {self.dataset!r} (config {self.config}, split {self.split}) cannot be "
                f"loaded ({reason}); check its name and the network, or give a local path",
            ) from error
        if self.column not in table.column_names:
            raise _missing_column(self.column, table.column_names, repr(self.dataset), self.field)
        return table


def find_sources(sources: Sequence[SourceSection | str], *, field: str) -> list[LocalFiles | HubDataset]:
    """Resolve what a recipe names; a plain string is a local path.

    Raises Refusal, naming ``field``, for a source with neither or both of path and dataset, a path that does not
    exist, a glob or folder without a match, and a kind of file that cannot be read.
    """
    if not sources:
        raise Refusal(field, "no source is given; name a local path or a hub dataset")
    return [_find_source(source, field) for source in sources]


def check_sources(sources: Sequence[SourceSection | str], *, field: str) -> None:
    """Refuse text that could not be read, before anything slow is started; needs neither torch nor the network.

    Local files must exist, hold text, be whole (.gz, .xz), be UTF-8 and have the column. Hub datasets are only checked
    for being named properly. Raises Refusal with one sentence that starts with ``field``, such as
    ``corpus.sources``.
    """
    for source in find_sources(sources, field=field):
        if isinstance(source, LocalFiles):
            for path in source.paths:
                _check_file(path, source.column, field)


def read_file(path: Path, *, column: str, field: str) -> Iterator[str]:
    """Yield the documents of one file, stripped, leaving out the empty ones. Raises Refusal that names ``field``."""
    if _format(path) == ".parquet":
        yield from _read_parquet(path, column, field)
        return
    for number, line in enumerate(_lines(path, field), start=1):
        if _format(path) == ".txt":
            yield from _clean(line, "", column, field)
        elif line.strip():
            place = f"{path}, line {number}"
            yield from _clean(_parse_row(line, place, column, field), place, column, field)


def _find_source(source: SourceSection | str, field: str) -> LocalFiles | HubDataset:
    if isinstance(source, str):
        return LocalFiles(tuple(_find_files(source, field)), "text", field)
    if (source.path is None) == (source.dataset is None):
        given = "neither" if source.path is None else "both"
        raise Refusal(field, f"a source needs exactly one of path and dataset, and this one has {given}")
    if source.path is not None:
        return LocalFiles(tuple(_find_files(source.path, field)), source.column, field)
    assert source.dataset is not None
    return HubDataset(source.dataset, source.config, source.split, source.revision, source.column, field)


def _find_files(pattern: str, field: str) -> list[Path]:
    try:
        path = Path(resolve(pattern)).expanduser()
    except ValueError as error:
        raise Refusal(field, str(error)) from None
    if path.is_dir():
        inside = sorted(entry for entry in path.rglob("*") if entry.is_file() and not _hidden(entry, path))
        found = [entry for entry in inside if _format(entry) in FORMATS]
        if not found:
            raise Refusal(field, f"the folder {pattern!r} holds no file of a kind that is read: {SUPPORTED}")
    elif path.exists():
        found = [path]
    else:
        found = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file())
        if not found:
            raise Refusal(field, f"no file matches {pattern!r}; give a file, a folder or a glob of {SUPPORTED}")
    for entry in found:
        if _format(entry) not in FORMATS:
            raise Refusal(field, f"'{entry}' is of a kind that is not read; give {SUPPORTED}")
    return [entry.resolve() for entry in found]


def _hidden(entry: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in entry.relative_to(folder).parts)


def _format(path: Path) -> str:
    """``.txt`` for both ``a.txt`` and ``a.txt.gz``."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


@contextlib.contextmanager
def _readable(path: Path, field: str) -> Iterator[None]:
    """Turn what goes wrong inside a file into one sentence about that file."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise Refusal(field, f"'{path}' is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise Refusal(field, f"'{path}' is damaged or not a whole {path.suffix} file ({error})") from error
    except OSError as error:
        raise Refusal(field, f"'{path}' cannot be read ({error.strerror or error})") from error


def _lines(path: Path, field: str) -> Iterator[str]:
    with _readable(path, field):
        opener: Any = COMPRESSIONS.get(path.suffix.lower(), open)
        # utf-8-sig: a byte-order mark at the start is no part of the first document.
        with opener(path, "rt", encoding="utf-8-sig") as stream:
            yield from stream


def _parse_row(line: str, place: str, column: str, field: str) -> Any:
    try:
        row = json.loads(line)
    except ValueError:
        raise Refusal(field, f"{place} is not JSON; a .jsonl file holds one object a line") from None
    if not isinstance(row, dict):
        raise Refusal(field, f"{place} is not a JSON object; a .jsonl file holds one object a line")
    if column not in row:
        raise _missing_column(column, list(row), place, field)
    return row[column]


def _clean(value: Any, place: str, column: str, field: str) -> Iterator[str]:
    """Yield the text of one row, or nothing where it is missing or blank.

    Stripped, because rows of hub datasets end in a line break where lines of a file do not: the same text from either
    must give the same tokens, also with tokenizers that see white space.
    """
    if value is not None and not isinstance(value, str):
        raise Refusal(field, f"{place}: column {column!r} holds {type(value).__name__}, not text")
    if value and (text := value.strip()):
        yield text


def _missing_column(column: str, present: Sequence[str], place: str, field: str) -> Refusal:
    return Refusal(field, f"{place} has no column {column!r}; its columns are {', '.join(present) or 'none'}")


@contextlib.contextmanager
def _open_parquet(path: Path, field: str) -> Iterator[Any]:
    import pyarrow
    import pyarrow.parquet

    with _readable(path, field), contextlib.ExitStack() as stack:
        opener: Any = COMPRESSIONS.get(path.suffix.lower(), open)
        stream = stack.enter_context(opener(path, "rb"))
        if path.suffix.lower() in COMPRESSIONS:  # parquet is read from its end, which a compressed stream cannot do
            plain = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(stream, plain)
            stream = plain
        try:
            yield pyarrow.parquet.ParquetFile(stream, pre_buffer=False)
        except pyarrow.ArrowInvalid as error:
            raise Refusal(field, f"'{path}' is not a whole parquet file ({error})") from error


def _read_parquet(path: Path, column: str, field: str) -> Iterator[str]:
    row = itertools.count(1)
    with _open_parquet(path, field) as file:
        for batch in file.iter_batches(_ROWS, columns=[column]):
            for value in batch.column(0).to_pylist():
                yield from _clean(value, f"{path}, row {next(row)}", column, field)


def _check_file(path: Path, column: str, field: str) -> None:
    if _format(path) == ".parquet":
        with _open_parquet(path, field) as file:
            if column not in file.schema_arrow.names:
                raise _missing_column(column, file.schema_arrow.names, f"'{path}'", field)
            empty = file.metadata.num_rows == 0
    else:
        empty = not _check_text(path, column, field)
    if empty:
        raise Refusal(field, f"'{path}' is empty; give a file that holds text, or leave it out")


def _check_text(path: Path, column: str, field: str) -> bool:
    """Say whether the file has any text, raising for what is not UTF-8, not whole or (in the first lines) not JSON
    rows."""
    characters, filled = 0, 0
    for number, line in enumerate(_lines(path, field), start=1):
        if line.strip():
            filled += 1
            if _format(path) == ".jsonl" and filled <= CHECKED_ROWS:
                place = f"{path}, line {number}"
                list(_clean(_parse_row(line, place, column, field), place, column, field))
        characters += len(line)
        if characters > CHECKED_CHARACTERS:
            break
    return filled > 0
