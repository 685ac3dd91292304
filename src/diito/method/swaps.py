"""What is swapped in a micro-batch: one draw of positions and sources (Algorithm 1, lines 6 and 7)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from diito.method.alignment import AlignedPair
from diito.method.intervention import source_values
from diito.method.positions import (
    Pairing,
    PositionRule,
    apply_rule,
    derangement,
    eligible_positions,
    labelled_positions,
    matched_sources,
    special_positions,
    trim,
)
from diito.models.layered import Inputs
from diito.models.padding import real_positions
from diito.refusal import Refusal


@dataclass(frozen=True)
class Swap:
    """One draw of what is swapped: ``positions`` Bool[batch tokens] of the base, and where their values come from."""

    positions: Tensor
    rows: Tensor | None
    """Int[batch]: the source of each row, among the rows of the batch or of ``sources``; Int[batch tokens] where a row has
    several: that of each token. None: the rows of ``sources`` in their order."""
    index: Tensor | None
    """Int[batch tokens]: the source position each token reads; None where it is the base's own."""
    sources: Inputs | None
    """The sources the batch brings; None where they are its own rows."""
    of_tokens: bool = False
    """Whether the input ids are swapped instead of the activations (the token-swap control)."""

    def values(self, states: Tensor) -> Tensor:
        """What each token of the base is set to, from the sources' ``states`` (rows, tokens, width)."""
        return source_values(states, self.positions.shape[1], rows=self.rows, index=self.index)

    def stitched(self, batch: Inputs) -> Inputs:
        """The batch with the spans swapped in its input ids (the token-swap control)."""
        ids = (self.sources or batch)["input_ids"]
        stitched = torch.where(self.positions, self.values(ids.unsqueeze(-1)).squeeze(-1), batch["input_ids"])
        return {**batch, "input_ids": stitched}

    def changed(self, batch: Inputs) -> Float[Tensor, ""]:
        """The share of the swapped positions at which the swap puts another token."""
        others = (self.stitched(batch)["input_ids"] != batch["input_ids"]) & self.positions
        return others.sum() / self.positions.sum().clamp(min=1)


def joined(swaps: Sequence[Swap]) -> Swap:
    """One swap of all the positions of ``swaps``, which are disjoint: each token reads what its own swap has it read."""
    first, *others = swaps
    if not others:
        return first
    here = torch.arange(first.positions.shape[1], device=first.positions.device).expand_as(first.positions)
    positions, rows, index = torch.zeros_like(first.positions), torch.zeros_like(here), here
    for swap in swaps:
        assert swap.rows is not None
        positions = positions | swap.positions
        rows = torch.where(swap.positions, swap.rows.unsqueeze(-1), rows)
        index = torch.where(swap.positions, here if swap.index is None else swap.index, index)
    return Swap(positions, rows, index, first.sources, first.of_tokens)


