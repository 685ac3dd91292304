"""Held-out text as masked examples, the same ones for every model that is compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from diito.corpus import Corpus, collate
from diito.masking import Masking


@dataclass(frozen=True)
class HeldOut:
    """Examples of a corpus, each masked by draws of its own."""

    corpus: Corpus
    masking: Masking
    """Uniform (smoothing 0) where perplexity is measured: the exponent of the training draws is for training only."""
    seed: int
    limit: int | None = None
    """How many examples, spread evenly over the corpus; None takes all."""
    batch: int = 16
    """Examples at a time."""

    @cached_property
    def examples(self) -> list[int]:
        """Row numbers in the corpus."""
        rows = len(self.corpus)
        count = rows if self.limit is None else min(self.limit, rows)
        return [index * rows // count for index in range(count)]

    def batches(self) -> Iterator[Sequence[int]]:
        """The examples in batches."""
        examples = self.examples
        for start in range(0, len(examples), self.batch):
            yield examples[start : start + self.batch]

    def masked(self, examples: Sequence[int], *, device: torch.device) -> dict[str, Tensor]:
        """These examples as a masked batch: ``input_ids``, ``labels`` (-100: none), ``masked_positions`` (-1: unused)."""
        rows = collate(self.corpus.__getitems__(list(examples)), pad_token_id=self.masking.pad_token_id or 0)
        masked = self.masking.mask_examples(rows, seed=self.seed, examples=examples)
        return {name: value.to(device) for name, value in masked.items()}


def at_slots(states: Tensor, slots: Tensor) -> Tensor:
    """``states`` (batch, tokens, width) at the used slots (batch, slots; -1: unused): (used, width), row by row."""
    index = slots.clamp(min=0).unsqueeze(-1).expand(-1, -1, states.shape[-1])
    return states.gather(1, index)[slots >= 0]
