"""Which tokens are swapped, and which row is whose source.

1. :func:`eligible_positions`: the positions at which a swap is defined;
2. a position rule (:func:`consecutive`, :func:`random`, :func:`masked`, or your own) picks some of them;
3. a pairing (:func:`derangement`, or your own) names each row's source;
4. :func:`matched_sources` says from which source position each swapped position reads.

Rules and pairings are plain callables, ``rule(eligible, masked, share, generator)`` and ``pairing(rows, generator)``. A rule
that has parameters of these names is also given ``input_ids``, ``source_ids`` (of each row's source) and ``pair`` (the aligned
pair that was drawn; None where all pairs share one draw, as in an evaluation). Where a source has positions of its own, a
second call with the two exchanged chooses them. All of it stays on the device: no shape and no branch depends on the data.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from diito.refusal import Refusal

IGNORED = -100
"""The label where there is nothing to predict: the value that torch's cross-entropy leaves out."""

PositionRule = Callable[..., Bool[Tensor, "batch tokens"]]
"""``rule(eligible, masked, share, generator)``, and by keyword what else it has parameters for (:data:`FURTHER`)."""
FURTHER = ("input_ids", "source_ids", "pair")
"""What a rule is given where it has a parameter of that name."""
Pairing = Callable[[int, torch.Generator], Int[Tensor, " batch"]]


def has_label(labels: Shaped[Tensor, "batch slots *classes"]) -> Bool[Tensor, "batch slots"]:
    """Where there is a label: one that is not -100, or not NaN where labels are numbers."""
    given = ~labels.isnan() if labels.is_floating_point() else labels != IGNORED
    return given if given.ndim == 2 else given.all(-1)


def labelled_positions(batch: Mapping[str, Tensor]) -> Bool[Tensor, "batch tokens"]:
    """Where a batch has something to predict.

    ``batch``: ``input_ids`` Int[batch tokens]; ``labels`` of the same shape (-100: nothing), or, with ``slots``
    Int[batch slots] (positions, -1 unused), the labels at the slots.
    """
    labels, slots = batch["labels"], batch.get("slots")
    if slots is None:
        return has_label(labels)
    # A column of its own, cut off again, takes the unused slots.
    length = batch["input_ids"].shape[1]
    places = slots.masked_fill((slots < 0) | ~has_label(labels), length)
    return torch.zeros_like(slots[:, :1], dtype=torch.bool).repeat(1, length + 1).scatter(1, places, True)[:, :length]


def special_positions(
    input_ids: Int[Tensor, "batch tokens"],
    real: Bool[Tensor, "batch tokens"],
    special_ids: Int[Tensor, " specials"] | None,
) -> Bool[Tensor, "batch tokens"]:
    """Where the special tokens ([CLS], [SEP], padding) stand.

    ``special_ids``: their ids. None: the first and the last real token of each row and everything that is not real, which
    is where the tokenizers of masked language models put them around a text.
    """
    if special_ids is not None:
        return torch.isin(input_ids, special_ids) | ~real
    order = real.cumsum(1)
    return ~real | (order == 1) | (order == order[:, -1:])


def eligible_positions(
    base: Bool[Tensor, "batch base_tokens"], source: Bool[Tensor, "batch source_tokens"]
) -> Bool[Tensor, "batch base_tokens"]:
    """Positions of the base at which a swap is defined: allowed in base and source, below the shorter length.

    ``base`` and ``source`` say, for each row and its source, which tokens are real (and not special, where specials stay out).
    """
    length = min(base.shape[1], source.shape[1])
    eligible = torch.zeros_like(base)
    eligible[:, :length] = base[:, :length] & source[:, :length]
    return eligible


def swap_counts(eligible: Bool[Tensor, "batch tokens"], share: float) -> Int[Tensor, "batch 1"]:
    """``max(1, floor(share * eligible))`` of each row; 0 where nothing is eligible."""
    available = eligible.sum(1, keepdim=True)
    # float64: the floor of 0.3 * 10 must be what it is on paper.
    count = (available.double() * share).floor().long()
    return count.clamp(min=1).minimum(available)


def consecutive(
    eligible: Bool[Tensor, "batch tokens"],
    masked: Bool[Tensor, "batch tokens"],
    share: float,
    generator: torch.Generator,
) -> Bool[Tensor, "batch tokens"]:
    """A run of successive eligible positions, its start uniform, not wrapping (the paper's main setting)."""
    count = swap_counts(eligible, share)
    starts = eligible.sum(1, keepdim=True) - count + 1
    uniform = torch.rand(starts.shape, generator=generator, device=eligible.device, dtype=torch.float64)
    start = (uniform * starts).long()
    rank = eligible.cumsum(1) - 1
    return eligible & (rank >= start) & (rank < start + count)


def random(
    eligible: Bool[Tensor, "batch tokens"],
    masked: Bool[Tensor, "batch tokens"],
    share: float,
    generator: torch.Generator,
) -> Bool[Tensor, "batch tokens"]:
    """Eligible positions drawn without replacement."""
    return _draw(eligible, swap_counts(eligible, share), generator)


def masked(
    eligible: Bool[Tensor, "batch tokens"],
    masked: Bool[Tensor, "batch tokens"],
    share: float,
    generator: torch.Generator,
) -> Bool[Tensor, "batch tokens"]:
    """The eligible positions that are masked in the base; where there are more than the share allows, that many drawn."""
    return _draw(eligible & masked, swap_counts(eligible, share), generator)


