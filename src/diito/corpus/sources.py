"""Where the text of a corpus comes from: finding it, checking it early, reading it one document at a time.

1. :func:`find_sources` turns what a recipe names into :class:`LocalFiles` and :class:`HubDataset`, in the same order;
2. :func:`check_sources` opens the local files before anything slow happens, so that a mistyped path answers at once;
3. ``documents()`` of either kind yields one stripped, non-empty string a document, long ones in pieces (``pieces.py``),
   holding no more than a chunk of a file;
4. ``fingerprint()`` says which text that was, for the key of the tokenised corpus; ``remarks()`` what the user should know.

How each kind of file is read stands in ``formats.py``. Nothing here is random. No torch, and ``datasets`` only for hub
datasets.
"""

from __future__ import annotations

import glob
import itertools
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diito.corpus.formats import (
    FORMATS,
    SUPPORTED,
    Cells,
    check_file,
    clean,
    delimiter_said,
    missing_column,
    read_cells,
    read_file,
    rows_at_once,
)
from diito.corpus.pieces import begins
from diito.embedded import resolve
from diito.faults import loading
from diito.reading import stem_suffix
from diito.refusal import Refusal

if TYPE_CHECKING:
    from diito.recipe import SourceSection


_COLUMN_FILES = (".conll", ".bio", ".iob", ".iob2")
_WITH_COLUMNS = "give a .tsv, .csv, .jsonl or .parquet file"


@dataclass(frozen=True)
class LocalFiles:
    """The files that one source names, in reading order."""

    paths: tuple[Path, ...]
    column: str
    field: str
    left_out: str = ""
    """Which files of the folder are not read, in words; empty where all are."""

    def documents(self) -> Iterator[str]:
        for path in self.paths:
            yield from read_file(path, column=self.column, field=self.field)

    def cells(self, columns: Sequence[str], *, optional: Collection[str] = ()) -> Iterator[Cells]:
        """What the rows hold in some columns, each with its place in words; see ``formats.read_cells``. A line of ``.txt`` is
        a row with one cell."""
        for path in self.paths:
            if stem_suffix(path) != ".txt":
                yield from read_cells(path, columns=columns, field=self.field, optional=optional)
            elif len(columns) > 1:
                raise Refusal(
                    self.field, f"'{path}' is plain text without columns {' and '.join(columns[1:])}; {_WITH_COLUMNS}"
                )
            else:
                texts = filter(begins, read_file(path, column=self.column, field=self.field))  # of a long one its first piece
                for number, line in enumerate(texts, start=1):
                    yield f"{path}, text {number}", [line]

    def class_names(self, column: str) -> list[str] | None:
        """The names of the classes that a column numbers; a file has none."""
        return None

    def fingerprint(self) -> list[Any]:
        stats = [(path, path.stat()) for path in self.paths]
        return [self.column, [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in stats]]

    def size(self) -> int:
        """Bytes on disk, no more than the text has."""
        return sum(path.stat().st_size for path in self.paths)

    def remarks(self) -> list[str]:
        """What was chosen by evidence, and what was left out."""
        said = [(path.name, delimiter_said(path, self.column, self.field)) for path in self.paths]
        return [*([self.left_out] if self.left_out else []), *(f"{name}: {text}" for name, text in said if text)]


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
        for batch in table.iter(rows_at_once(int(table.data.nbytes), len(table))):
            for value in batch[self.column].to_pylist():
                yield from clean(value, f"{self.dataset}, row {next(row)}", self.column, self.field)

    def cells(self, columns: Sequence[str], *, optional: Collection[str] = ()) -> Iterator[Cells]:
        """What the rows hold in some columns, each with its place in words."""
        table = self._load(*columns).select_columns(list(columns)).with_format("arrow")
        number = itertools.count(1)
        for batch in table.iter(rows_at_once(int(table.data.nbytes), len(table))):
            for row in zip(*(batch[column].to_pylist() for column in columns), strict=True):
                yield f"{self.dataset}, row {next(number)}", list(row)

    def class_names(self, column: str) -> list[str] | None:
        """The names of the classes that a column numbers, alone or in lists; None where it says none."""
        feature = self._load(column).features[column]
        names: list[str] | None = getattr(getattr(feature, "feature", feature), "names", None)
        return names

    def fingerprint(self) -> list[Any]:
        return [self.dataset, self.column, self._load()._fingerprint]

    def size(self) -> int:
        """Bytes of the text, about."""
        return int(self._load().select_columns([self.column]).data.nbytes)

    def remarks(self) -> list[str]:
        """Nothing: all that is read was named."""
        return []

    def _load(self, *columns: str) -> Any:
        import datasets

        advice = "check its name, config and split, or give a local path"
        if Path(self.dataset).is_dir():
            advice = f"if this folder holds files of text, name it with path: {self.dataset}"
        with loading(f"the hub dataset {self.dataset!r} (config {self.config}, split {self.split})", self.field, advice=advice):
            table = datasets.load_dataset(self.dataset, self.config, split=self.split, revision=self.revision)
        for column in columns or (self.column,):
            if column not in table.column_names:
                raise missing_column(column, table.column_names, repr(self.dataset), self.field)
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
                check_file(path, source.column, field)


