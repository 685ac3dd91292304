"""Token classification: a tag for each word, read from its first piece.

1. a row of the data is a list of words and a list of tags, or a sentence of a column file; it makes one sequence;
2. the first piece of each word is a slot, and the word's tag its label; all other pieces and the specials have none;
3. tags in IOB1 are brought to IOB2, where the teacher has such classes, and found among the teacher's by name or number;
4. a swap reaches every word of its row; in a decoder those at and behind its first position.

Nothing is drawn, so a held-out example is the same as one to train on.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedModel

from diito.corpus.conversations import refuse_conversations
from diito.corpus.examples import Row, check_examples, read_examples
from diito.corpus.sources import LocalFiles, find_sources
from diito.method.reach import reach_of_a_decoder, reach_of_an_encoder
from diito.models.answers import label_names
from diito.models.causal import reads_ahead
from diito.refusal import Refusal
from diito.tasks.examples import TaskOfExamples
from diito.tasks.labels import class_numbers, counted
from diito.tasks.task import IGNORED, UNUSED, Batching, HeldOutBatching

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from diito.recipe import Recipe, SourceSection

_STARTS = "starts"
"""The column that says where words begin: 1 at the first piece of each."""


@dataclass
class Tagging(Batching, HeldOutBatching):
    """Rows to batches with a slot for each word."""

    pad_token_id: int | None
    columns: tuple[str, ...] = ("labels", "token_type_ids")
    """What is read of a dataset of one's own beside its tokens: words begin where it has a label."""

    def batch(self, rows: Mapping[str, Tensor], *, generator: torch.Generator) -> dict[str, Tensor]:
        """See :class:`diito.tasks.task.Batching`. K is T; the slots of other tokens than first pieces are unused."""
        labels = rows.get("labels", torch.full_like(rows["input_ids"], IGNORED))
        starts = rows[_STARTS] > 0 if _STARTS in rows else labels != IGNORED
        slots = torch.arange(starts.shape[1], device=starts.device).expand_as(starts).where(starts, UNUSED)
        return {**{name: value for name, value in rows.items() if name != _STARTS}, "slots": slots, "labels": labels}

    def examples(self, rows: Mapping[str, Tensor], *, seed: int, examples: Sequence[int]) -> dict[str, Tensor]:
        """The same: nothing is drawn."""
        return self.batch(rows, generator=torch.default_generator)


