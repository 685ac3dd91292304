"""Which predictions a swap can change: the others are out of the counterfactual losses, and of what is measured under swaps."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from jaxtyping import Bool, Int
from torch import Tensor

Reach = Callable[..., Bool[Tensor, "batch slots"]]
"""Which slots the swap of some positions can change: from slots Int[batch slots], -1 where unused, and positions
Bool[batch tokens], and from ``documents`` Int[batch tokens] by that name, where a batch keeps documents apart."""


def reach_of_an_encoder(
    slots: Int[Tensor, "batch slots"], positions: Bool[Tensor, "batch tokens"]
) -> Bool[Tensor, "batch slots"]:
    """Where every token sees all others: all slots of a row with a swap."""
    return (slots >= 0) & positions.any(1, keepdim=True)


def reach_of_a_decoder(
    slots: Int[Tensor, "batch slots"],
    positions: Bool[Tensor, "batch tokens"],
    documents: Int[Tensor, "batch tokens"] | None = None,
) -> Bool[Tensor, "batch slots"]:
    """Where a token sees those before it and itself: the slots at or behind a swapped position.

    ``documents``: the number of each token's document, where those are kept apart; the swap is in the slot's own then.
    """
    swapped = positions.cumsum(1)
    if documents is not None:
        begins = positions.new_ones(positions.shape)
        begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
        before = (swapped - positions.long()).where(begins, 0)
        swapped = swapped - before.cummax(1).values
    return (slots >= 0) & (swapped.gather(1, slots.clamp(min=0)) > 0)


def reached(
    reach: Reach, batch: Mapping[str, Tensor], slots: Int[Tensor, "batch slots"], positions: Bool[Tensor, "batch tokens"]
) -> Bool[Tensor, "batch slots"]:
    """The slots of ``batch`` that the swap of ``positions`` can change."""
    return reach(slots, positions, **{name: batch[name] for name in ("documents",) if name in batch})
