"""What is swapped in a micro-batch: one draw of positions and sources (Algorithm 1, lines 6 and 7)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from diito.method.intervention import source_values
from diito.method.positions import (
    Pairing,
    PositionRule,
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
    """Int[batch]: the source row of each row, in the batch; None where the batch brings its sources."""
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


class SwapDraws(nn.Module):
    """Draws of :class:`Swap`; a module only so that ``special_ids`` follow the objective to its device.

    ``rule``, ``pairing``: see ``positions``. ``share``: of a row's eligible positions. ``specials``: whether special
    tokens are eligible; ``special_ids``: their ids, None takes the first and last real token of each row.
    ``independent_positions``: whether the source is read at positions of its own, eligible like the base's. ``of_tokens``:
    whether the swaps are of input ids instead of activations.
    Raises ValueError naming ``intervention.share``.
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
        independent_positions: bool = False,
        of_tokens: bool = False,
    ) -> None:
        super().__init__()
        if not 0 < share <= 1:
            raise Refusal("intervention.share", f"{share} must be above 0 and at most 1")
        self.rule, self.pairing, self.share = rule, pairing, share
        self.specials, self.independent_positions, self.of_tokens = specials, independent_positions, of_tokens
        ids = None if special_ids is None else torch.tensor(sorted(set(special_ids)), dtype=torch.long)
        self.register_buffer("special_ids", ids, persistent=False)
        self._has_looked = False

    def draw(self, batch: Mapping[str, Tensor], generator: torch.Generator, *, within: Tensor | None = None) -> Swap:
        """One draw for ``batch`` (``input_ids``, labels, and what its own sources read as ``source_*`` where it brings them).

        Its ``swappable`` Bool[batch tokens], where it has that, are the positions at which the task has a use for a swap.

        ``within``: Bool[batch tokens], positions outside of which nothing is eligible; None: no such limit.
        """
        base = self.allowed(batch)
        if "source_input_ids" in batch:
            sources = {name.removeprefix("source_"): value for name, value in batch.items() if name.startswith("source_")}
            rows, source = None, self.allowed(sources)
        else:
            rows, sources = self.pairing(len(base), generator), None
            source = base[rows]
        eligible = eligible_positions(base, source)
        if "swappable" in batch:
            eligible = eligible_positions(eligible, batch["swappable"])
        if within is not None:
            eligible = eligible_positions(eligible, within)
        positions = self.rule(eligible, labelled_positions(batch), self.share, generator)
        if not self.independent_positions:
            return Swap(positions, rows, None, sources, self.of_tokens)
        # Drawn from the same eligible positions; which tokens are masked in the source plays no part.
        chosen = self.rule(eligible, eligible, self.share, generator)
        positions = trim(positions, chosen)
        return Swap(positions, rows, matched_sources(positions, chosen), sources, self.of_tokens)

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
