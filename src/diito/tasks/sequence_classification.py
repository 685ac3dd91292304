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

from diito.corpus.examples import Examples, Row, check_examples, choose, read_examples
from diito.corpus.sources import find_sources
from diito.corpus.store import LENGTH, NothingLeft
from diito.method.draws import host_random
from diito.models.answers import Answers, Reads, answers_of_config, label_names, read_positions
from diito.models.layered import Layered
from diito.refusal import Refusal
from diito.tasks.labels import class_numbers, counted, plain_numbers
from diito.tasks.task import IGNORED, UNUSED, Batching, HeldOutBatching, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from diito.corpus import Corpus, Part
    from diito.recipe import CorpusSection, InterventionSection, Recipe, SourceSection

_TEXTS = "texts"
"""The column that says of which of two texts a token is: 1, 2, or 0 of neither."""
_ROWS = 1_000  # tokenised at a time
UNUSABLE_RULES = {
    "masked": "swaps masked tokens, and here none is masked",
    "prefix-end": "swaps before the first predicted token of a text that goes on, and here none does",
}
"""Position rules of language models."""


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


class SequenceClassification(Task):
    """One answer for each text, or for each pair of texts."""

    name = "sequence-classification"
    of_examples = True
    settings = "intervention"
    pipeline_tag = "text-classification"
    noun = "sequence classifier"
    unusable_rules = UNUSABLE_RULES
    predicted = "predictions"

    def __init__(self) -> None:
        self.config: Any = None
        """The model's configuration; None before a model is known."""
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
        return (slots != UNUSED) & positions.any(1, keepdim=True)

    def slot_share(self, settings: Any = None) -> float:
        return 0.0  # of a sequence one token or a few, and their heads are small

    def padding_id(self, tokenizer: PreTrainedTokenizerBase) -> int | None:
        """The model's own padding token, by which heads of decoders find the last real one; else the tokenizer's."""
        own = None if self.config is None else self.config.get_text_config().pad_token_id
        padding: int | None = tokenizer.pad_token_id if own is None else own
        return padding

    def check_sources(self, sources: Sequence[SourceSection | str], *, field: str) -> None:
        check_examples(sources, field=field)

    def load_rows(
        self,
        section: CorpusSection,
        *,
        tokenizer: PreTrainedTokenizerBase,
        seed: int,
        field: str = "corpus",
        part: Part | None = None,
    ) -> Corpus:
        dropped: dict[str, int] = {}
        rows = [
            row for row in read_examples(section.sources, field=f"{field}.sources", dropped=dropped) if _is_in(row, part, field)
        ]
        labels = self._labels(rows, section.sources, field)
        documents = len(rows)
        kept = kept_rows(section, [self._class_of(label) for label in labels], seed=seed, field=field)
        rows, labels = [rows[index] for index in kept], [labels[index] for index in kept]
        columns = encode(rows, tokenizer, length=section.length or LENGTH, dropped=dropped, field=field)
        answers = counted(labels, label_names(self.config)) if self.answers == "classes" else _counted_numbers(labels)
        return Examples(
            {**columns, "labels": labels},
            documents=documents,
            dropped=dropped,
            answers=answers,
            vocabulary=max(tokenizer.get_vocab().values()) + 1,
            remarks=[
                remark for source in find_sources(section.sources, field=f"{field}.sources") for remark in source.remarks()
            ],
        )

    def _labels(self, rows: Sequence[Row], sources: Sequence[SourceSection | str], field: str) -> list[Any]:
        """The labels in the teacher's terms; each source on its own, since one may give names and another numbers."""
        labels: list[Any] = []
        found = find_sources(sources, field=f"{field}.sources")
        for index, group in itertools.groupby(rows, key=lambda row: row.source):
            own, place = list(group), f"{field}.sources[{index}].label"
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

    def _class_of(self, label: Any) -> int | None:
        """Of which class an example is, where a few are drawn; None where it has no label."""
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

    def check(self, recipe: Recipe) -> None:
        super().check(recipe)
        check_of_examples(recipe)
        if recipe.objective.tokens == "all":
            raise Refusal("objective.tokens", "must be masked: a sequence has one prediction, which is not of its tokens")

    def check_model(self, model: PreTrainedModel, recipe: Recipe) -> None:
        if answers_of_config(model.config) == "numbers" and model.config.num_labels > 1:
            raise Refusal(
                "teacher.model",
                f"{recipe.teacher.model!r} predicts {model.config.num_labels} numbers; give a model of one, or a classifier",
            )


