"""Sequence classification and regression: one answer for a text or two, from one token or from all of them.

1. a row of the data is a text or two, and an answer where there is one; it makes one sequence, as the tokenizer makes it;
2. the one prediction is one slot, at the token that the head reads (of a head that reads several, the first);
3. a swap reaches it wherever it is; of two texts it takes tokens of one, drawn by their lengths, unless told otherwise;
4. answers are found among the teacher's by name or number; rows without any learn from the teacher's alone.

Nothing else is drawn, so a held-out example is the same as one to train on.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from diito.corpus.examples import Row
from diito.corpus.sources import find_sources
from diito.method.draws import host_random
from diito.method.reach import reach_of_an_encoder
from diito.models.answers import Answers, Reads, answers_of_config, label_names, read_positions
from diito.models.layered import Layered
from diito.refusal import Refusal
from diito.tasks.examples import TaskOfExamples
from diito.tasks.labels import class_numbers, counted, plain_numbers
from diito.tasks.task import IGNORED, Batching, HeldOutBatching

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from diito.recipe import InterventionSection, Recipe, SourceSection

_TEXTS = "texts"
"""The column that says of which of two texts a token is: 1, 2, or 0 of neither."""
_ROWS = 1_000  # tokenised at a time


@dataclass
class Answering(Batching, HeldOutBatching):
    """Rows to batches with one slot each."""

    pad_token_id: int | None
    reads: Reads = "first"
    """Which token the head reads."""
    across_texts: bool = False
    """Whether a swap may take tokens of both texts."""
    columns: tuple[str, ...] = ("labels", "label", "token_type_ids")
    """What is read of a dataset of one's own beside its tokens."""

    def batch(self, rows: Mapping[str, Tensor], *, generator: torch.Generator) -> dict[str, Tensor]:
        """See :class:`diito.tasks.task.Batching`. K is 1; labels are classes, or numbers (NaN where there is none).

        ``swappable``, where rows have two texts: the tokens of one of them.
        """
        drawn = torch.rand(len(rows["input_ids"]), generator=generator, device=rows["input_ids"].device)
        return self._answer(rows, drawn)

    def examples(self, rows: Mapping[str, Tensor], *, seed: int, examples: Sequence[int]) -> dict[str, Tensor]:
        """The same, with draws of (seed, number of the example) alone."""
        drawn = torch.tensor([host_random("evaluation text", seed, example).random() for example in examples])
        return self._answer(rows, drawn.to(rows["input_ids"].device))

    def _answer(self, rows: Mapping[str, Tensor], drawn: Float[Tensor, " batch"]) -> dict[str, Tensor]:
        made = {name: value for name, value in rows.items() if name not in (_TEXTS, "labels", "label")}
        labels = rows.get("labels", rows.get("label"))
        if labels is None:
            labels = torch.full_like(rows["input_ids"][:, 0], IGNORED)
        slots = read_positions(self.reads, rows, self.pad_token_id).int().argmax(1, keepdim=True)
        if _TEXTS in rows and not self.across_texts:
            made["swappable"] = _one_text(rows[_TEXTS], drawn)
        return {**made, "slots": slots, "labels": labels.unsqueeze(1)}


def _one_text(texts: Int[Tensor, "batch tokens"], drawn: Float[Tensor, " batch"]) -> Bool[Tensor, "batch tokens"]:
    """The tokens of one text of each row, drawn in proportion to their numbers, so that each token is as likely as another."""
    first, second = (texts == 1).sum(1), (texts == 2).sum(1)
    chosen = 1 + (drawn * (first + second) >= first).long()
    return texts == chosen.unsqueeze(1)