def prefix_end(
    eligible: Bool[Tensor, "batch tokens"],
    masked: Bool[Tensor, "batch tokens"],
    share: float,
    generator: torch.Generator,
) -> Bool[Tensor, "batch tokens"]:
    """The last eligible position before the first that is predicted from, whatever the share; none where there is no such."""
    before = eligible & (masked.cumsum(1) == 0)
    return before & (before.cumsum(1) == before.sum(1, keepdim=True))


def at(positions: Sequence[int]) -> PositionRule:
    """The rule that swaps these positions of each row, counted from 0, as far as they are eligible, whatever the share."""
    return segments([positions])


def segments(spans: Sequence[Sequence[int]]) -> PositionRule:
    """The rule that swaps one of these spans of positions in each row, each as likely as another, whatever the share."""

    def rule(
        eligible: Bool[Tensor, "batch tokens"],
        masked: Bool[Tensor, "batch tokens"],
        share: float,
        generator: torch.Generator,
    ) -> Bool[Tensor, "batch tokens"]:
        places = torch.arange(eligible.shape[1], device=eligible.device)
        table = torch.stack([_is_one_of(places, span) for span in spans])
        if len(spans) == 1:
            return eligible & table
        return eligible & table[torch.randint(len(spans), (len(eligible),), generator=generator, device=eligible.device)]

    return rule


def where_tokens_are(ids: Sequence[int]) -> PositionRule:
    """The rule that swaps the positions at which the base has one of these tokens, whatever the share."""

    def rule(
        eligible: Bool[Tensor, "batch tokens"],
        masked: Bool[Tensor, "batch tokens"],
        share: float,
        generator: torch.Generator,
        *,
        input_ids: Int[Tensor, "batch tokens"],
    ) -> Bool[Tensor, "batch tokens"]:
        return eligible & _is_one_of(input_ids, ids)

    return rule


def _is_one_of(numbers: Int[Tensor, "*shape"], wanted: Sequence[int]) -> Bool[Tensor, "*shape"]:
    """Where a number is among a few, which go to the device as arguments: a tensor of them would make the host wait."""
    found = torch.zeros_like(numbers, dtype=torch.bool)
    for number in wanted:
        found = found | (numbers == number)
    return found


def wanted_by(rule: PositionRule) -> frozenset[str]:
    """The names of :data:`FURTHER` that a rule has parameters for; none of a callable that does not say."""
    try:
        parameters = inspect.signature(rule).parameters
    except (TypeError, ValueError):  # of some callables written in C
        return frozenset()
    return frozenset(FURTHER).intersection(parameters)


def apply_rule(
    rule: PositionRule,
    eligible: Bool[Tensor, "batch tokens"],
    masked: Bool[Tensor, "batch tokens"],
    share: float,
    generator: torch.Generator,
    **further: Any,
) -> Bool[Tensor, "batch tokens"]:
    """What a rule chooses; of ``further`` (:data:`FURTHER`) it is given what it has parameters for."""
    wanted = wanted_by(rule)
    return rule(eligible, masked, share, generator, **{name: value for name, value in further.items() if name in wanted})


def _draw(
    candidates: Bool[Tensor, "batch tokens"], count: Int[Tensor, "batch 1"], generator: torch.Generator
) -> Bool[Tensor, "batch tokens"]:
    """At most ``count`` of each row's candidates, without replacement."""
    score = torch.rand(candidates.shape, generator=generator, device=candidates.device)
    rank = score.masked_fill(~candidates, 2.0).argsort(1).argsort(1)
    return candidates & (rank < count)


RULES: dict[str, PositionRule] = {"consecutive": consecutive, "random": random, "masked": masked}
"""The paper's three rules by their names in a recipe."""
NAMED_RULES: dict[str, PositionRule] = {**RULES, "prefix-end": prefix_end}
"""These, and the rules beyond the paper."""


def derangement(rows: int, generator: torch.Generator) -> Int[Tensor, " batch"]:
    """Source row of each row: a random cycle through all rows, so each is a source once and none its own.

    Raises ValueError for fewer than two rows.
    """
    if rows < 2:
        raise Refusal("training.batch", f"in-batch pairs need at least 2 rows in a micro-batch, not {rows}")
    order = torch.randperm(rows, generator=generator, device=generator.device)
    source = torch.empty_like(order)
    source[order] = order.roll(1)
    return source


def matched_sources(
    positions: Bool[Tensor, "batch base_tokens"], source_positions: Bool[Tensor, "batch source_tokens"]
) -> Int[Tensor, "batch base_tokens"]:
    """Source position that each swapped position reads, the k-th of a row from the k-th of its source, ascending.

    Rows must hold at least as many positions on the source's side. Unswapped positions get some valid position.
    """
    ascending = source_positions.to(torch.int8).argsort(dim=1, descending=True, stable=True)
    rank = (positions.cumsum(1) - 1).clamp(0, source_positions.shape[1] - 1)
    return ascending.gather(1, rank)


def trim(
    positions: Bool[Tensor, "batch base_tokens"], source_positions: Bool[Tensor, "batch source_tokens"]
) -> Bool[Tensor, "batch base_tokens"]:
    """``positions`` without those of a row, counted from the left, for which its source holds no more position."""
    return positions & (positions.cumsum(1) <= source_positions.sum(1, keepdim=True))
