"""The kinds of text file: one function each that yields the documents, and what can be checked of it early.

A document is a line of ``.txt``, and one column of a row of ``.jsonl``, ``.csv``, ``.tsv`` or ``.parquet``. What is held in
memory is a piece of a line of ``.txt`` and a row of the others, whatever the size of the file: no library that is used here
gives a string of JSON or a cell in parts, so a row beyond :data:`LARGEST_ROW` is refused. Nothing is kept: reading again gives
the same documents.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import shutil
import tempfile
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from diito.corpus.pieces import LONGEST, strip_and_cut
from diito.faults import reason
from diito.reading import COMPRESSIONS, open_binary, open_text, readable, stem_suffix
from diito.refusal import Refusal

Cells = tuple[str, list[Any]]
"""The place of a row, in words, and what it holds in the columns that are read."""

FORMATS = (".txt", ".jsonl", ".csv", ".tsv", ".parquet")
SUPPORTED = ".txt, .jsonl, .csv, .tsv or .parquet (also .gz or .xz)"

CHECKED_CHARACTERS = 1 << 26
"""check_file decodes this much of a file: a second start must stay quick beside a corpus of many gigabytes. What lies beyond
is checked, with the same sentences, when it is tokenised."""
CHECKED_ROWS = 100
"""check_file parses this many lines of a .jsonl file and rows of a .csv file."""
LARGEST_ROW = 1 << 28
"""Characters (268 million) of a row that is held whole; bytes of one of parquet. A line of ``.txt`` has no such limit."""
_ROWS = 1_000  # rows of a parquet file or hub dataset held at a time, at most
_ROWS_BYTES = 1 << 23  # of them, on average
_DELIMITERS = {".csv": ",;\t|", ".tsv": "\t"}  # the first is what the ending says


def read_file(path: Path, *, column: str, field: str) -> Iterator[str]:
    """Yield the documents of one file, stripped and long ones in pieces, leaving out the empty ones. Raises Refusal that names
    ``field``."""
    if stem_suffix(path) == ".txt":
        with open_text(path, field) as stream:
            for line in _lines(stream):
                yield from strip_and_cut(line, LONGEST)
        return
    for place, cells in read_cells(path, columns=(column,), field=field):
        yield from clean(cells[0], place, column, field)


def read_cells(
    path: Path, *, columns: Sequence[str], field: str, optional: Collection[str] = (), rows: int | None = None
) -> Iterator[Cells]:
    """Yield what the rows of a file other than ``.txt`` hold in some columns, each with its place in words; ``rows``: the first
    ones alone.

    ``optional``: those of the columns that single rows of a ``.jsonl`` file may lack (None). Raises Refusal, naming ``field``.
    """
    kind = stem_suffix(path)
    if kind == ".parquet":
        cells = _read_parquet(path, columns, field)
    elif kind == ".jsonl":
        cells = _read_rows(path, columns, field, optional)
    else:
        cells = _read_table(path, columns, field)
    with contextlib.closing(cells):
        yield from itertools.islice(cells, rows)


def check_file(path: Path, column: str, field: str) -> None:
    """Refuse a file that has no text or not the column, and what is not UTF-8, not whole or not rows as far as is looked."""
    kind = stem_suffix(path)
    if kind == ".parquet":
        with _open_parquet(path, field) as file:
            if column not in file.schema_arrow.names:
                raise missing_column(column, file.schema_arrow.names, f"'{path}'", field)
            empty = file.metadata.num_rows == 0
    else:
        empty = not _has_text(path, field)
        if not empty and kind != ".txt":
            left = CHECKED_CHARACTERS
            for place, cells in read_cells(path, columns=(column,), field=field, rows=CHECKED_ROWS):
                left -= sum(map(len, clean(cells[0], place, column, field)))
                if left < 0:
                    break
    if empty:
        raise Refusal(field, f"'{path}' is empty; give a file that holds text, or leave it out")


def delimiter_said(path: Path, column: str, field: str) -> str:
    """How a table's columns are separated, where it is not as the ending says: ``columns separated by ;``; else nothing."""
    kind = stem_suffix(path)
    if kind not in _DELIMITERS:
        return ""
    chosen = _delimiter(path, column, field)
    return "" if chosen == _DELIMITERS[kind][0] else f"columns separated by {'tabs' if chosen == chr(9) else chosen}"