def encode(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, *, length: int, dropped: dict[str, int], field: str
) -> dict[str, list[Any]]:
    """The tokens of each row, as the tokenizer makes them of its text or of its two texts, cut at ``length``."""
    columns: dict[str, list[Any]] = {"input_ids": []}
    has_pairs = any(row.pair is not None for row in rows)
    cut = 0
    for start in range(0, len(rows), _ROWS):
        part = rows[start : start + _ROWS]
        for row in part:
            for text in (row.text, row.pair):
                if not isinstance(text, str | None):
                    raise Refusal(f"{field}.sources", f"{row.place} holds {type(text).__name__} where a text should stand")
        pairs = [row.pair for row in part] if has_pairs else None
        if pairs and None in pairs:
            raise Refusal(f"{field}.sources", "some have two texts and others one; name a pair in all of them or in none")
        whole = tokenizer([row.text for row in part], pairs, truncation=False, verbose=False)["input_ids"]
        cut += sum(len(ids) > length for ids in whole)
        made = tokenizer([row.text for row in part], pairs, truncation=True, max_length=length, verbose=False)
        columns["input_ids"] += made["input_ids"]
        if has_pairs:
            if not tokenizer.is_fast:
                raise Refusal(
                    "teacher.tokenizer", f"{type(tokenizer).__name__} does not say of which text a token is; give a fast one"
                )
            numbers = [made.sequence_ids(index) for index in range(len(part))]
            columns.setdefault(_TEXTS, []).extend([0 if each is None else each + 1 for each in row] for row in numbers)
            if "token_type_ids" in made:
                columns.setdefault("token_type_ids", []).extend(made["token_type_ids"])
    if not all(columns["input_ids"]):
        raise Refusal(f"{field}.sources", f"{rows[columns['input_ids'].index([])].place}: the tokenizer makes no token of it")
    if cut:
        dropped[f"ends of examples longer than {length} tokens"] = cut
    return columns


def kept_rows(section: CorpusSection, classes: Sequence[Any], *, seed: int, field: str) -> Sequence[int]:
    """Which rows are used: all, a share, or so many examples. Raises NothingLeft where there is none."""
    if not classes:
        raise NothingLeft(f"{field}.sources", "there is no example; give files that hold some")
    if section.examples is not None:
        return choose(classes, section.examples, seed=seed, field=f"{field}.examples")
    if section.share == 1:
        return range(len(classes))
    wanted = round(section.share * len(classes))
    if not wanted:
        raise NothingLeft(f"{field}.share", f"{section.share} of {len(classes):,} examples is none; give more")
    return choose([None] * len(classes), wanted, seed=seed, field=f"{field}.share")


def check_of_examples(recipe: Recipe) -> None:
    """Refuse what a recipe asks for and labelled examples cannot give."""
    if recipe.corpus.document_boundaries:
        raise Refusal("corpus.document_boundaries", f"is of causal-lm, and the task is {recipe.task}; leave it out")


def _is_in(row: Row, part: Part | None, field: str) -> bool:
    return part is None or part.has(f"{row.text}\n{row.pair}")


def _is_missing(label: Any) -> bool:
    return (
        label == IGNORED
        or (isinstance(label, float) and math.isnan(label))
        or (isinstance(label, list) and math.isnan(label[0]))
    )


def _counted_numbers(labels: Sequence[Any]) -> str:
    missing = sum(map(_is_missing, labels))
    return f"{len(labels) - missing:,}" + (f", {missing:,} without one" if missing else "")


__all__ = ["Answering", "SequenceClassification", "check_of_examples", "encode", "kept_rows"]
