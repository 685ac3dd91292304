"""Tokenised sequences as a torch dataset, what is known of them, and rows stacked to batches."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from diito.refusal import Refusal

IGNORED = -100
"""Label of a token that has none."""
_BATCH_ROWS = 1 << 14  # hashed together; part of the hash


@dataclass(frozen=True)
class Statistics:
    """What became of the text."""

    layout: str
    documents: int
    """Documents with any text in them."""
    documents_used: int
    """Those left after ``share``."""
    sequences: int
    tokens: int
    """Tokens of all sequences, specials included."""
    longest: int
    """Tokens of the longest sequence."""
    dropped: dict[str, int]
    """What was left out, by reason. The reason says whether sequences or tokens are counted."""
    answers: str = ""
    """Of labelled examples: how many there are of each kind, in words; of conversations, how much is predicted."""

    @property
    def mean_length(self) -> float:
        """Tokens of a sequence, on average."""
        return self.tokens / self.sequences

    def describe(self) -> str:
        """Two readable lines."""
        read = "rows" if self.layout == "examples" else "documents"
        used = f"{self.documents_used:,} of {self.documents:,} {read}"
        alike = self.mean_length == self.longest
        length = f"{self.longest:,} tokens" if alike else f"{self.mean_length:,.1f} tokens (longest {self.longest:,})"
        made = f"{self.sequences:,} {self.layout} of {length}"
        left = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items() if count) or "nothing"
        told = f"{used} gave {made}, {self.tokens:,} tokens in all\nleft out: {left}"
        return told + (f"\nlabels: {self.answers}" if self.answers else "")

    def __str__(self) -> str:
        return self.describe()


class Corpus(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Tokenised sequences on disk, read row by row; a map-style torch dataset.

    Those of conversations have columns beside ``input_ids``: ``packing.MASKS``, and in blocks ``packing.DOCUMENTS``.
    """

    def __init__(
        self,
        table: Any,
        *,
        lengths: NDArray[np.int32] | None,
        documents: NDArray[np.int32],
        token_counts: Tensor,
        statistics: Statistics,
        remarks: Sequence[str] = (),
    ) -> None:
        self.dataset = table.with_format("arrow")
        self.lengths = lengths
        """int32[rows]: tokens of each sequence, specials included; None in ``blocks``, where all are as long."""
        self.documents = documents
        """int32[rows]: number of the document that each sequence begins in. In text with WikiText's headings an article."""
        self.token_counts = token_counts
        """Long[V]: how often each token id of the tokenizer stands in the corpus."""
        self.statistics = statistics
        self.remarks = list(remarks)
        """What the user should know of the sources: files that were left out, what was chosen by evidence."""
        self.layout = statistics.layout

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """One sequence: ``input_ids`` Long[T]."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Tensor]]:
        """Several sequences in the order asked for, read together; no other row is touched."""
        read = self.dataset[list(indices)]
        columns = {}
        for name in read.column_names:
            column = pa.concat_arrays(read[name].chunks)
            values = torch.from_numpy(column.flatten().to_numpy().astype(np.int64))
            columns[name] = torch.split(values, column.value_lengths().to_pylist())
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def digest(self) -> str:
        """A hash of all sequences (and of how the file batches them), wherever the text came from."""
        total = hashlib.sha256()
        for batch in self.dataset.iter(_BATCH_ROWS):
            for name in batch.column_names:  # of text there is one
                for column in batch[name].chunks:
                    total.update(column.value_lengths().to_numpy(zero_copy_only=False).astype("<i4").tobytes())
                    total.update(column.flatten().to_numpy().astype("<i4").tobytes())
        return total.hexdigest()[:32]


def collate(rows: Sequence[dict[str, Tensor]], *, pad_token_id: int | None) -> dict[str, Tensor]:
    """Stack sequences into ``input_ids`` Long[B, T], and with them whatever else the rows have.

    Only where their lengths differ, shorter ones are padded at the end and ``attention_mask`` Long[B, T] is added:
    without padding there is no mask, because a mask makes the models ask the device whether it hides anything.
    """
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    alike = bool((lengths == lengths[0]).all())
    if not alike and pad_token_id is None:
        raise Refusal("teacher.tokenizer", "sequences of different lengths need padding, and it has no padding token")
    padding = {"input_ids": pad_token_id or 0, "labels": IGNORED}
    batch = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if len({value.shape for value in values}) == 1:
            batch[name] = torch.stack(values)
        else:
            padded = padding.get(name, 0)
            batch[name] = torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=padded)
    if not alike:
        batch["attention_mask"] = (torch.arange(batch["input_ids"].shape[1]) < lengths[:, None]).long()
    return batch
