"""What a task is: all that the rest of diito asks of what a model is trained to do.

1. ``framing`` says what stands around the sequences of a corpus, and ``special_ids`` which tokens are never swapped;
2. ``batching`` turns rows of the corpus into batches of *slots*, the positions that are predicted, and their *labels*;
3. ``reach`` says which slots a swap can change: the others are left out of the counterfactual losses;
4. ``load_rows`` reads the corpus, ``of`` gives the task what it must know of the model;
5. ``held_out_batching`` makes the fixed examples on which ``metric`` and interventions are measured;
6. ``head`` loads the model, ``check`` refuses recipes, and the words are for the model card and the tables;
7. ``question`` makes one text that somebody has typed into what the model reads, for the explorer.

Nothing outside a task's own file knows its name. A task of one's own is a class with these members, named in a recipe by its
import path (``my_package.tasks:MyTask``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from diito.corpus import Corpus, Part, check_sources, load_corpus
from diito.corpus.conversations import is_of_conversations, refuse_conversations
from diito.corpus.framing import Framing, framing_of, special_ids
from diito.refusal import Refusal

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from diito.recipe import CorpusSection, Recipe, SourceSection

IGNORED = -100
"""Label of a token that is not predicted: the value that the cross-entropy of torch leaves out."""
UNUSED = -1
"""A slot that holds no position."""
SECTIONS = ("masking",)
"""The sections of a recipe that belong to one task."""


@runtime_checkable
class Batching(Protocol):
    """Turns rows into batches; made for one tokenizer, model and corpus by :meth:`Task.batching`."""

    pad_token_id: int | None
    """What rows of different lengths are padded with; None where they cannot be."""

    def batch(self, rows: Mapping[str, Tensor], *, generator: torch.Generator) -> dict[str, Tensor]:
        """Make a batch of rows.

        Args:
            rows: ``input_ids`` Long[B, T]; ``attention_mask`` Long[B, T] where there is padding; whatever else the dataset has.
            generator: the only source of randomness, on the device of the rows.

        Returns what the model reads (``input_ids`` and its like), ``slots`` Long[B, K] (positions, -1 in unused slots) and
        ``labels`` Long[B, K] (the answer at each slot, -100 where there is none). K follows from B and T alone, so that nothing
        waits for the device. Optionally ``swappable`` Bool[B, T]: positions outside of which nothing is swapped.
        """


@runtime_checkable
class HeldOutBatching(Protocol):
    """Turns held-out rows into examples, the same ones for every model; made by :meth:`Task.held_out_batching`."""

    pad_token_id: int | None
    """As in :class:`Batching`."""

    def examples(self, rows: Mapping[str, Tensor], *, seed: int, examples: Sequence[int]) -> dict[str, Tensor]:
        """As :meth:`Batching.batch`, where each row's draws are a function of (seed, its number in ``examples``) alone."""


@dataclass(frozen=True)
class Question:
    """One text that somebody has typed, as a model reads it."""

    inputs: Mapping[str, Tensor]
    """``input_ids`` Long[1, T], and whatever else the tokenizer gives."""
    slots: Sequence[int]
    """The tokens at which an answer can be read, ascending."""