def clean(value: Any, place: str, column: str, field: str) -> Iterator[str]:
    """Yield the text of one row, or nothing where it is missing or blank.

    Stripped, because rows of hub datasets end in a line break where lines of a file do not: the same text from either
    must give the same tokens, also with tokenizers that see white space.
    """
    if value is not None and not isinstance(value, str):
        raise Refusal(field, f"{place}: column {column!r} holds {type(value).__name__}, not text")
    if value:
        if len(value) > LARGEST_ROW:
            raise _too_large(place, field)
        yield from strip_and_cut([value], LONGEST)


def missing_column(column: str, present: Sequence[str], place: str, field: str) -> Refusal:
    """The refusal of rows without the column."""
    return Refusal(field, f"{place} has no column {column!r}; its columns are {', '.join(present) or 'none'}")


def _too_large(place: str, field: str) -> Refusal:
    return Refusal(
        field,
        f"{place}: the row has more than {LARGEST_ROW:,} characters, and a row is held whole; split it, or give its text as a "
        "line of .txt, which is read in pieces",
    )


def rows_at_once(nbytes: int, rows: int) -> int:
    """How many rows of a table are held at a time: fewer where they are large."""
    return max(1, min(_ROWS, _ROWS_BYTES // max(1, nbytes // max(1, rows))))


# ------------------------------------------------------------------------------------------------------------ lines


def _lines(stream: TextIOWrapper) -> Iterator[Iterable[str]]:
    """The lines of a text, each in parts of which the next line leaves none unread."""
    while line := stream.readline(LONGEST):
        if len(line) < LONGEST or line.endswith("\n"):
            yield (line,)
        else:
            rest = _rest(stream)
            yield itertools.chain((line,), rest)
            for _ in rest:
                pass


def _rest(stream: TextIOWrapper) -> Iterator[str]:
    while part := stream.readline(LONGEST):
        yield part
        if part.endswith("\n"):
            return


def _whole_line(stream: TextIOWrapper, place: str, field: str) -> str:
    """The next line, empty at the end. Raises Refusal for one that is too large to be held."""
    line = stream.readline(LARGEST_ROW + 1)
    if len(line) > LARGEST_ROW:
        raise _too_large(place, field)
    return line


def _whole_lines(stream: TextIOWrapper, path: Path, field: str) -> Iterator[str]:
    number = itertools.count(1)
    while line := _whole_line(stream, f"{path}, line {next(number)}", field):
        yield line


def _has_text(path: Path, field: str) -> bool:
    """Whether the file has any text, raising for what is not UTF-8 or not whole."""
    characters, filled = 0, False
    with open_text(path, field) as stream:
        while characters <= CHECKED_CHARACTERS and (part := stream.read(min(1 << 20, CHECKED_CHARACTERS))):
            filled = filled or not part.isspace()
            characters += len(part)
    return filled


# ------------------------------------------------------------------------------------------------------------- rows


def _read_rows(path: Path, columns: Sequence[str], field: str, optional: Collection[str]) -> Generator[Cells, None, None]:
    with open_text(path, field) as stream:
        for number in itertools.count(1):
            place = f"{path}, line {number}"
            line = _whole_line(stream, place, field)
            if not line:
                return
            if line.isspace():
                continue
            row = _parse_row(line, place, field)
            del line  # it may be large, and so may the row, which its reader holds for a while
            for column in columns:
                if column not in row and column not in optional:
                    raise missing_column(column, list(row), place, field)
            yield place, [row.get(column) for column in columns]


def _parse_row(line: str, place: str, field: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except RecursionError:
        raise Refusal(field, f"{place} is nested too deeply to be read; a .jsonl file holds one object a line") from None
    except ValueError:
        raise Refusal(field, f"{place} is not JSON; a .jsonl file holds one object a line") from None
    if not isinstance(row, dict):
        raise Refusal(field, f"{place} is not a JSON object; a .jsonl file holds one object a line")
    return row


# ------------------------------------------------------------------------------------------------------------ tables


def _read_table(path: Path, columns: Sequence[str], field: str) -> Generator[Cells, None, None]:
    """The columns that the header names; an empty cell is None. A row has as many cells as the header, unless it is blank."""
    csv.field_size_limit(LARGEST_ROW)  # its own limit is 128 kB, and a book is longer
    delimiter = _delimiter(path, columns[0], field)
    quoting: Any = csv.QUOTE_MINIMAL if _has_quotes(path, delimiter, field) else csv.QUOTE_NONE
    with open_text(path, field, newline="") as stream:
        table = csv.reader(_whole_lines(stream, path, field), delimiter=delimiter, quoting=quoting, strict=True)
        try:
            header = [name.strip() for name in next(table)]
            for column in columns:
                if column not in header:
                    raise missing_column(column, header, f"{path}, line 1", field)
            places = [header.index(column) for column in columns]
            for row in table:
                if row and len(row) != len(header):
                    raise Refusal(
                        field,
                        f"{path}, line {table.line_num}: {len(row)} columns, and the header has {len(header)}; "
                        "put a text that holds the delimiter in double quotes",
                    )
                yield f"{path}, line {table.line_num}", [row[place] or None if row else None for place in places]
        except csv.Error as error:
            raise Refusal(field, f"{path}, line {table.line_num}: not a row of a table ({error})") from error


def _delimiter(path: Path, column: str, field: str) -> str:
    """The sign by which the header has the column; where several do, the one that makes most columns, or the usual one."""
    with open_text(path, field, newline="") as stream:
        header = stream.readline(LONGEST)
    signs = _DELIMITERS[stem_suffix(path)]
    headers = {sign: [name.strip() for name in next(csv.reader([header], delimiter=sign), [])] for sign in signs}
    if fitting := [sign for sign, names in headers.items() if column in names]:
        return max(fitting, key=lambda sign: len(headers[sign]))
    raise missing_column(column, max(headers.values(), key=len), f"{path}, line 1", field)


def _has_quotes(path: Path, delimiter: str, field: str) -> bool:
    """Whether quotes stand around cells, or are signs of the text: ``.tsv`` has both, and what opens must close there."""
    if stem_suffix(path) == ".csv":
        return True
    with open_text(path, field, newline="") as stream:
        lines = itertools.islice(_whole_lines(stream, path, field), CHECKED_ROWS + 1)
        cells = (cell for line in lines for cell in line.rstrip("\r\n").split(delimiter) if cell.startswith('"'))
        closed = [len(cell) > 1 and cell.endswith('"') for cell in cells]
    return bool(closed) and all(closed)


# ----------------------------------------------------------------------------------------------------------- parquet


@contextlib.contextmanager
def _open_parquet(path: Path, field: str) -> Iterator[Any]:
    import pyarrow
    import pyarrow.parquet

    with readable(path, field), contextlib.ExitStack() as stack:
        stream: Any = stack.enter_context(open_binary(path, field))
        if path.suffix.lower() in COMPRESSIONS:  # parquet is read from its end, which a compressed stream cannot do
            plain = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(stream, plain)
            stream = plain
        try:
            # buffer_size: a row group is then read page by page, and not whole.
            yield pyarrow.parquet.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 20)
        except pyarrow.ArrowException as error:
            raise Refusal(field, f"'{path}' is not a whole parquet file ({reason(error)})") from error


def _read_parquet(path: Path, columns: Sequence[str], field: str) -> Generator[Cells, None, None]:
    number = itertools.count(1)
    with _open_parquet(path, field) as file:
        for column in columns:
            if column not in file.schema_arrow.names:
                raise missing_column(column, file.schema_arrow.names, f"'{path}'", field)
        groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
        for index, group in enumerate(groups):
            held = sum(_column_bytes(group, column) for column in columns)
            if held > LARGEST_ROW * group.num_rows:
                raise _too_large(f"{path}, row {next(number)}", field)
            rows = rows_at_once(held, group.num_rows)
            for batch in file.iter_batches(rows, row_groups=[index], columns=list(columns)):
                for row in zip(*(batch.column(column).to_pylist() for column in columns), strict=True):
                    yield f"{path}, row {next(number)}", list(row)


def _column_bytes(group: Any, column: str) -> int:
    """Uncompressed bytes of a column in a row group."""
    columns = (group.column(index) for index in range(group.num_columns))
    return sum(each.total_uncompressed_size for each in columns if each.path_in_schema.split(".")[0] == column)
