"""Held-out text as fixed examples with slots and labels, the same ones for every model that is compared."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diito.corpus import collate
from diito.corpus.conversations import is_of_conversations
from diito.method.reach import Reach, reach_of_an_encoder
from diito.tasks.task import HeldOutBatching

if TYPE_CHECKING:
    from diito.recipe import SourceSection

LOGITS = 1 << 28
"""Bytes of logits held at a time."""


@runtime_checkable
class Rows(Protocol):
    """What is read of a corpus."""

    def __len__(self) -> int: ...

    def __getitems__(self, rows: list[int]) -> list[dict[str, Tensor]]:
        """These rows, each with its ``input_ids``."""

    @property
    def documents(self) -> Any:
        """The document of each row."""


@dataclass(frozen=True)
class HeldOut:
    """Examples of a corpus, each made by draws of its own."""

    corpus: Rows
    batching: HeldOutBatching
    seed: int
    limit: int | None = None
    """How many examples, spread evenly over the corpus; None takes all."""
    batch: int = 16
    """Examples at a time."""
    reach: Reach = reach_of_an_encoder
    """Which slots a swap can change; the others are not counted under an intervention."""

    @cached_property
    def examples(self) -> list[int]:
        """Row numbers in the corpus."""
        rows = len(self.corpus)
        count = rows if self.limit is None else min(self.limit, rows)
        return [index * rows // count for index in range(count)]

    @property
    def layout(self) -> str:
        """What the rows are: blocks of text, lines (conversations), or labelled examples."""
        return str(getattr(self.corpus, "layout", "blocks"))

    @property
    def documents(self) -> NDArray[Any]:
        """The document of each example."""
        return np.asarray(self.corpus.documents)[self.examples]

    def batches(self) -> Iterator[Sequence[int]]:
        """The examples in batches."""
        examples = self.examples
        for start in range(0, len(examples), self.batch):
            yield examples[start : start + self.batch]

    def batch_of(self, examples: Sequence[int], *, device: torch.device) -> dict[str, Tensor]:
        """These examples as a batch: what models read, ``slots`` (-1: unused) and the ``labels`` there (-100: none)."""
        rows = collate(self.corpus.__getitems__(list(examples)), pad_token_id=self.batching.pad_token_id or 0)
        batch = self.batching.examples(rows, seed=self.seed, examples=examples)
        return {name: value.to(device) for name, value in batch.items()}

    def digest(self) -> str:
        """A hash of the examples' tokens, of their labels, and of where documents begin, wherever the text came from."""
        total = hashlib.sha256(self.documents.tobytes())
        for examples in self.batches():
            for number, row in zip(examples, self.corpus.__getitems__(list(examples)), strict=True):
                total.update(f"{number}:".encode() + row["input_ids"].numpy().tobytes())
                for name in sorted(row.keys() - {"input_ids"}):  # of text there is no other
                    total.update(f"{name}:".encode() + row[name].numpy().tobytes())
        return total.hexdigest()[:32]


def held_out_layout(
    sources: Sequence[SourceSection | str], wanted: Literal["blocks", "lines"] = "blocks"
) -> Literal["blocks", "lines"]:
    """The layout of held-out text: conversations are rows of their own, so that any model reads them apart."""
    return "lines" if any(map(is_of_conversations, sources)) else wanted


def at_slots(states: Tensor, slots: Tensor) -> Tensor:
    """``states`` (batch, tokens, width) at the used slots (batch, slots; -1: unused): (used, width), row by row."""
    index = slots.clamp(min=0).unsqueeze(-1).expand(-1, -1, states.shape[-1])
    return states.gather(1, index)[slots >= 0]


def rows_of_slots(slots: Tensor) -> NDArray[np.int64]:
    """The row of each used slot, in the order of :func:`at_slots`."""
    return (slots >= 0).nonzero()[:, 0].cpu().numpy()
