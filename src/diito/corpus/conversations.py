"""Conversations, and prompts with completions, as rows of a corpus: what of them is predicted.

1. :class:`Conversations` yields the rows of a source as JSON, a string each, so that they are chosen, held out and handed to
   worker processes as documents are;
2. :class:`ConversationTokeniser` renders each with the tokenizer's chat template (a prompt that is plain text stands before its
   completion as it is), and says of every token whether it is predicted;
3. whose text a token is, is found in the rendered text: by the template's own ``{% generation %}`` marks, or else by rendering
   the messages before each answer and those up to it, which must be the beginnings of the whole.

Formats and names are those of TRL: ``messages``; ``prompt`` and ``completion``, both text or both lists of messages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from diito.corpus.formats import CHECKED_ROWS, read_cells
from diito.corpus.sources import HubDataset, LocalFiles, find_sources
from diito.corpus.tokenise import Chunk, Tokeniser
from diito.faults import reason
from diito.reading import stem_suffix
from diito.refusal import Refusal

if TYPE_CHECKING:
    from diito.recipe import SourceSection

MESSAGES = "messages"
"""The column of conversations."""
ASSISTANT = "assistant"
_MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")
_Spans = list[tuple[int, int]]
"""Where predicted text begins and ends, in characters."""


def is_of_conversations(source: SourceSection | str) -> bool:
    """Whether the rows of a source are conversations, or prompts with completions."""
    return not isinstance(source, str) and (source.prompt is not None or source.column == MESSAGES)


def are_conversations(sources: Sequence[SourceSection | str], *, field: str) -> bool:
    """Whether all sources are of conversations. Raises Refusal, naming ``field``, where some are and others are not."""
    kinds = [is_of_conversations(source) for source in sources]
    if any(kinds) and not all(kinds):
        raise Refusal(
            f"{field}[{kinds.index(False)}]", "holds text, and other sources hold conversations; give sources of one kind"
        )
    return any(kinds)


def refuse_conversations(sources: Sequence[SourceSection | str], *, field: str) -> None:
    """Refuse, naming ``field``, sources of conversations where a task reads none."""
    for index, source in enumerate(sources):
        if not isinstance(source, str) and source.prompt is not None:
            raise Refusal(f"{field}[{index}].prompt", "belongs to causal-lm; leave it out")


class Conversation(str):
    """The messages of a row as JSON, and where the row stands, in words."""

    place: str

    def __new__(cls, text: str, place: str = "") -> Conversation:
        conversation = super().__new__(cls, text)
        conversation.place = place
        return conversation


@dataclass(frozen=True)
class Conversations:
    """A source whose rows are conversations."""

    source: LocalFiles | HubDataset
    column: str
    prompt: str | None

    def documents(self) -> Iterator[str]:
        """The rows in order, without those that hold nothing. Raises Refusal for one that is no conversation."""
        for place, cells in self.source.cells(self._columns):
            yield from self._row(place, cells)

    def fingerprint(self) -> list[Any]:
        return [*self.source.fingerprint(), self._columns]

    def remarks(self) -> list[str]:
        return self.source.remarks()

    def check(self) -> None:
        """Refuse files whose first rows hold no conversation. Hub datasets are not looked at."""
        if isinstance(self.source, HubDataset):
            return
        for path in self.source.paths:
            if stem_suffix(path) == ".txt":
                raise Refusal(self.source.field, f"'{path}' is plain text without columns; give a .jsonl or .parquet file")
            cells = read_cells(path, columns=self._columns, field=self.source.field, rows=CHECKED_ROWS)
            if not [row for place, values in cells for row in self._row(place, values)]:
                raise Refusal(
                    self.source.field, f"'{path}' holds no conversation; give a file that holds some, or leave it out"
                )

    @property
    def _columns(self) -> list[str]:
        return [self.column] if self.prompt is None else [self.prompt, self.column]

    def _row(self, place: str, cells: Sequence[Any]) -> Iterator[Conversation]:
        if all(isinstance(cell, str) for cell in cells) and self.prompt is not None:
            content: dict[str, Any] = {"prompt": cells[0], "completion": cells[1]}
        elif all(cells):
            parts = [self._messages(place, column, cell) for column, cell in zip(self._columns, cells, strict=True)]
            content = {"messages": [message for part in parts for message in part], "first": sum(map(len, parts[:-1]))}
        else:  # a cell without anything
            return
        yield Conversation(json.dumps(content, ensure_ascii=False), place)

    def _messages(self, place: str, column: str, cell: Any) -> list[dict[str, Any]]:
        """The messages of a cell without what is null in them, as it is in columns of one type."""
        right = isinstance(cell, list) and all(isinstance(each, dict) and isinstance(each.get("role"), str) for each in cell)
        if not right:
            other = "" if self.prompt is None else ", or text in both columns"
            raise Refusal(
                self.source.field,
                f"{place}: column {column!r} holds {type(cell).__name__}, where a list of messages, each {{role, content}}, "
                f"should stand{other}",
            )
        return [{name: value for name, value in message.items() if value is not None} for message in cell]


def conversations_of(sources: Sequence[SourceSection | str], *, field: str) -> list[Conversations]:
    """The sources as conversations. Raises Refusal, naming ``field``, as ``find_sources``."""
    found = find_sources(sources, field=field)
    return [
        Conversations(each, each.column, None if isinstance(source, str) else source.prompt)
        for each, source in zip(found, sources, strict=True)
    ]


@dataclass(frozen=True)
class ConversationTokeniser(Tokeniser):
    """A tokenizer with its chat template: conversations in, joined ids out, each with whether it is predicted."""

    answers_only: bool = True
    """Whether what the assistant says is predicted alone, or the completion; False predicts all."""
    section: str = "corpus"
    """The recipe's name of the section, for errors."""

    splits: ClassVar[bool] = False

    def __call__(self, texts: list[str]) -> Chunk:
        if self.answers_only and not self.tokenizer.is_fast:
            name = type(self.tokenizer).__name__
            raise Refusal("teacher.tokenizer", f"{name} does not say which text a token is of; give a fast one")
        encoded = [self._conversation(json.loads(text), getattr(text, "place", "a row")) for text in texts]
        lengths = np.array([len(ids) for ids, _ in encoded], dtype=np.int64)
        ids, predicted = (np.array([each for row in rows for each in row]) for rows in zip(*encoded, strict=True))
        return Chunk(ids.astype(self.dtype), lengths, predicted=predicted.astype(np.uint8))

    def fingerprint(self) -> str:
        """A hash of all that decides which ids a conversation gets, and which of them are predicted."""
        return json.dumps([super().fingerprint(), self.tokenizer.chat_template, self.tokenizer.eos_token_id, self.answers_only])

    def _conversation(self, row: dict[str, Any], place: str) -> tuple[list[int], list[int]]:
        """The ids of a row, and of each 1 where it is predicted."""
        before, after = self.framing.before, self.framing.after
        if "messages" in row:
            text, spans = self._render(row["messages"], row["first"], place)
            before = after = ()
        else:
            text, spans = row["prompt"] + row["completion"], [(len(row["prompt"]), len(row["prompt"] + row["completion"]))]
            eos = self.tokenizer.eos_token_id
            after = after or (() if eos is None else (eos,))
        encoded = self.tokenizer(
            text, add_special_tokens=False, truncation=False, verbose=False, return_offsets_mapping=self.answers_only
        )
        ids = [*before, *encoded["input_ids"], *after]
        if not self.answers_only:
            return ids, [1] * len(ids)
        answers = [int(any(begin < stop and start < end for start, stop in spans)) for begin, end in encoded["offset_mapping"]]
        return ids, [*[0] * len(before), *answers, *[1] * len(after)]

    def _render(self, messages: list[dict[str, Any]], first: int, place: str) -> tuple[str, _Spans]:
        """The text of a conversation, and where in it the assistant speaks, from message ``first`` on."""
        if self.tokenizer.chat_template is None:
            raise Refusal(
                "teacher.tokenizer",
                f"{type(self.tokenizer).__name__} has no chat template, which messages need; give one that has, in "
                "teacher.tokenizer, or prompts and completions that are plain text",
            )
        whole, marked = self._apply(messages, place)
        if not self.answers_only:
            return whole, []
        if marked is not None:
            start = self._length_of_prefix(whole, messages[:first], place, prompts=True) if first else 0
            return whole, [(max(begin, start), end) for begin, end in marked if end > start]
        spans = []
        for index, message in enumerate(messages):
            if index >= first and message["role"] == ASSISTANT:
                begin = self._length_of_prefix(whole, messages[:index], place, prompts=True)
                spans.append((begin, self._length_of_prefix(whole, messages[: index + 1], place, prompts=False)))
        return whole, spans

    def _length_of_prefix(self, whole: str, messages: list[dict[str, Any]], place: str, *, prompts: bool) -> int:
        """The length of the first messages' own text, with what prompts an answer, which must be the beginning of the whole."""
        text, _ = self._apply(messages, place, add_generation_prompt=prompts)
        if not whole.startswith(text):
            raise Refusal(
                "teacher.tokenizer",
                f"{place}: the chat template writes the first {len(messages)} messages otherwise when others follow, so that "
                "the assistant's tokens cannot be told; give a tokenizer whose template marks them with {% generation %}, or "
                "corpus.assistant_only_loss false",
            )
        return len(text)

    def _apply(self, messages: list[dict[str, Any]], place: str, **options: Any) -> tuple[str, _Spans | None]:
        """The text that the template makes, and what it marks as the assistant's; None where it marks nothing ever."""
        from transformers.utils.chat_template_utils import render_jinja_template

        template = self.tokenizer.get_chat_template()
        marks = bool(_MARKED.search(template))
        try:
            texts, spans = render_jinja_template(
                [messages],
                chat_template=template,
                return_assistant_tokens_mask=marks,
                **self.tokenizer.special_tokens_map,
                **options,
            )
        except Exception as error:  # a template raises what it likes, for roles that it does not know and much else
            sentence = f"{place}: the chat template does not take it ({reason(error)})"
            raise Refusal(f"{self.section}.sources", sentence) from error
        return texts[0], [(begin, end) for begin, end in spans[0]] if marks else None


__all__ = [
    "ConversationTokeniser",
    "Conversations",
    "are_conversations",
    "conversations_of",
    "is_of_conversations",
    "refuse_conversations",
]
