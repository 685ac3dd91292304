"""Held-out text as fixed examples with slots and labels, the same ones for every model that is compared."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from diito.corpus import collate
from diito.corpus.conversations import is_of_conversations
from diito.method.reach import Reach, reach_of_an_encoder
from diito.models.padding import reads_padding
from diito.models.steps import accepted, first, logits_of
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
    def examples(self) -> Sequence[int]:
        """Row numbers in the corpus, of all rows without holding them."""
        rows = len(self.corpus)
        if self.limit is None or self.limit >= rows:
            return range(rows)
        return [index * rows // self.limit for index in range(self.limit)]

    @property
    def layout(self) -> str:
        """What the rows are: blocks of text, lines (conversations), or labelled examples."""
        return str(getattr(self.corpus, "layout", "blocks"))

    @property
    def documents(self) -> NDArray[Any]:
        """The document of each example."""
        return np.asarray(self.corpus.documents)[self.examples]

    def for_models(self, *models: PreTrainedModel) -> HeldOut:
        """The same for models in eval mode: one example at a time where padding would move the answers of one of them."""
        lengths = self._lengths
        if lengths is None or self.batch == 1:
            return self

        def answers(model: PreTrainedModel, numbers: Sequence[int]) -> Tensor:
            batch = self.batch_of([self.examples[number] for number in numbers], device=model.device)
            if model.get_output_embeddings() is None:
                return logits_of(model(**accepted(model, batch)))
            body = model.base_model  # logits of all words at all tokens would be large
            return first(body(**accepted(body, batch)))

        if any(reads_padding(model, functools.partial(answers, model), lengths) for model in models):
            return dataclasses.replace(self, batch=1)
        return self

    @cached_property
    def _lengths(self) -> NDArray[Any] | None:
        """The tokens of each example; None where all have as many. Rows that do not say are read."""
        if hasattr(self.corpus, "lengths"):
            return None if self.corpus.lengths is None else np.asarray(self.corpus.lengths)[self.examples]
        return np.array([len(row["input_ids"]) for part in self.batches() for row in self.corpus.__getitems__(list(part))])

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