class Task(ABC):
    """One thing that a model is trained to do."""

    name: ClassVar[str]
    """What a recipe calls it."""
    of_examples: ClassVar[bool] = False
    """Whether its rows are labelled examples (``diito.corpus.examples``) instead of sequences cut from text."""
    settings: ClassVar[str | None] = None
    """The section of a recipe that :meth:`batching` reads, if any."""
    needed_tokens: ClassVar[tuple[str, ...]] = ()
    """Attributes of a tokenizer that must not be None, such as ``mask_token``."""
    pipeline_tag: ClassVar[str]
    """The hub's name of what the model does."""
    noun: ClassVar[str]
    """The model in words, without an article: ``masked language model``."""
    metric: str
    """What is measured on held-out text: a row of ``diito.evaluation.held_out.metrics``, or an import path of one."""
    keeps_documents_apart: ClassVar[bool] = False
    """Whether ``corpus.document_boundaries`` is something that it can give."""
    reads_conversations: ClassVar[bool] = False
    """Whether its corpus may be conversations, or prompts with completions."""
    generates: ClassVar[bool] = False
    """Whether its models go on with a text, so that what they say can be looked at."""
    is_drawn: ClassVar[bool] = True
    """Whether held-out examples are draws, which another seed makes otherwise."""
    unusable_rules: ClassVar[Mapping[str, str]] = {}
    """Position rules that swap nothing of use in this task, and why."""
    predicted: ClassVar[str] = "predicted tokens"
    """The slots in words: ``masked tokens``."""

    @property
    @abstractmethod
    def head(self) -> Any:
        """The Auto class of transformers that loads the model with its head."""

    @abstractmethod
    def batching(
        self,
        settings: Any = None,
        *,
        tokenizer: PreTrainedTokenizerBase,
        vocab_size: int,
        token_counts: Int[Tensor, " tokens"] | None = None,
    ) -> Batching:
        """What turns rows into batches.

        ``settings``: the recipe's section that :attr:`settings` names; None: its defaults. ``vocab_size``: the model's.
        ``token_counts``: how often each id stands in the corpus, as ``Corpus.token_counts``. Raises Refusal for a tokenizer
        that the task cannot use.
        """

    @abstractmethod
    def reach(self, slots: Int[Tensor, "batch slots"], positions: Bool[Tensor, "batch tokens"]) -> Bool[Tensor, "batch slots"]:
        """Which slots the swap of ``positions`` can change; False in unused slots.

        Where batches have ``documents`` (Int[B, T], the number of each token's), it is given them by that name as well.
        """

    def held_out_batching(self, *, tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> HeldOutBatching | None:
        """What turns held-out rows into the examples on which :attr:`metric` is measured; None: nothing is measured."""
        return None

    def check_rule(self, name: str, *, field: str, corpus: Any = None) -> None:
        """Refuse (Refusal), naming ``field``, a position rule that swaps nothing of use.

        ``corpus``: the settings of the text, with ``sources`` and ``assistant_only_loss``, where it depends on these.
        """
        if name in self.unusable_rules:
            raise Refusal(field, f"{name} {self.unusable_rules[name]}; give another rule, such as consecutive")

    def of(self, model: PreTrainedModel) -> Task:
        """The task as it is with this model, such as a classifier with classes of its own; here the same with every model."""
        return self

    def check_sources(self, sources: Sequence[SourceSection | str], *, field: str) -> None:
        """Refuse (Refusal) text that could not be read, before anything slow is started."""
        refuse_conversations(sources, field=field)
        check_sources(sources, field=field)

    def load_rows(
        self,
        section: CorpusSection,
        *,
        tokenizer: PreTrainedTokenizerBase,
        seed: int,
        field: str = "corpus",
        part: Part | None = None,
    ) -> Corpus:
        """The rows that :attr:`batching` makes batches of; here sequences cut from text. Arguments as of ``load_corpus``."""
        framing, padding = self.framing(tokenizer), self.padding_id(tokenizer)
        return load_corpus(section, tokenizer=tokenizer, seed=seed, field=field, framing=framing, part=part, padding=padding)

    def check(self, recipe: Recipe) -> None:
        """Refuse (Refusal) what a recipe asks for and this task cannot give; here a rule, the section of another task,
        documents kept apart, and where rows are no labelled examples what belongs to these."""
        if isinstance(recipe.intervention.positions, str):
            self.check_rule(recipe.intervention.positions, field="intervention.positions", corpus=recipe.corpus)
        if recipe.corpus.document_boundaries and not self.keeps_documents_apart:
            raise Refusal("corpus.document_boundaries", f"is of causal-lm, and the task is {recipe.task}; leave it out")
        if not self.of_examples:
            for refused, field in _of_examples(recipe):
                if refused:
                    raise Refusal(
                        field, f"belongs to tasks with labelled examples, and the task is {recipe.task}; leave it out"
                    )
        if not recipe.corpus.assistant_only_loss and not (
            self.reads_conversations and any(map(is_of_conversations, recipe.corpus.sources))
        ):
            raise Refusal("corpus.assistant_only_loss", "belongs to conversations of causal-lm; leave it out")
        for name in SECTIONS:
            section = getattr(recipe, name)
            if name != self.settings and section != type(section)():
                raise Refusal(name, f"belongs to another task, and the task is {recipe.task}; leave it out")

    def check_model(self, model: PreTrainedModel, recipe: Recipe) -> None:
        """Refuse (Refusal) a teacher that has the head and cannot do the task, as the recipe wants it; here none."""
        return

    def check_student(self, config: Any, teacher: Any, *, name: str, field: str) -> None:
        """Refuse (Refusal), naming ``field``, a checkpoint called ``name`` that cannot answer as this teacher does; both are
        configurations. Here none."""
        return

    def slot_share(self, settings: Any = None) -> float:
        """Slots for each token of the corpus, about, for what a run will cost. ``settings``: as in :meth:`batching`."""
        return 1.0

    def padding_id(self, tokenizer: PreTrainedTokenizerBase) -> int | None:
        """What rows of different lengths are padded with; None where the tokenizer has nothing for it."""
        padding: int | None = tokenizer.pad_token_id
        return padding

    def question(self, text: str, pair: str | None, *, tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> Question:
        """A typed text as the model reads it, and where it answers; here at every token of the text.

        ``pair``: the second text, of tasks that have one. Raises Refusal naming ``text`` for what the task cannot ask.
        """
        framing = self.framing(tokenizer)
        ids = [*framing.before, *tokenizer(text, add_special_tokens=False)["input_ids"], *framing.after]
        never = set(self.special_ids(tokenizer))
        slots = [place for place, token in enumerate(ids) if token not in never]
        return Question({"input_ids": torch.tensor([ids])}, slots)

    def framing(self, tokenizer: PreTrainedTokenizerBase) -> Framing:
        """The ids around each sequence of a corpus: those that the tokenizer itself adds."""
        return framing_of(tokenizer)

    def special_ids(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """Ids of the tokens that are never swapped: those around a sequence, and padding."""
        return special_ids(tokenizer)


def _of_examples(recipe: Recipe) -> Iterator[tuple[bool, str]]:
    """The fields that are of labelled examples alone, and whether the recipe gives them."""
    yield recipe.corpus.examples is not None, "corpus.examples"
    yield recipe.intervention.across_texts, "intervention.across_texts"
    for section, sources in (("corpus", recipe.corpus.sources), ("evaluation", recipe.evaluation.sources or [])):
        for index, source in enumerate(sources):
            for name in ("pair", "label"):
                given = not isinstance(source, str) and getattr(source, name) is not None
                yield given, f"{section}.sources[{index}].{name}"


__all__ = ["IGNORED", "UNUSED", "Batching", "HeldOutBatching", "Question", "Task"]