class TokenClassification(TaskOfExamples):
    """A tag for each word."""

    name = "token-classification"
    pipeline_tag = "token-classification"
    noun = "token classifier"
    metric = "tagging"
    predicted = "words"

    def __init__(self) -> None:
        super().__init__()
        self.is_causal = False
        """Whether a token reads those before it alone."""

    @property
    def head(self) -> Any:
        from transformers import AutoModelForTokenClassification

        return AutoModelForTokenClassification

    def of(self, model: PreTrainedModel) -> TokenClassification:
        """The task with the classes of a model, and whether its tokens read ahead."""
        bound = copy.copy(self)
        bound.config, bound.is_causal = model.config, not reads_ahead(model)
        return bound

    def batching(
        self,
        settings: Any = None,
        *,
        tokenizer: PreTrainedTokenizerBase,
        vocab_size: int,
        token_counts: Int[Tensor, " tokens"] | None = None,
    ) -> Tagging:
        return Tagging(self.padding_id(tokenizer))

    def held_out_batching(self, *, tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> Tagging:
        return Tagging(self.padding_id(tokenizer))

    def reach(self, slots: Int[Tensor, "batch slots"], positions: Bool[Tensor, "batch tokens"]) -> Bool[Tensor, "batch slots"]:
        """The words of a row in which anything is swapped; in a decoder those at or behind a swapped position."""
        return (reach_of_a_decoder if self.is_causal else reach_of_an_encoder)(slots, positions)

    def padding_id(self, tokenizer: PreTrainedTokenizerBase) -> int | None:
        own = None if self.config is None else self.config.get_text_config().pad_token_id
        padding: int | None = own if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        return padding

    def check_sources(self, sources: Sequence[SourceSection | str], *, field: str) -> None:
        refuse_conversations(sources, field=field)
        for index, (found, given) in enumerate(zip(find_sources(sources, field=field), sources, strict=True)):
            if not isinstance(given, str) and given.pair is not None:
                raise Refusal(f"{field}[{index}].pair", "belongs to sequence-classification; leave it out")
            if isinstance(found, LocalFiles) and any(map(_is_column_file, found.paths)):
                list(_read_sources([given], field=field))
            else:
                check_examples([given], field=field)

    def read_rows(
        self, sources: Sequence[SourceSection | str], *, field: str, dropped: dict[str, int] | None = None
    ) -> list[Row]:
        return _read_sources(sources, field=field, dropped=dropped)

    def typed_row(self, text: str, pair: str | None) -> Row:
        return Row(0, "the text", text.split(), None, None)

    def key_of(self, row: Row) -> str:
        return " ".join(row.text)

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
        from diito.suites.ner import encode

        if not tokenizer.is_fast:
            raise Refusal(
                "teacher.tokenizer", f"{type(tokenizer).__name__} does not say which word a piece is of; give a fast one"
            )
        encoded = encode({"words": [row.text for row in rows], "tags": list(labels)}, tokenizer, length)
        if cut := sum(first < 0 for row in encoded["first_tokens"] for first in row):
            dropped[f"words without a token, mostly beyond {length} tokens"] = cut
        starts = [[0] * len(ids) for ids in encoded["input_ids"]]
        for row, first_tokens in zip(starts, encoded["first_tokens"], strict=True):
            for token in first_tokens:
                if token >= 0:
                    row[token] = 1
        return {"input_ids": encoded["input_ids"], _STARTS: starts, "labels": encoded["labels"]}

    def describe(self, labels: Sequence[Any]) -> str:
        return counted(list(itertools.chain.from_iterable(labels)), label_names(self.config))

    def labels_of(self, rows: Sequence[Row], sources: Sequence[SourceSection | str], *, field: str) -> list[list[int]]:
        """The tags of each row in the teacher's terms; each source on its own, since one may give names and another numbers."""
        names, found = label_names(self.config), find_sources(sources, field=field)
        tags: list[list[int]] = []
        for index, group in itertools.groupby(rows, key=lambda row: row.source):
            own, source = list(group), sources[index]
            column = None if isinstance(source, str) else source.label
            given = None if column is None else found[index].class_names(column)
            written = [row.label if row.label is not None else [None] * len(row.text) for row in own]
            written = _in_the_teachers_scheme(written, names)
            flat = class_numbers(
                list(itertools.chain.from_iterable(written)), names, given=given, field=f"{field}[{index}]", each="tags"
            )
            numbers = iter(flat)
            tags += [list(itertools.islice(numbers, len(row))) for row in written]
        return tags

    def check(self, recipe: Recipe) -> None:
        super().check(recipe)
        if recipe.intervention.across_texts:
            raise Refusal("intervention.across_texts", "belongs to sequence-classification; leave it out")


def _read_sources(sources: Sequence[SourceSection | str], *, field: str, dropped: dict[str, int] | None = None) -> list[Row]:
    """The rows of all sources with their words and tags. Raises Refusal for a row whose tags are not as many as its words."""
    from diito.suites.ner import read_columns

    rows: list[Row] = []
    for index, (found, given) in enumerate(zip(find_sources(sources, field=field), sources, strict=True)):
        if isinstance(found, LocalFiles) and all(map(_is_column_file, found.paths)):
            for path in found.paths:
                try:
                    sentences = read_columns(path)
                except ValueError as error:  # which names the file and the line
                    raise Refusal(f"{field}[{index}]", str(error)) from error
                rows += [Row(index, str(path), words, None, tags) for words, tags in sentences]
        else:
            rows += [dataclasses.replace(row, source=index) for row in read_examples([given], field=field, dropped=dropped)]
    for row in rows:
        place = f"{field}[{row.source}]"
        if not isinstance(row.text, list) or not all(isinstance(word, str) for word in row.text):
            raise Refusal(place, f"{row.place} holds no list of words; name its column, such as column: tokens")
        if row.label is not None and (not isinstance(row.label, list) or len(row.label) != len(row.text)):
            count = f"{len(row.label)} tags" if isinstance(row.label, list) else "no list of tags"
            raise Refusal(place, f"{row.place} holds {len(row.text)} words and {count}; each word needs one")
    return rows


def _in_the_teachers_scheme(tags: list[list[Any]], names: Sequence[str]) -> list[list[Any]]:
    """The tags in IOB2 where all are in IOB1 or IOB2 and the teacher has the classes for it; else as they are written."""
    from diito.suites.ner import to_iob2

    if not all(isinstance(tag, str) and (tag == "O" or tag.startswith(("B-", "I-"))) for row in tags for tag in row):
        return tags
    brought = [to_iob2(row) for row in tags]
    known = {name.casefold() for name in names}
    return brought if all(tag.casefold() in known for row in brought for tag in row) else tags


def _is_column_file(path: Any) -> bool:
    return ".txt" in (path.suffix, *path.suffixes[-2:-1])


__all__ = ["Tagging", "TokenClassification"]