class SequenceClassification(TaskOfExamples):
    """One answer for each text, or for each pair of texts."""

    name = "sequence-classification"
    settings = "intervention"
    pipeline_tag = "text-classification"
    noun = "sequence classifier"
    predicted = "predictions"

    def __init__(self) -> None:
        super().__init__()
        self.reads: Reads = "first"

    @property
    def head(self) -> Any:
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification

    @property
    def answers(self) -> Answers:
        """What the model answers with."""
        return "classes" if self.config is None else answers_of_config(self.config)

    @property
    def metric(self) -> str:  # type: ignore[override]
        """By what the model answers with."""
        return {"classes": "classification", "numbers": "regression", "several": "multi-label"}[self.answers]

    def of(self, model: PreTrainedModel) -> SequenceClassification:
        """The task with the classes of a model, and what its head reads."""
        bound = copy.copy(self)
        bound.config = model.config
        bound.reads = Layered(model).parts.reads or "first"
        return bound

    def batching(
        self,
        settings: InterventionSection | None = None,
        *,
        tokenizer: PreTrainedTokenizerBase,
        vocab_size: int,
        token_counts: Int[Tensor, " tokens"] | None = None,
    ) -> Answering:
        across = settings is not None and settings.across_texts
        return Answering(self.padding_id(tokenizer), self.reads, across)

    def held_out_batching(self, *, tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> Answering:
        return Answering(self.padding_id(tokenizer), self.reads)

    def reach(self, slots: Int[Tensor, "batch slots"], positions: Bool[Tensor, "batch tokens"]) -> Bool[Tensor, "batch slots"]:
        """The prediction of a row in which anything is swapped: what stands behind the token that a decoder's head reads is
        padding, and never swapped."""
        return reach_of_an_encoder(slots, positions)

    def slot_share(self, settings: Any = None) -> float:
        return 0.0  # of a sequence one token or a few, and their heads are small

    def padding_id(self, tokenizer: PreTrainedTokenizerBase) -> int | None:
        """The model's own padding token, by which heads of decoders find the last real one; else the tokenizer's."""
        own = None if self.config is None else self.config.get_text_config().pad_token_id
        padding: int | None = tokenizer.pad_token_id if own is None else own
        return padding

    def labels_of(self, rows: Sequence[Row], sources: Sequence[SourceSection | str], *, field: str) -> list[Any]:
        """The labels in the teacher's terms; each source on its own, since one may give names and another numbers."""
        labels: list[Any] = []
        found = find_sources(sources, field=field)
        for index, group in itertools.groupby(rows, key=lambda row: row.source):
            own, place = list(group), f"{field}[{index}].label"
            values = [row.label for row in own]
            if self.answers == "numbers":
                labels += plain_numbers(values, [row.place for row in own], field=place)
            elif self.answers == "several":
                labels += self._several(own, field=place)
            else:
                source = sources[index]
                column = None if isinstance(source, str) else source.label
                given = None if column is None else found[index].class_names(column)
                labels += class_numbers(values, label_names(self.config), given=given, field=place)
        return labels

    def class_of(self, label: Any) -> int | None:
        if _is_missing(label):
            return None
        return int(label) if self.answers == "classes" else 0

    def _several(self, rows: Sequence[Row], *, field: str) -> list[list[float]]:
        """Of rows with lists of classes: for each class of the teacher 1 where it is among them."""
        names = label_names(self.config)
        vectors = []
        for row in rows:
            if row.label is not None and not isinstance(row.label, list):
                raise Refusal(
                    field, f"{row.place}: the label {row.label!r} is no list of classes, and the teacher names several"
                )
            numbers = class_numbers(row.label or [], names, field=field)
            vectors.append([math.nan if row.label is None else float(index in numbers) for index in range(len(names))])
        return vectors

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
        """As the tokenizer makes sequences of a text or of two, cut at ``length``."""
        _check_texts(rows, field)
        has_pairs = any(row.pair is not None for row in rows)
        if has_pairs and not tokenizer.is_fast:
            name = type(tokenizer).__name__
            raise Refusal("teacher.tokenizer", f"{name} does not say of which text a token is; give a fast one")
        columns: dict[str, list[Any]] = {"input_ids": []}
        cut = 0
        for start in range(0, len(rows), _ROWS):
            part = rows[start : start + _ROWS]
            texts = [row.text for row in part], [row.pair for row in part] if has_pairs else None
            made = tokenizer(*texts, truncation=False, verbose=False)
            if longer := sum(len(ids) > length for ids in made["input_ids"]):
                cut += longer
                made = tokenizer(*texts, truncation=True, max_length=length, verbose=False)
            columns["input_ids"] += made["input_ids"]
            if has_pairs:
                numbers = [made.sequence_ids(index) for index in range(len(part))]
                columns.setdefault(_TEXTS, []).extend([0 if each is None else each + 1 for each in row] for row in numbers)
                if "token_type_ids" in made:
                    columns.setdefault("token_type_ids", []).extend(made["token_type_ids"])
        if not all(columns["input_ids"]):
            raise Refusal(field, f"{rows[columns['input_ids'].index([])].place}: the tokenizer makes no token of it")
        if cut:
            dropped[f"ends of examples longer than {length} tokens"] = cut
        return {**columns, "labels": list(labels)}

    def describe(self, labels: Sequence[Any]) -> str:
        if self.answers == "classes":
            return counted(labels, label_names(self.config))
        missing = sum(map(_is_missing, labels))
        return f"{len(labels) - missing:,}" + (f", {missing:,} without one" if missing else "")

    def check(self, recipe: Recipe) -> None:
        super().check(recipe)
        if recipe.objective.tokens == "all":
            raise Refusal("objective.tokens", "must be masked: a sequence has one prediction, which is not of its tokens")

    def check_model(self, model: PreTrainedModel, recipe: Recipe) -> None:
        if answers_of_config(model.config) == "numbers" and model.config.num_labels > 1:
            raise Refusal(
                "teacher.model",
                f"{recipe.teacher.model!r} predicts {model.config.num_labels} numbers; give a model of one, or a classifier",
            )


def _check_texts(rows: Sequence[Row], field: str) -> None:
    for row in rows:
        for text in (row.text, row.pair):
            if not isinstance(text, str | None):
                raise Refusal(field, f"{row.place} holds {type(text).__name__} where a text should stand")
    if len({row.pair is None for row in rows}) > 1:
        raise Refusal(field, "some have two texts and others one; name a pair in all of them or in none")


def _is_missing(label: Any) -> bool:
    return (
        label == IGNORED
        or (isinstance(label, float) and math.isnan(label))
        or (isinstance(label, list) and math.isnan(label[0]))
    )


__all__ = ["Answering", "SequenceClassification"]
