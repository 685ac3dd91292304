"""What classifiers and taggers share: their corpus is labelled examples, each a sequence of its own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from diito.corpus.conversations import refuse_conversations
from diito.corpus.examples import Examples, Row, check_examples, choose, read_examples
from diito.corpus.forms import LENGTH, NothingLeft
from diito.corpus.sources import find_sources
from diito.models.answers import answers_of_config, label_names
from diito.refusal import Refusal
from diito.tasks.task import IGNORED, Question, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from diito.corpus import Part
    from diito.recipe import CorpusSection, SourceSection


NO_LABELS = "no row has a label; where there are labels, name their column, as in {path: my.csv, label: label}"
"""A remark about data that has texts alone, as it also has where the column of the labels is not named."""


_NO_LIMIT = 1 << 30
"""Tokens of an example that is not cut."""


class TaskOfExamples(Task):
    """A task whose corpus is rows with a label, or without one."""

    of_examples = True
    unusable_rules: ClassVar[dict[str, str]] = {
        "masked": "swaps masked tokens, and here none is masked",
        "prefix-end": "swaps before the first predicted token of a text that goes on, and here none does",
    }

    def __init__(self) -> None:
        self.config: Any = None
        """The model's configuration; None before a model is known."""

    def load_rows(
        self,
        section: CorpusSection,
        *,
        tokenizer: PreTrainedTokenizerBase,
        seed: int,
        field: str = "corpus",
        part: Part | None = None,
    ) -> Examples:
        """The examples in memory, or as many of each class as ``corpus.examples`` asks for. Arguments as of ``load_corpus``.

        Raises Refusal, naming the field, for data that cannot be read or does not fit the teacher's labels.
        """
        dropped: dict[str, int] = {}
        place = f"{field}.sources"
        rows = [
            row
            for row in self.read_rows(section.sources, field=place, dropped=dropped)
            if part is None or part.has(self.key_of(row))
        ]
        labels = self.labels_of(rows, section.sources, field=place)
        kept = _kept_rows(section, [self.class_of(label) for label in labels], seed=seed, field=field)
        chosen, labels = [rows[index] for index in kept], [labels[index] for index in kept]
        length = section.length or LENGTH
        return Examples(
            self.encode(chosen, labels, tokenizer, length=length, dropped=dropped, field=place),
            documents=len(rows),
            dropped=dropped,
            answers=self.describe(labels),
            vocabulary=max(tokenizer.get_vocab().values()) + 1,
            remarks=[
                *(remark for source in find_sources(section.sources, field=place) for remark in source.remarks()),
                *([] if any(row.label is not None for row in rows) else [NO_LABELS]),
            ],
        )

    def check_student(self, config: Any, teacher: Any, *, name: str, field: str) -> None:
        """A student has the teacher's labels, by their names and in their order, and means the same by its outputs."""
        ours, theirs = label_names(config), label_names(teacher)
        if ours != theirs:
            raise Refusal(
                field,
                f"the labels of {name!r} ({', '.join(ours)}) are not the teacher's ({', '.join(theirs)}), in this order; give "
                "a model that has them, or set id2label in its config.json right",
            )
        if answers_of_config(config) != answers_of_config(teacher):
            kinds = f"{answers_of_config(config)}, and the teacher with {answers_of_config(teacher)}"
            raise Refusal(field, f"{name!r} answers with {kinds}; give a model with the same problem_type")
        padding = [each.get_text_config().pad_token_id for each in (config, teacher)]
        if padding[0] != padding[1]:
            raise Refusal(field, f"pad_token_id of {name!r} is {padding[0]} and the teacher's {padding[1]}; set it to the same")

    def check_sources(self, sources: Sequence[SourceSection | str], *, field: str) -> None:
        refuse_conversations(sources, field=field)
        check_examples(sources, field=field)

    def read_rows(
        self, sources: Sequence[SourceSection | str], *, field: str, dropped: dict[str, int] | None = None
    ) -> Sequence[Row]:
        """The rows of all sources; what is left out is counted in ``dropped``, by reason."""
        return list(read_examples(sources, field=field, dropped=dropped))

    @abstractmethod
    def labels_of(self, rows: Sequence[Row], sources: Sequence[SourceSection | str], *, field: str) -> list[Any]:
        """The label of each row in the teacher's terms. Raises Refusal where they do not fit."""

    @abstractmethod
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
        """The columns of ``diito.corpus.examples.Examples``; what is cut at ``length`` tokens is counted in ``dropped``."""

    @abstractmethod
    def describe(self, labels: Sequence[Any]) -> str:
        """The labels in words: how many there are of each kind."""

    def question(self, text: str, pair: str | None, *, tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> Question:
        """The example that a row of the data with this text would be, without a label."""
        row = self.typed_row(text, pair)
        labels = [[IGNORED] * len(row.text) if isinstance(row.text, list) else None]
        columns = self.encode([row], labels, tokenizer, length=_NO_LIMIT, dropped={}, field="text")
        rows = {name: torch.tensor(values) for name, values in columns.items() if name != "labels"}
        batching = self.held_out_batching(tokenizer=tokenizer, vocab_size=vocab_size)
        assert batching is not None
        made = batching.examples(rows, seed=0, examples=[0])
        slots = made["slots"][0]
        inputs: dict[str, torch.Tensor] = {name: made[name] for name in ("input_ids", "token_type_ids") if name in made}
        return Question(inputs, slots[slots >= 0].tolist())

    def typed_row(self, text: str, pair: str | None) -> Row:
        """The row of a typed text."""
        return Row(0, "the text", text, pair, None)

    def key_of(self, row: Row) -> str:
        """The text of a row, by which the held-out part is told from the rest."""
        return f"{row.text}\n{row.pair}"

    def class_of(self, label: Any) -> Any:
        """Of which class an example is, where a few are drawn, as many of each; None where it has none."""
        return None


def _kept_rows(section: CorpusSection, classes: Sequence[Any], *, seed: int, field: str) -> Sequence[int]:
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


__all__ = ["NO_LABELS", "TaskOfExamples"]
