"""The position rule that a recipe or an evaluation names, for the tokens of one tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from diito import plugins
from diito.method.positions import NAMED_RULES, PositionRule, at, segments, where_tokens_are
from diito.refusal import Refusal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from diito.recipe.sections import PositionsSection
    from diito.tasks.task import Task


def find_rule(
    positions: PositionsSection | str, task: Task, tokenizer: PreTrainedTokenizerBase, *, field: str, specials: bool = False
) -> PositionRule:
    """The rule. ``specials``: whether special tokens are eligible.

    Raises Refusal, naming ``field``, for one that cannot be found, and for positions and tokens that would never be swapped.
    """
    if isinstance(positions, str):
        return named_rule(positions, field=field)
    if positions.tokens is not None:
        return where_tokens_are(list(_ids(positions.tokens, task, tokenizer, field=f"{field}.tokens", specials=specials)))
    spans = [positions.at or []] if positions.segments is None else positions.segments
    before = len(task.framing(tokenizer).before)
    for span in spans:
        if span[0] < before and not specials:
            name = "at" if positions.segments is None else "segments"
            sentence = f"{span[0]} is a special token, which is not swapped; count from {before}, or set specials to true"
            raise Refusal(f"{field}.{name}", sentence)
    return at(spans[0]) if len(spans) == 1 else segments(spans)


def named_rule(name: str, *, field: str) -> PositionRule:
    """One of diito's rules, of an installed package's, or of the user's own. Raises Refusal where there is none."""
    rule: Any = plugins.load(name, field=field, group="diito.positions", known=NAMED_RULES)
    if not callable(rule):
        raise Refusal(field, f"{name} is a {type(rule).__name__}; it must be a function")
    return rule  # type: ignore[no-any-return]


def _ids(tokens: list[str], task: Task, tokenizer: PreTrainedTokenizerBase, *, field: str, specials: bool) -> Iterator[int]:
    vocabulary, never = tokenizer.get_vocab(), [] if specials else task.special_ids(tokenizer)
    for token in tokens:
        if token not in vocabulary:
            raise Refusal(field, f"{token!r} is no token of the tokenizer; write tokens as its vocabulary has them")
        if vocabulary[token] in never:
            raise Refusal(field, f"{token!r} is a special token, which is not swapped; leave it out, or set specials to true")
        yield vocabulary[token]