def _find_source(source: SourceSection | str, field: str) -> LocalFiles | HubDataset:
    if isinstance(source, str):
        return _find_files(source, "text", field)
    if (source.path is None) == (source.dataset is None):
        given = "neither" if source.path is None else "both"
        raise Refusal(field, f"a source needs exactly one of path and dataset, and this one has {given}")
    if source.path is not None:
        return _find_files(source.path, source.column, field)
    assert source.dataset is not None
    return HubDataset(source.dataset, source.config, source.split, source.revision, source.column, field)


def _find_files(pattern: str, column: str, field: str) -> LocalFiles:
    path = Path(resolve(pattern, field=field))
    left_out = ""
    if path.is_dir():
        inside = sorted(entry for entry in path.rglob("*") if entry.is_file() and not _hidden(entry, path))
        found = [entry for entry in inside if stem_suffix(entry) in FORMATS]
        others = [entry for entry in inside if stem_suffix(entry) not in FORMATS]
        if not found:
            besides = f" ({_endings(others)})" if others else ""
            raise Refusal(field, f"the folder {pattern!r} holds no file of a kind that is read: {SUPPORTED}{besides}")
        if others:
            named = "1 file" if len(others) == 1 else f"{len(others):,} files"
            left_out = f"{named} of {path.name or path} left out: {_endings(others)}"
    elif path.exists():
        found = [path]
    else:
        found = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file())
        if not found:
            raise Refusal(field, f"no file matches {pattern!r}; give a file, a folder or a glob of {SUPPORTED}")
    for entry in found:
        if stem_suffix(entry) not in FORMATS:
            hint = "; a column file of words and tags is named .txt" if stem_suffix(entry) in _COLUMN_FILES else ""
            raise Refusal(field, f"'{entry}' is of a kind that is not read; give {SUPPORTED}{hint}")
    return LocalFiles(tuple(entry.resolve() for entry in found), column, field, left_out)


def _endings(files: Sequence[Path]) -> str:
    """The files by their endings, the most frequent first: ``2 .md, 1 .pdf``."""
    counts = Counter("".join(entry.suffixes[-2:]).lower() if _is_packed(entry) else entry.suffix.lower() for entry in files)
    return ", ".join(f"{count:,} {ending or 'without an ending'}" for ending, count in counts.most_common())


def _is_packed(entry: Path) -> bool:
    return len(entry.suffixes) > 1 and entry.suffix.lower() in (".gz", ".xz", ".bz2", ".zst", ".zip")


def _hidden(entry: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in entry.relative_to(folder).parts)
