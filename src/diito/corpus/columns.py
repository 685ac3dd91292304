"""A column of integers that is written as it grows, one number a row, and read back memory-mapped."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from io import BufferedWriter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diito.files import writing


class Column:
    """int32 numbers in an ``.npy`` file. What is held in memory is what is appended."""

    def __init__(self, file: BufferedWriter) -> None:
        self.rows = 0
        self._file = file
        self._write_header()
        self._start = file.tell()

    def append(self, numbers: NDArray[np.integer]) -> None:
        """Add rows at the end."""
        with writing(Path(self._file.name)):
            self._file.write(numbers.astype(np.int32).tobytes())
        self.rows += len(numbers)

    def finish(self) -> None:
        """Say at the beginning of the file how many rows there are: numpy leaves room for that."""
        self._file.seek(0)
        self._write_header()
        assert self._file.tell() == self._start, "the header has grown over the first rows"

    def _write_header(self) -> None:
        description = np.lib.format.dtype_to_descr(np.dtype(np.int32))
        header = {"descr": description, "fortran_order": False, "shape": (self.rows,)}
        np.lib.format.write_array_header_1_0(self._file, header)


@contextlib.contextmanager
def column_of_integers(path: Path) -> Iterator[Column]:
    """A new file of int32 numbers, whole once the block has ended."""
    with path.open("wb") as file:
        column = Column(file)
        yield column
        with writing(path):
            column.finish()
            file.flush()
