"""Cloze questions: labelled examples whose text has a mask where the answer, one word, belongs.

1. a row of the data is a text with one mask token in it, and the word that is right there, where it is known;
2. the mask is the one slot; nothing else is hidden, and nothing is drawn;
3. a swap reaches the slot wherever it is, as in any encoder.

Rows are used as they are: where masked-lm hides words of its own choice, here the data says which.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from diito.corpus.examples import Row
from diito.method.reach import reach_of_an_encoder
from diito.refusal import Refusal
from diito.tasks.examples import TaskOfExamples
from diito.tasks.task import IGNORED, Batching, HeldOutBatching

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from diito.recipe import SourceSection

_SHOWN = 5
"""Answers that are named in words."""


@dataclass
class Asking(Batching, HeldOutBatching):
    """Rows to batches with one slot each, the mask."""

    pad_token_id: int | None
    mask_token_id: int
    columns: tuple[str, ...] = ("labels", "token_type_ids")
    """What is read of a dataset of one's own beside its tokens."""

    def batch(self, rows: Mapping[str, Tensor], *, generator: torch.Generator) -> dict[str, Tensor]:
        """See :class:`diito.tasks.task.Batching`. K is 1; nothing is drawn."""
        slots = (rows["input_ids"] == self.mask_token_id).int().argmax(1, keepdim=True)
        labels = rows.get("labels")
        labels = torch.full_like(slots, IGNORED) if labels is None else labels.unsqueeze(1)
        return {**rows, "slots": slots, "labels": labels}

    def examples(self, rows: Mapping[str, Tensor], *, seed: int, examples: Sequence[int]) -> dict[str, Tensor]:
        """The same: a held-out example is asked as one to train on."""
        return self.batch(rows, generator=torch.Generator())


class Cloze(TaskOfExamples):
    """The word behind the one mask of each text."""

    name = "cloze"
    needed_tokens = ("mask_token",)
    pipeline_tag = "fill-mask"
    noun = "masked language model"
    metric = "classification"
    predicted = "masks"
    is_drawn = False
    unusable_rules: ClassVar[dict[str, str]] = {"prefix-end": TaskOfExamples.unusable_rules["prefix-end"]}

    @property
    def head(self) -> Any:
        from transformers import AutoModelForMaskedLM

        return AutoModelForMaskedLM

    def batching(
        self,
        settings: None = None,
        *,
        tokenizer: PreTrainedTokenizerBase,
        vocab_size: int,
        token_counts: Int[Tensor, " tokens"] | None = None,
    ) -> Asking:
        return Asking(self.padding_id(tokenizer), tokenizer.mask_token_id)

    def held_out_batching(self, *, tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> Asking:
        return self.batching(tokenizer=tokenizer, vocab_size=vocab_size)

    def reach(self, slots: Int[Tensor, "batch slots"], positions: Bool[Tensor, "batch tokens"]) -> Bool[Tensor, "batch slots"]:
        return reach_of_an_encoder(slots, positions)

    def slot_share(self, settings: Any = None) -> float:
        return 0.0  # one token of a sequence

    def labels_of(self, rows: Sequence[Row], sources: Sequence[SourceSection | str], *, field: str) -> list[Any]:
        """The answers in words; None where a row has none."""
        for row in rows:
            if not isinstance(row.text, str) or row.pair is not None:
                raise Refusal(field, f"{row.place}: a cloze question is one text; name its column, and no pair")
            if not isinstance(row.label, str | None):
                raise Refusal(field, f"{row.place}: the answer {row.label!r} is no word")
        return [row.label for row in rows]

    def class_of(self, label: Any) -> Any:
        return label

    def encode(
        self,
        rows: Sequence[Row],
        labels: Sequence[Any],
        tokenizer: PreTrainedTokenizerBase,
        *,
        length: int,
        dropped: dict[str, int],
        field: str,
    ) -> dict[str, list[Any]]:
        """As the tokenizer makes sequences of the texts. None is cut: its mask could be lost."""
        made = tokenizer([row.text for row in rows], truncation=False, verbose=False)["input_ids"]
        for row, ids in zip(rows, made, strict=True):
            if ids.count(tokenizer.mask_token_id) != 1:
                raise Refusal(
                    field, f"{row.place}: needs {tokenizer.mask_token} once, where the answer belongs, in {row.text!r}"
                )
            if len(ids) > length:
                section = field.partition(".")[0]
                raise Refusal(
                    f"{section}.length", f"{row.place} has {len(ids)} tokens; give at least so many, or shorter texts"
                )
        answers = {label: _token(label, tokenizer, field=field) for label in set(labels) - {None}}
        return {"input_ids": made, "labels": [IGNORED if label is None else answers[label] for label in labels]}

    def describe(self, labels: Sequence[Any]) -> str:
        counts = Counter(label for label in labels if label is not None)
        missing = len(labels) - counts.total()
        named = ", ".join(f"{count:,} {word}" for word, count in counts.most_common(_SHOWN))
        others = f" and {len(counts) - _SHOWN:,} other words" if len(counts) > _SHOWN else ""
        return f"{named}{others}" + (f", {missing:,} without one" if missing else "")


def _token(word: str, tokenizer: PreTrainedTokenizerBase, *, field: str) -> int:
    """The one token of an answer, as it stands after a space."""
    for text in (f" {word}", word):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
            return int(ids[0])
    raise Refusal(field, f"the answer {word!r} is not one token of the tokenizer; give answers that are")


__all__ = ["Asking", "Cloze"]
