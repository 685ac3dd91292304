"""What the text of a corpus is, and all that follows from it: documents of text, or conversations.

A form knows its sources and its tokeniser, how tokens become sequences, what else decides the result, and which setting would
help where nothing is left. ``store.py`` writes and finds what it makes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from diito.corpus.conversations import Conversations, ConversationTokeniser, are_conversations, conversations_of
from diito.corpus.framing import Framing, document_framing, framing_of
from diito.corpus.layouts import SHORT, TAIL, UNKNOWN, blocks, lines
from diito.corpus.packing import DOCUMENTS, MASKS, WITHOUT_ANSWER, Packed, pack
from diito.corpus.sources import HubDataset, LocalFiles, find_sources
from diito.corpus.tokenise import Chunk, Documents, Tokeniser
from diito.refusal import Refusal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from diito.recipe import CorpusSection

LENGTH = 512
"""Tokens of a sequence where a section names none; a model may allow fewer."""
_RULES_OF_CONVERSATIONS = 1
"""Raised when the rules by which conversations become sequences change."""


class NothingLeft(Refusal):
    """There is text, but no sequence could be made of it."""


@dataclass(frozen=True)
class Form(ABC):
    """The text of one section."""

    section: CorpusSection
    field: str
    """The recipe's name of the section, for errors."""
    sources: Sequence[LocalFiles | HubDataset | Conversations]
    tokeniser: Tokeniser
    padding: int | None
    """What shorter sequences are filled up with; None: nothing is known for it."""

    @property
    def length(self) -> int:
        """Tokens of a block, and of the longest line."""
        return LENGTH if self.section.length is None else self.section.length

    @property
    def in_blocks(self) -> bool:
        """Whether all sequences are as long."""
        return self.section.layout == "blocks"

    def check(self) -> None:
        """Refuse (Refusal) settings with which no sequence could be made."""
        section, tokeniser = self.section, self.tokeniser
        if not 0 < section.share <= 1:
            raise Refusal(f"{self.field}.share", f"{section.share} is no share; give a number above 0 and at most 1")
        shortest = len(tokeniser.framing) + 1
        if self.length < shortest:
            beside = f" beside {tokeniser.frame}" if shortest > 1 else ""
            raise Refusal(
                f"{self.field}.length", f"{section.length} leaves no room for a token{beside}; give at least {shortest}"
            )
        if section.workers < 1:
            raise Refusal(f"{self.field}.workers", f"{section.workers} processes cannot tokenise; give at least 1")
        self.check_padding()

    @property
    @abstractmethod
    def columns(self) -> Mapping[str, Any]:
        """The columns of a sequence beside ``input_ids``, and their numpy types."""

    @abstractmethod
    def check_padding(self) -> None:
        """Refuse (Refusal) a tokenizer that has nothing to fill up with what must be."""

    @abstractmethod
    def rules(self) -> dict[str, Any]:
        """What decides the result beside sources, tokeniser, layout and length."""

    @abstractmethod
    def sequences(self, chunks: Iterable[Chunk], dropped: dict[str, int]) -> Iterator[Packed]:
        """What is made of the tokens; what is left out is counted in ``dropped``, by reason."""

    @abstractmethod
    def none_left(self, dropped: Mapping[str, int]) -> NothingLeft:
        """Why there is no sequence although there are documents, and what would help."""

    def refuse_nothing(self, documents: Documents, dropped: Mapping[str, int]) -> None:
        """Refuse (NothingLeft) a corpus of which nothing is left, saying which setting would leave something."""
        if not documents.seen:
            raise NothingLeft(f"{self.field}.sources", "there is no document, all text is blank; give files that hold text")
        if not documents.used:
            raise NothingLeft(
                f"{self.field}.share",
                f"{self.section.share} of {documents.seen:,} documents is none; "
                f"give at least {1 / documents.seen:.2g}, or more text",
            )
        raise self.none_left(dropped)


