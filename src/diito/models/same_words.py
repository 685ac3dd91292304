"""Whether two tokenizers turn text into the same ids, found by trying them on texts of many kinds."""

from __future__ import annotations

from collections.abc import Iterator

from transformers import PreTrainedTokenizerBase

_TEXTS = (
    "The quick brown fox, isn't it?",
    "In 1984 prices rose by 3.5 % (to $1,299.00)!",
    "unbelievably counterrevolutionary antidisestablishmentarianism",
    "Ünïcödé naïve façade – “quoted” — …",
    "ΑΒΓ привет שלום مرحبا",
    "今日は天気がいい。 你好，世界 한국어",
    "e-mail: someone@example.org  https://example.org/a_b?c=d#e",
    "def f(x):\n\treturn x ** 2  # comment",
    "  spaces   in a row\tand\ttabs \n\n two lines ",
    "🙂 👩‍👩‍👧 ½ ² ﬁ",
)
_WORDS = 4_000
"""Words of the vocabulary that are tried, spread over all of it."""
_LINE = 50
_SPECIALS = ("cls_token_id", "sep_token_id", "pad_token_id", "mask_token_id", "unk_token_id", "bos_token_id", "eos_token_id")


def difference(ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase) -> str | None:
    """What the two make of the same text, where it differs; None where no difference is found.

    Padding of the vocabularies, and special tokens that one of them has and the other has not, make none.
    """
    for name in _SPECIALS:
        one, other = getattr(ours, name), getattr(theirs, name)
        if None not in (one, other) and one != other:
            return f"its {name} is {one} and the teacher's {other}"
    for text in _probes(theirs):
        one, other = (_ids(tokenizer, text) for tokenizer in (ours, theirs))
        if one != other:
            place = next(
                (at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), min(map(len, (one, other)))
            )
            shown = theirs.decode(other[max(0, place - 1) : place + 2]).strip() or text[:20]
            return f"{shown!r} has the ids {one[place : place + 3]} in it and {other[place : place + 3]} in the teacher's"
    return None


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, truncation=False, padding=False)["input_ids"])


def _probes(tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Texts of many kinds, and lines of words of the vocabulary."""
    yield from _TEXTS
    special = set(tokenizer.all_special_ids)
    words = sorted(set(tokenizer.get_vocab().values()) - special)
    chosen = words[:: max(1, len(words) // _WORDS)]
    for start in range(0, len(chosen), _LINE):
        yield " ".join(tokenizer.decode([word]) for word in chosen[start : start + _LINE])


__all__ = ["difference"]
