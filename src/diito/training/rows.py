"""Token sequences of any dataset, as the trainer reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from diito.corpus import Corpus
from diito.refusal import Refusal

_FIELD = "train_dataset"
_READ = 1_000  # rows read at a time, where only their lengths are asked for


class Rows(Dataset[dict[str, Tensor]]):
    """A dataset with ``input_ids`` (lists of any length) and optionally ``attention_mask``; other columns than those in
    ``columns`` are ignored.

    ``source``: a ``datasets.Dataset``, or a map-style dataset of torch whose rows are dicts. Tokens that a row's
    ``attention_mask`` hides are left out: batches are padded anew.

    Raises Refusal for a dataset without a length or without ``input_ids``, and for one without rows or with an empty row.
    """

    def __init__(self, source: Any, *, columns: Sequence[str] = ()) -> None:
        if not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
            raise Refusal(_FIELD, "a stream has no rows to draw from; give a datasets.Dataset or a map-style dataset of torch")
        if len(source) == 0:
            raise Refusal(_FIELD, "it has no rows")
        wanted, present = tuple(columns), list(getattr(source, "column_names", None) or source[0])
        if "input_ids" not in present:
            raise Refusal(
                _FIELD, f"it has no column input_ids, only {', '.join(map(str, present))}; tokenise it with its map method"
            )
        if hasattr(source, "select_columns"):  # other columns may be large, and of any kind
            source = source.select_columns([name for name in ("input_ids", "attention_mask", *wanted) if name in present])
        self.source = source
        self.columns = tuple(name for name in wanted if name in present)
        lengths = _arrow_lengths(source) if hasattr(source, "with_format") else _lengths(self)
        if not lengths.all():
            raise Refusal(_FIELD, f"row {int(lengths.argmin())} has no token; leave out rows without any")
        self.longest = int(lengths.max())
        self.lengths: NDArray[np.int32] | None = None if (lengths == lengths[0]).all() else lengths
        """int32[rows]: tokens of each row; None where all are as long."""

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return _row(self.source[index], self.columns)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Tensor]]:
        """Several rows in the order asked for."""
        if hasattr(self.source, "__getitems__"):
            return [_row(row, self.columns) for row in self.source.__getitems__(list(indices))]
        return [self[index] for index in indices]


def as_rows(dataset: Any, *, columns: Sequence[str] = ()) -> Corpus | Rows:
    """A corpus as it is, any other dataset as :class:`Rows` with these ``columns`` too."""
    return dataset if isinstance(dataset, (Corpus, Rows)) else Rows(dataset, columns=columns)


def _row(row: Any, columns: Sequence[str]) -> dict[str, Tensor]:
    ids = torch.as_tensor(row["input_ids"], dtype=torch.long)
    others = {name: torch.as_tensor(row[name]) for name in columns}
    if row.get("attention_mask") is not None:
        real = torch.as_tensor(row["attention_mask"]).bool()
        others = {name: value[real] if value.shape == ids.shape else value for name, value in others.items()}
        ids = ids[real]
    return {"input_ids": ids, **others}


def _lengths(rows: Rows) -> NDArray[np.int32]:
    """Tokens of each row, by reading every one."""
    return np.fromiter((len(rows[index]["input_ids"]) for index in range(len(rows))), dtype=np.int32, count=len(rows))


def _arrow_lengths(table: Any) -> NDArray[np.int32]:
    """The same without making Python objects of the tokens of a ``datasets.Dataset``."""
    lengths = []
    for batch in table.with_format("arrow").iter(_READ):
        sizes = _sizes(batch["input_ids"])
        if "attention_mask" in batch.column_names:
            real = np.concatenate([[0], np.cumsum(np.asarray(batch["attention_mask"].combine_chunks().flatten()) != 0)])
            ends = np.cumsum(_sizes(batch["attention_mask"]))
            sizes = np.diff(real[np.concatenate([[0], ends])])
        lengths.append(sizes.astype(np.int32))
    return np.concatenate(lengths)


def _sizes(column: Any) -> NDArray[np.int64]:
    return np.asarray(column.combine_chunks().value_lengths(), dtype=np.int64)