class Text(Form):
    """Documents of text."""

    @property
    def columns(self) -> Mapping[str, Any]:
        return {}

    def check_padding(self) -> None:
        if not self.in_blocks and self.padding is None:
            raise Refusal(
                f"{self.field}.layout",
                f"lines have different lengths and are padded, and {type(self.tokeniser.tokenizer).__name__} has no pad token; "
                "give blocks, or a tokenizer that has one",
            )

    def rules(self) -> dict[str, Any]:
        apart = {"apart": True} if self.section.document_boundaries else {}
        if self.in_blocks:
            return apart
        return {**apart, "rules": [self.section.minimum_tokens, self.section.maximum_unknown]}

    def sequences(self, chunks: Iterable[Chunk], dropped: dict[str, int]) -> Iterator[Packed]:
        section = self.section
        if self.in_blocks:
            apart = section.document_boundaries
            made = blocks(chunks, self.tokeniser, length=self.length, dropped=dropped, apart=apart)
        else:
            made = lines(
                chunks,
                self.tokeniser,
                length=self.length,
                minimum_tokens=section.minimum_tokens,
                maximum_unknown=section.maximum_unknown,
                dropped=dropped,
            )
        for ids, sizes, numbers in made:
            yield ids, sizes, numbers, {}

    def none_left(self, dropped: Mapping[str, int]) -> NothingLeft:
        if self.in_blocks:
            tokens = dropped[TAIL]
            framing = len(self.tokeniser.framing)
            shorter = f"a length of at most {tokens + framing}, or more text" if tokens else "other text"
            beside = f" beside {self.tokeniser.frame}" if framing else ""
            return NothingLeft(
                f"{self.field}.length",
                f"the corpus has {tokens:,} tokens, and one block of {self.length} takes {self.length - framing:,}{beside}; "
                f"give {shorter}",
            )
        return NothingLeft(
            f"{self.field}.minimum_tokens",
            f"no sequence is left, {dropped[SHORT]:,} have fewer than {self.section.minimum_tokens} "
            f"tokens and {dropped[UNKNOWN]:,} are unknown for {self.section.maximum_unknown:.0%} or more; "
            "give a lower minimum, other text or another tokenizer",
        )


class Chats(Form):
    """Conversations, and prompts with completions."""

    @property
    def columns(self) -> Mapping[str, Any]:
        return {MASKS: np.uint8, **({DOCUMENTS: np.int32} if self.in_blocks else {})}

    def check_padding(self) -> None:
        if self.padding is None:
            raise Refusal(
                "teacher.tokenizer",
                "conversations have different lengths and are padded, and "
                f"{type(self.tokeniser.tokenizer).__name__} has no pad token; give one that has",
            )

    def rules(self) -> dict[str, Any]:
        return {"conversations": [_RULES_OF_CONVERSATIONS, self.padding]}

    def sequences(self, chunks: Iterable[Chunk], dropped: dict[str, int]) -> Iterator[Packed]:
        assert self.padding is not None
        return pack(chunks, length=self.length, dropped=dropped, in_blocks=self.in_blocks, padding=self.padding)

    def none_left(self, dropped: Mapping[str, int]) -> NothingLeft:
        return NothingLeft(
            f"{self.field}.length",
            f"no conversation is left: in {dropped[WITHOUT_ANSWER]:,} the first {self.length} tokens hold nothing to predict; "
            "give a longer one, or data with answers",
        )


def form_of(
    section: CorpusSection,
    *,
    tokenizer: PreTrainedTokenizerBase,
    field: str,
    framing: Framing | None,
    padding: int | None,
) -> Form:
    """The text that a section names. Arguments as of ``load_corpus``. Raises Refusal for sources that cannot be found."""
    place = f"{field}.sources"
    if are_conversations(section.sources, field=place):
        chats = conversations_of(section.sources, field=place)
        tokeniser = ConversationTokeniser.for_tokenizer(
            tokenizer, field=field, framing=framing, answers_only=section.assistant_only_loss, section=field
        )
        return Chats(section, field, chats, tokeniser, padding)
    sources = find_sources(section.sources, field=place)
    if section.document_boundaries:
        framing = document_framing(framing or framing_of(tokenizer, field=field), tokenizer, field=field)
    return Text(section, field, sources, Tokeniser.for_tokenizer(tokenizer, field=field, framing=framing), padding)


__all__ = ["LENGTH", "Form", "NothingLeft", "form_of"]
