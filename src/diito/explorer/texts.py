"""The texts of a view as the models read them, and what of them is swapped and read where the view leaves it open."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diito.evaluation.one_pair import Swap
from diito.explorer.subjects import Subjects
from diito.explorer.view import View
from diito.method.draws import host_random
from diito.models.layered import Inputs
from diito.refusal import Refusal

_DONORS_TRIED = 100


@dataclass(frozen=True)
class Text:
    """One text in tokens."""

    inputs: Inputs
    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    """As the tokenizer cuts it."""
    special: tuple[bool, ...]
    """Which tokens the tokenizer has put there."""
    slots: tuple[int, ...]
    """Where an answer can be read."""


class Texts:
    """Reads texts, the last few of them once."""

    def __init__(self, subjects: Subjects) -> None:
        self.subjects = subjects
        self._special = frozenset(subjects.task.special_ids(subjects.tokenizer))
        self.read = functools.lru_cache(maxsize=64)(self._read)

    def _read(self, text: str, pair: str, field: str) -> Text:
        """Raises Refusal, naming ``field``, for a text that cannot be asked."""
        subjects = self.subjects
        if not text.strip():
            raise Refusal(field, "is empty; type a text")
        try:
            asked = subjects.task.question(text, pair or None, tokenizer=subjects.tokenizer, vocab_size=subjects.vocabulary)
        except Refusal as refusal:
            raise Refusal(field, refusal.sentence) from refusal
        count = asked.inputs["input_ids"].shape[1]
        if count > subjects.length:
            raise Refusal(
                field, f"has {count} tokens; give at most {subjects.length}, or open the page with a greater --length"
            )
        if not asked.slots:
            raise Refusal(field, "has no token; type a text")
        return self._text(asked.inputs, tuple(asked.slots))

    def donor(self, view: View) -> Text | None:
        """A random text that has tokens of its own where the base is swapped; None where none is found."""
        assert view.first is not None and view.last is not None
        held_out = self.subjects.held_out
        draws = host_random("explorer donor", held_out.seed, view.donor)
        device = self._device
        for _ in range(_DONORS_TRIED):
            example = held_out.examples[draws.randrange(len(held_out.examples))]
            batch = held_out.batch_of([example], device=device)
            if batch["input_ids"].shape[1] <= view.last:
                continue
            inputs: dict[str, Tensor] = {name: batch[name] for name in ("input_ids", "token_type_ids") if name in batch}
            text = self._text(inputs, tuple(slot for slot in batch["slots"][0].tolist() if slot >= 0))
            if not any(text.special[view.first : view.last + 1]):
                return text
        return None

    @property
    def _device(self) -> torch.device:
        return self.subjects.models["teacher"].device

    def _text(self, inputs: Inputs, slots: tuple[int, ...]) -> Text:
        ids = tuple(inputs["input_ids"][0].tolist())
        placed: dict[str, Tensor] = {name: value.to(self._device) for name, value in inputs.items()}
        names = tuple(map(self.subjects.token_name, ids))
        return Text(placed, ids, names, tuple(token in self._special for token in ids), slots)

    def of(self, view: View) -> tuple[Text, Text]:
        """Base and source."""
        return self.read(view.base, view.base_pair, "base"), self.read(view.source, view.source_pair, "source")

    def settled(self, view: View) -> View:
        """The view with nothing left open, and everything within the texts and the models.

        Where the view leaves the span open, it is where the texts differ; layers are those of the first aligned pair that is
        not the lowest. Raises Refusal for a place that the texts or the models do not have.
        """
        base, source = self.of(view)
        slot = _slot(base) if view.slot is None else view.slot
        if slot not in base.slots:
            raise Refusal("slot", f"no answer can be read at token {slot}; choose one of {_listed(base.slots)}")
        first, last, read = view.first, view.last, view.read
        if first is None or last is None:
            first, last, read = _differing(base, source)
        if not first <= last < len(base.ids):
            raise Refusal("first", f"the base has no tokens {first} to {last}; it has {len(base.ids)}")
        read = first if read is None else read
        size = min(last - first + 1, len(source.ids))
        read = min(read, len(source.ids) - size)  # a source that is too short gives what it has
        layers: dict[str, Any] = {}
        for role, depth in self.subjects.depths.items():
            given = getattr(view, role)
            chosen = self._first_layers()[role] if given is None else given
            if chosen[-1] >= depth:
                raise Refusal(role, f"has no layer {chosen[-1]}; its layers are 0 to {depth - 1}")
            layers[role] = chosen
        return dataclasses.replace(view, slot=slot, first=first, last=first + size - 1, read=read, **layers)

    def swap(self, view: View, source: Text | None = None) -> Swap:
        """What a settled view swaps; ``source``: a donor instead of the source, read where the base is swapped."""
        assert view.first is not None and view.last is not None and view.read is not None
        base, own = self.of(view)
        if source is not None:
            return Swap(base.inputs, source.inputs, view.first, view.last, view.first)
        return Swap(base.inputs, own.inputs, view.first, view.last, view.read)

    @functools.cache  # noqa: B019 - as long-lived as the page
    def _first_layers(self) -> dict[str, tuple[int, ...]]:
        pairs = self.subjects.pairs["student"]
        pair = pairs[len(pairs) // 2]
        chosen = self.subjects.aligned("student", pair.student[0]) or {}
        return {role: chosen.get(role, (depth // 2,)) for role, depth in self.subjects.depths.items()}


def source_slot(base: Text, source: Text, slot: int) -> int:
    """The source's slot that answers to one of the base: as many slots from the end."""
    from_end = len(base.slots) - base.slots.index(slot)
    return source.slots[max(0, len(source.slots) - from_end)]


def _slot(text: Text) -> int:
    """Where the answer is read at first: the last token that the tokenizer has not put there."""
    own = [slot for slot in text.slots if not text.special[slot]]
    return (own or list(text.slots))[-1]


def _differing(base: Text, source: Text) -> tuple[int, int, int]:
    """The span in which two texts differ, and where it begins in the source; their first word where they do not.

    Of texts that differ from the first word to the last it is the first third of the base.
    """
    shorter = min(len(base.ids), len(source.ids))
    before = next((place for place in range(shorter) if base.ids[place] != source.ids[place]), shorter)
    behind = next(
        (place for place in range(shorter - before) if base.ids[-1 - place] != source.ids[-1 - place]), shorter - before
    )
    size = shorter - before - behind
    own = [place for place, is_special in enumerate(base.special) if not is_special] or [0]
    if before == shorter or size < 1:
        first = min(own[0], len(source.ids) - 1)
        return first, first, first
    if size > 4 and 2 * size > len(own):
        size = max(1, len(own) // 3)
    return before, before + size - 1, before


def _listed(slots: tuple[int, ...]) -> str:
    return ", ".join(map(str, slots[:8])) + (" …" if len(slots) > 8 else "")
