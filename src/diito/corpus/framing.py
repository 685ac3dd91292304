"""What stands around a sequence, and which ids are no words: read from the tokenizer, whatever its kind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tokenizers.models import BPE

from diito.refusal import Refusal

_PROBES = 100  # words of the vocabulary that are tried: a piece of one alone may be no text


@dataclass(frozen=True)
class Framing:
    """The ids around each sequence: [CLS] and [SEP], ``<s>`` and ``</s>``, one of them, or none."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.before) + len(self.after)


def framing_of(tokenizer: Any, *, field: str = "teacher.tokenizer") -> Framing:
    """What the tokenizer puts around a text.

    A tokenizer that names a ``cls_token`` and a ``sep_token`` but adds nothing has no post-processor (one trained by hand
    often lacks it); its sequences stand between the two. Raises Refusal, naming ``field``, for a tokenizer
    that turns no text into tokens.
    """
    framing = _added(tokenizer, field)
    if not len(framing) and None not in (tokenizer.cls_token_id, tokenizer.sep_token_id):
        return Framing((tokenizer.cls_token_id,), (tokenizer.sep_token_id,))
    return framing


def document_framing(framing: Framing, tokenizer: Any, *, field: str) -> Framing:
    """What stands around each document where documents are kept apart: ``framing``, or the token that ends a text.

    Raises Refusal, naming the section ``field``, for a tokenizer without any.
    """
    if len(framing):
        return framing
    if tokenizer.eos_token_id is None:
        raise Refusal(
            f"{field}.document_boundaries",
            f"{type(tokenizer).__name__} has no token that stands between documents (eos_token); leave it out, or give it one",
        )
    return Framing(after=(tokenizer.eos_token_id,))


def special_ids(tokenizer: Any) -> list[int]:
    """Ids of the tokens that are never swapped: those around a sequence, padding, and the tokens named after them."""
    framing = framing_of(tokenizer)
    return sorted({*framing.before, *framing.after, *_named(tokenizer)})


def structural_ids(tokenizer: Any) -> set[int]:
    """All special tokens but the one that stands for an unknown word."""
    return (set(tokenizer.all_special_ids) - {unknown_id(tokenizer)}) | _named(tokenizer)


def unknown_id(tokenizer: Any) -> int | None:
    """The id that stands for an unknown word, if there is one. Byte-level tokenizers know every word; some have a token for it
    all the same (RoBERTa, ModernBERT), others give the name to the one that ends a document (GPT-2, SmolLM2)."""
    if tokenizer.unk_token_id is None or tokenizer.unk_token_id in _named(tokenizer):
        return None
    model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    knows_all = isinstance(model, BPE) and model.unk_token is None
    return None if knows_all and "unk" not in tokenizer.unk_token.lower() else tokenizer.unk_token_id


def _named(tokenizer: Any) -> set[int]:
    names = ("cls_token_id", "sep_token_id", "pad_token_id", "bos_token_id", "eos_token_id")
    return {token for name in names if (token := getattr(tokenizer, name, None)) is not None}


def _added(tokenizer: Any, field: str) -> Framing:
    for text in _probes(tokenizer):
        plain, whole = (
            list(tokenizer(text, add_special_tokens=added, truncation=False, padding=False)["input_ids"])
            for added in (False, True)
        )
        size = len(plain)
        starts = [start for start in range(len(whole) - size + 1) if whole[start : start + size] == plain]
        if size and len(starts) == 1:
            return Framing(tuple(whole[: starts[0]]), tuple(whole[starts[0] + size :]))
    raise Refusal(field, f"the tokenizer {type(tokenizer).__name__} turns no text into tokens; give another tokenizer")


def _probes(tokenizer: Any) -> Iterator[str]:
    """Words that the tokenizer knows: some refuse one that they do not know."""
    words = sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids))
    for token in words[:_PROBES]:
        yield tokenizer.decode([token])


__all__ = ["Framing", "document_framing", "framing_of", "special_ids", "structural_ids", "unknown_id"]
