"""Sub-spaces of a teacher's layers: finding those that carry what a swap of the whole state changes, and measuring them.

1. a batch of rows is run once, each the source of another, and positions are drawn as in distillation;
2. for each layer the run is resumed twice above the swap: with the whole state swapped, which is the target, and with what
   lies in the present sub-space alone;
3. the loss is KL(whole ‖ sub-space) of the answers at the slots that the swap can change, its gradient that of the rows;
4. what was found is measured on other text against sub-spaces of as many dimensions that nobody had to find.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from diito.evaluation.held_out.agreement import QUANTITIES, Counts, means
from diito.evaluation.held_out.interchange import interchange_counts
from diito.evaluation.held_out.intervals import bootstrap_interval, by_document
from diito.evaluation.held_out.text import HeldOut, at_slots
from diito.method.alignment import AlignedPair
from diito.method.draws import generator, host_random
from diito.method.intervention import resume
from diito.method.losses import smoothed_cross_entropy
from diito.method.positions import PositionRule, consecutive, derangement
from diito.method.reach import reached
from diito.method.rotation import drawn_basis, orthonormal
from diito.method.swaps import Swap, SwapDraws
from diito.models.layered import Layered, Run
from diito.models.modes import eval_mode
from diito.progress import bar
from diito.tasks.task import UNUSED

FOUND = "found"
CONTROLS = {
    "random": "directions drawn at random, as many",
    "first": "the first dimensions of the state as it is, as many",
    "nothing": "no dimension: what there is to carry",
}
"""What a found sub-space is held against."""
_SIDES = ("unswapped", "swapped")


@dataclass(frozen=True)
class Search:
    """How sub-spaces are looked for."""

    dimensions: int
    steps: int = 200
    batch: int = 16
    learning_rate: float = 5e-3
    """Of Adam; it falls linearly to 0."""
    rule: PositionRule = consecutive
    share: float = 0.3
    special_ids: Sequence[int] | None = None
    seed: int = 42


def find_bases(teacher: PreTrainedModel, layers: Sequence[int], text: HeldOut, search: Search) -> dict[int, Tensor]:
    """By layer the orthonormal rows Float[dimensions width] in which a swap gives most nearly the answers of the whole swap.

    The teacher's weights get no gradient, and it is put back into its own mode afterwards.
    """
    device, width = teacher.device, Layered(teacher).width
    drawn = [drawn_basis(search.dimensions, width, "search", search.seed, layer) for layer in layers]
    rows = nn.Parameter(torch.stack(drawn).to(device))
    optimiser = torch.optim.Adam([rows], lr=search.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / search.steps)
    swaps = SwapDraws(rule=search.rule, pairing=derangement, share=search.share, special_ids=search.special_ids)
    batch = min(search.batch, len(text.examples))
    with eval_mode(teacher):
        for step in bar(range(search.steps), "rotation", "steps"):
            chosen = host_random("rotation batch", search.seed, step).sample(range(len(text.examples)), batch)
            swapped = _Swapped(teacher, layers, text, [text.examples[number] for number in sorted(chosen)], swaps, search, step)
            divergences = swapped.divergences(dict(zip(layers, orthonormal(rows), strict=True)))
            (rows.grad,) = torch.autograd.grad(torch.stack(divergences).sum(), rows)
            optimiser.step()
            schedule.step()
    return {layer: basis.cpu() for layer, basis in zip(layers, orthonormal(rows.detach()), strict=True)}


class _Swapped:
    """A batch of one step: the base run, and what each layer is set to."""

    @torch.no_grad()
    def __init__(
        self,
        teacher: PreTrainedModel,
        layers: Sequence[int],
        text: HeldOut,
        examples: Sequence[int],
        swaps: SwapDraws,
        search: Search,
        step: int,
    ) -> None:
        host = torch.device("cpu")  # a generator of another device would draw other positions
        batch = text.batch_of(examples, device=host)
        swap = swaps.draw(batch, generator("rotation swap", search.seed, step))
        assert swap.rows is not None
        slots = batch["slots"].where(reached(text.reach, batch, batch["slots"], swap.positions), UNUSED)
        self.layered, self.layers = Layered(teacher), layers
        self.batch = {name: value.to(teacher.device) for name, value in batch.items()}
        self.slots = slots.to(teacher.device)
        self.swap = Swap(swap.positions.to(teacher.device), swap.rows.to(teacher.device), None, None)
        self.run: Run
        self.run, self.states = self.layered.states(self.batch, layers)

    def divergences(self, bases: Mapping[int, Tensor]) -> list[Tensor]:
        """For each layer the mean of KL(whole ‖ sub-space) in nats."""
        return [self._divergence(layer, {layer: bases[layer]}) for layer in self.layers]

    def _divergence(self, layer: int, bases: Mapping[int, Tensor]) -> Tensor:
        with torch.no_grad():
            whole = self._logits(layer, None)
        within = self._logits(layer, bases)
        return smoothed_cross_entropy(within, whole, 1.0).sum() / max(1, len(whole))

    def _logits(self, layer: int, bases: Mapping[int, Tensor] | None) -> Tensor:
        values = {layer: self.swap.values(self.states[layer])}
        final = resume(self.layered, self.run, self.states[layer], values, self.swap.positions, bases=bases)
        if self.layered.per_token:
            return self.layered.head(at_slots(final, self.slots))
        return self.layered.head(final, self.batch)[self.slots[:, 0] >= 0]


def measure_bases(teacher: PreTrainedModel, found: Mapping[int, Tensor], text: HeldOut, search: Search) -> dict[str, Counts]:
    """The teacher under swaps in sub-spaces, held against itself under swaps of whole states: the found ones, and controls.

    The pairs of the counts are the layers; of the control "nothing" they say what the whole swap changes.
    """
    width = Layered(teacher).width
    dimensions = {layer: len(basis) for layer, basis in found.items()}
    named = {
        FOUND: dict(found),
        "random": {layer: drawn_basis(count, width, "control", search.seed, layer) for layer, count in dimensions.items()},
        "first": {layer: torch.eye(width)[:count] for layer, count in dimensions.items()},
        "nothing": {layer: torch.zeros(0, width) for layer in found},
    }
    pairs = [AlignedPair([layer], [layer]) for layer in found]
    return {
        name: interchange_counts(
            teacher,
            teacher,
            pairs,
            text,
            rule=search.rule,
            share=search.share,
            special_ids=search.special_ids,
            student_bases={layer: basis.to(teacher.device) for layer, basis in bases.items()},
        )
        for name, bases in named.items()
    }


def rotation_numbers(counts: Mapping[str, Counts]) -> list[dict[str, Any]]:
    """For each layer the means of every sub-space and their intervals, at unswapped and at swapped tokens, and how much less
    divergence the found one has than each control (``less_than``), all with 95 % intervals over documents."""
    numbers = []
    for index, pair in enumerate(counts[FOUND].pairs):
        entry: dict[str, Any] = {"layer": pair.teacher[0]}
        for place, side in enumerate(_SIDES):
            sums = {name: by_document(each.documents, each.sums[0, index, :, place]) for name, each in counts.items()}
            entry[side] = {name: _numbers(each) for name, each in sums.items()}
            entry[side][FOUND]["less_than"] = {name: _less(sums[FOUND], sums[name]) for name in CONTROLS}
        numbers.append(entry)
    return numbers


def _numbers(sums: NDArray[np.float64]) -> dict[str, Any]:
    tokens, divergence = _columns(sums)
    interval = bootstrap_interval(np.divide, divergence, tokens) if tokens.any() else None
    return {**means(sums.sum(0)), "counterfactual_kl_interval": interval}


def _less(found: NDArray[np.float64], control: NDArray[np.float64]) -> dict[str, Any]:
    tokens, ours = _columns(found)
    _, theirs = _columns(control)  # the same tokens
    if not tokens.any():
        return {"difference": None, "interval": None}
    interval = bootstrap_interval(np.divide, theirs - ours, tokens)
    return {"difference": float((theirs - ours).sum() / tokens.sum()), "interval": interval}


def _columns(sums: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return sums[:, QUANTITIES.index("tokens")], sums[:, QUANTITIES.index("divergence")]
