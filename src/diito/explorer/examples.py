"""Pairs of texts to begin with: a few that show what a swap does, then some of the held-out text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from diito.explorer.subjects import Subjects
from diito.explorer.texts import Texts
from diito.explorer.view import LONGEST_TEXT, View
from diito.refusal import Refusal
from diito.tasks.task import IGNORED

_HELD_OUT = 20
_LONGEST_NAME = 60
_SENTENCES = (
    ("Paris is the capital of {}.", "Rome is the capital of {}."),
    ("The man went home because he was {}.", "The women went home because they were {}."),
    ("He was born in 1950 in {}.", "She was born in 1750 in {}."),
)
"""In English; the answer is where the braces are."""


@dataclass(frozen=True)
class Example:
    """A base and its source."""

    base: str
    source: str
    base_pair: str = ""
    source_pair: str = ""

    @property
    def name(self) -> str:
        """A short form of the base."""
        text = f"{self.base} {self.base_pair}".strip()
        return text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}…"

    def view(self) -> View:
        """Where one looks at first."""
        return View(self.base, self.source, self.base_pair, self.source_pair)


def examples(subjects: Subjects) -> list[Example]:
    """At least one. Raises Refusal where no held-out text can be asked and no sentence either."""
    texts = Texts(subjects)
    found = []
    refusal = None
    for each in (*_sentences(subjects), *_of_held_out(subjects)):
        try:
            texts.settled(each.view())
        except Refusal as error:
            refusal = error
            continue
        found.append(each)
    if not found:
        raise Refusal("sources", f"hold no text that these models can be asked ({refusal}); give another")
    return found


def _sentences(subjects: Subjects) -> Iterator[Example]:
    if subjects.has_labels:
        return
    tokenizer = subjects.tokenizer
    is_masked = "mask_token" in subjects.task.needed_tokens
    for base, source in _SENTENCES:
        made = [text.format(tokenizer.mask_token) if is_masked else text.partition(" {}")[0] for text in (base, source)]
        ids = tokenizer(made[0], add_special_tokens=False)["input_ids"]
        if tokenizer.unk_token_id is None or ids.count(tokenizer.unk_token_id) == 0:
            yield Example(*made)


def _of_held_out(subjects: Subjects) -> Iterator[Example]:
    """Neighbouring texts, the second one the source of the first."""
    held_out = subjects.held_out
    step = max(1, len(held_out.examples) // (2 * _HELD_OUT))
    numbers = [held_out.examples[place] for place in range(0, len(held_out.examples), step)]
    for base, source in zip(numbers[::2], numbers[1::2], strict=False):
        (first, first_pair), (second, second_pair) = (_typed(subjects, number) for number in (base, source))
        if max(map(len, (first, second, first_pair, second_pair))) <= LONGEST_TEXT:
            yield Example(first, second, first_pair, second_pair)


def _typed(subjects: Subjects, number: int) -> tuple[str, str]:
    """A held-out example as one would type it, its first text and its second, if any."""
    batch = subjects.held_out.batch_of([number], device=torch.device("cpu"))
    (row,) = subjects.held_out.corpus.__getitems__([number])
    ids, slots, labels = batch["input_ids"][0].clone(), batch["slots"][0], batch["labels"][0]
    if not subjects.task.of_examples and "mask_token" in subjects.task.needed_tokens:
        # Of the masked tokens one is asked, the others stand there as they are.
        used = [(place, label) for place, label in zip(slots.tolist(), labels.tolist(), strict=True) if label != IGNORED]
        for place, label in used:
            ids[place] = label
        if used:
            ids[used[len(used) // 2][0]] = subjects.tokenizer.mask_token_id
    texts: Any = row.get("texts")
    if texts is None:
        return _decoded(subjects, ids), ""
    return _decoded(subjects, ids[texts == 1]), _decoded(subjects, ids[texts == 2])


def _decoded(subjects: Subjects, ids: torch.Tensor) -> str:
    around = set(subjects.task.special_ids(subjects.tokenizer))
    kept = [token for token in ids.tolist() if token not in around]
    return str(subjects.tokenizer.decode(kept, clean_up_tokenization_spaces=False)).strip()