class SwapDraws(nn.Module):
    """Draws of :class:`Swap`; a module only so that ``special_ids`` follow the objective to its device.

    ``rule``, ``pairing``: see ``positions``. ``share``: of a row's eligible positions. ``specials``: whether special
    tokens are eligible; ``special_ids``: their ids, None takes the first and last real token of each row.
    ``sources_per_row``: how many sources a row has. Its eligible positions, which are so in all of them, are cut into as many
    successive parts of the same size, and ``rule`` draws in each part on its own, for a source of its own: the row's source,
    the source of that one, and so on; or, of n sources a row that the batch brings, those of the rows in their order n times.
    ``independent_positions``: whether the source is read at positions of its own, eligible like the base's. ``of_tokens``:
    whether the swaps are of input ids instead of activations.
    Raises ValueError naming the field of ``intervention``.
    """

    special_ids: Tensor | None

    def __init__(
        self,
        *,
        rule: PositionRule,
        pairing: Pairing,
        share: float,
        specials: bool = False,
        special_ids: Sequence[int] | None = None,
        sources_per_row: int = 1,
        independent_positions: bool = False,
        of_tokens: bool = False,
    ) -> None:
        super().__init__()
        if not 0 < share <= 1:
            raise Refusal("intervention.share", f"{share} must be above 0 and at most 1")
        if sources_per_row < 1:
            raise Refusal("intervention.sources_per_row", f"{sources_per_row} must be at least 1")
        self.rule, self.pairing, self.share, self.sources_per_row = rule, pairing, share, sources_per_row
        self.specials, self.independent_positions, self.of_tokens = specials, independent_positions, of_tokens
        ids = None if special_ids is None else torch.tensor(sorted(set(special_ids)), dtype=torch.long)
        self.register_buffer("special_ids", ids, persistent=False)
        self._has_looked = False

    def draw(
        self,
        batch: Mapping[str, Tensor],
        generator: torch.Generator,
        *,
        within: Tensor | None = None,
        pair: AlignedPair | None = None,
    ) -> Swap:
        """One draw for ``batch`` (``input_ids``, labels, and what its own sources read as ``source_*`` where it brings them).

        Its ``swappable`` Bool[batch tokens], where it has that, are the positions at which the task has a use for a swap.

        ``within``: Bool[batch tokens], positions outside of which nothing is eligible; None: no such limit. ``pair``: the
        aligned pair that was drawn, for rules that ask for it; None where all pairs share the draw.
        """
        base, sources = self.allowed(batch), _own_sources(batch)
        rows = self._rows(len(base), sources, generator)
        allowed = base if sources is None else self.allowed(sources)
        eligible = base
        for each in rows:
            eligible = eligible_positions(eligible, allowed if each is None else allowed[each])
        for limit in (batch.get("swappable"), within):
            eligible = eligible if limit is None else eligible_positions(eligible, limit)
        swaps, ids = [], batch["input_ids"]
        read = ids if sources is None else sources["input_ids"]
        for part, each in zip(_parts(eligible, self.sources_per_row), rows, strict=True):
            further: dict[str, Any] = {"input_ids": ids, "source_ids": read if each is None else read[each], "pair": pair}
            positions = apply_rule(self.rule, part, labelled_positions(batch), self.share, generator, **further)
            index = None
            if self.independent_positions:
                # Drawn from the same eligible positions, with base and source exchanged; which tokens are masked in the source
                # plays no part. What is added to a shorter source, or cut off a longer one, is not eligible.
                exchanged = {"input_ids": F.pad(further["source_ids"], (0, ids.shape[1] - read.shape[1])), "source_ids": ids}
                chosen = apply_rule(self.rule, part, part, self.share, generator, **further | exchanged)
                positions = trim(positions, chosen)
                index = matched_sources(positions, chosen)
            swaps.append(Swap(positions, each, index, sources, self.of_tokens))
        return joined(swaps)

    def _rows(self, count: int, sources: Inputs | None, generator: torch.Generator) -> list[Tensor | None]:
        """The source of each of ``count`` rows, for every source that a row has."""
        several = self.sources_per_row
        if sources is None:
            _check_pairing(self.pairing, count, several)
            rows = [self.pairing(count, generator)]
            while len(rows) < several:  # the pairing is one cycle through all rows, so these differ
                rows.append(rows[0][rows[-1]])
            return [*rows]
        if (given := len(sources["input_ids"])) != several * count:
            sentence = f"{given} rows are not {several} for each of the {count} rows of the batch"
            raise Refusal("source_input_ids", sentence)
        if several == 1:
            return [None]
        here = torch.arange(count, device=sources["input_ids"].device)
        return [here + each * count for each in range(several)]

    def allowed(self, inputs: Inputs) -> Bool[Tensor, "batch tokens"]:
        """Tokens that may be swapped as far as they alone are concerned: real and, unless ``specials``, not special."""
        real = real_positions(inputs)
        if self.special_ids is None and not self.specials and not self._has_looked:
            self._look_for_framing(inputs["input_ids"], real)
        return real if self.specials else real & ~special_positions(inputs["input_ids"], real, self.special_ids)

    def _look_for_framing(self, input_ids: Tensor, real: Tensor) -> None:
        """Warn, at the first batch, where no id is said to be special and rows do not begin and end with the same tokens.

        Their first and last tokens are left out of every swap then, although they are words like others.
        """
        self._has_looked = True
        ids, kept = input_ids.cpu().numpy(), real.cpu().numpy()
        ends = ({int(row[mask][place]) for row, mask in zip(ids, kept, strict=True) if mask.any()} for place in (0, -1))
        if any(len(tokens) > 1 for tokens in ends):
            warnings.warn(
                "special_ids is not given, so the first and the last token of every row are never swapped, but they differ "
                "from row to row, as words do; give the ids of the special tokens, or [] where rows have none",
                stacklevel=2,
            )


def _own_sources(batch: Mapping[str, Tensor]) -> Inputs | None:
    """What the sources read that a batch brings; None where it brings none."""
    if "source_input_ids" not in batch:
        return None
    return {name.removeprefix("source_"): value for name, value in batch.items() if name.startswith("source_")}


def _parts(eligible: Bool[Tensor, "batch tokens"], count: int) -> list[Bool[Tensor, "batch tokens"]]:
    """Each row's positions in ``count`` parts of successive ones, which differ in size by one at most."""
    if count == 1:
        return [eligible]
    rank, size = eligible.cumsum(1) - 1, eligible.sum(1, keepdim=True).clamp(min=1)
    return [eligible & (rank * count // size == part) for part in range(count)]


def _check_pairing(pairing: Pairing, rows: int, several: int) -> None:
    """Refuse several sources of a row where the batch or its pairing does not have them."""
    if several == 1:
        return
    if pairing is not derangement:
        sentence = "must be 1 with a pairing of your own, which gives a row one source; else give in-batch or independent"
        raise Refusal("intervention.sources_per_row", sentence)
    if rows <= several:
        sentence = f"{several} need at least {several + 1} rows in a micro-batch, so that all of them differ; there are {rows}"
        raise Refusal("intervention.sources_per_row", sentence)
