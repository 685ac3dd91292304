"""One pair of texts under interventions, for one model at a time: its answers, and where in it a swap moves them.

1. :func:`answers` gives what the model says of the base, of the source, and of the base under the intervention, which is what
   :func:`diito.interchange` gives;
2. :func:`movement` swaps one token in one layer at a time, for every layer and token, and says how far each moves the answer;
3. :func:`mean_movement` is the mean of that over pairs of held-out texts, by the distance from where the answer is read.

Answers are read at one slot of the base, and of a head that reads whole sequences as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from diito.evaluation.held_out.interchange import other_example
from diito.evaluation.held_out.predictions import Predictions
from diito.evaluation.held_out.text import HeldOut
from diito.method.alignment import Dimensions, dimension_ranges
from diito.method.draws import host_random
from diito.method.intervention import resume, source_values
from diito.models.layered import Inputs, Layered
from diito.models.modes import eval_mode
from diito.models.steps import accepted
from diito.refusal import Refusal

Advance = Callable[[int, int], None]
"""Told how many of how many are done."""


@dataclass(frozen=True)
class Swap:
    """What is swapped in one text: a span of the base takes the states of as many tokens of the source.

    Raises Refusal for a span that one of the texts does not have.
    """

    base: Inputs
    """One row."""
    source: Inputs
    """One row."""
    first: int
    """The first swapped token of the base."""
    last: int
    """The last one, itself included."""
    read: int
    """The token of the source that the first one reads."""

    def __post_init__(self) -> None:
        tokens, source_tokens = (inputs["input_ids"].shape[1] for inputs in (self.base, self.source))
        if not 0 <= self.first <= self.last < tokens:
            raise Refusal("swap", f"tokens {self.first} to {self.last} are not in the base, which has {tokens}")
        if not 0 <= self.read <= self.read + self.last - self.first < source_tokens:
            raise Refusal("swap", f"the source has {source_tokens} tokens, too few to read so many from {self.read} on")

    @property
    def positions(self) -> Bool[Tensor, "1 tokens"]:
        """Where the base is swapped."""
        places = torch.arange(self.base["input_ids"].shape[1], device=self.base["input_ids"].device)
        return ((places >= self.first) & (places <= self.last)).unsqueeze(0)

    def values(self, states: Float[Tensor, "1 source_tokens width"]) -> Float[Tensor, "1 tokens width"]:
        """What each token of the base is set to, from the source's ``states``; of no matter where nothing is swapped."""
        return _shifted(states, self.base["input_ids"].shape[1], self.read - self.first)


def _shifted(states: Tensor, tokens: int, shift: int) -> Tensor:
    """For token t of ``tokens`` the source's token t + shift, or the nearest that there is."""
    index = (torch.arange(tokens, device=states.device) + shift).clamp(0, states.shape[1] - 1)
    return source_values(states, tokens, index=index.unsqueeze(0))


@torch.no_grad()
def answers(
    model: PreTrainedModel,
    swaps: Sequence[Swap],
    layers: Sequence[int],
    *,
    slot: int,
    source_slot: int,
    words: int,
    dimensions: Dimensions = None,
) -> Float[Tensor, "runs words"]:
    """The logits of the base and of the first swap's source as they are, and of the base under each of ``swaps``.

    ``swaps``: of one base; ``layers``: those that are swapped, all of them or in ``dimensions``. ``slot``, ``source_slot``:
    where the answer is read in the base and in the source; of no matter where the head reads whole sequences. ``words``: the
    first so many outputs. Every text runs once, below the swap too, and the head reads one token.
    """
    base, source = swaps[0].base, swaps[0].source
    ranges, chosen = dimension_ranges(dimensions), sorted({*layers})
    with eval_mode(model):
        layered = Layered(model)
        last = layered.depth - 1
        if not 0 <= chosen[0] <= chosen[-1] <= last:
            raise Refusal("layers", f"{chosen} are not among the model's layers 0 to {last}")
        run, states = layered.states(base, {*chosen, last})
        _, source_states = layered.states(source, {*chosen, last})
        said = [
            _said(layered, layered.final(each[last]), inputs, place)
            for each, inputs, place in ((states, base, slot), (source_states, source, source_slot))
        ]
        for swap in swaps:
            theirs = source_states if swap.source is source else layered.states(swap.source, chosen)[1]
            values = {layer: swap.values(theirs[layer]) for layer in chosen}
            final = resume(layered, run, states[chosen[0]], values, swap.positions, dimensions=ranges)
            said.append(_said(layered, final, base, slot))
    return torch.cat(said)[:, :words].float()


def _said(layered: Layered, final: Tensor, inputs: Inputs, slot: int) -> Float[Tensor, "rows outputs"]:
    """The logits at the slot of each row, or of whole rows where the head reads these."""
    return layered.head(final[:, slot]) if layered.per_token else layered.head(final, inputs)


@torch.no_grad()
def movement(
    model: PreTrainedModel,
    base: Inputs,
    source: Inputs,
    slot: int,
    *,
    shift: int = 0,
    words: int,
    places: Sequence[int] | None = None,
) -> Float[Tensor, "layers tokens"]:
    """How far a swap of one token in one layer moves the answer: KL(base ‖ counterfactual) in nats at ``slot``.

    ``base``, ``source``: one row each. ``shift``: token t of the base reads token t + shift of the source; where that has none
    the value is NaN, and so it is outside of ``places``, the tokens that are asked for (None: all). One layer is swapped at a
    time, at all tokens in as many rows, and the rest of the run is resumed once.
    """
    tokens, source_tokens = base["input_ids"].shape[1], source["input_ids"].shape[1]
    here = [place for place in (range(tokens) if places is None else places) if 0 <= place + shift < source_tokens]
    with eval_mode(model):
        layered = Layered(model)
        every = range(layered.depth)
        moved = torch.full((layered.depth, tokens), float("nan"))
        _, states = layered.states(base, every)
        if not here:
            return moved
        _, source_states = layered.states(source, every)
        rows = {name: value.expand(len(here), *value.shape[1:]) for name, value in base.items()}
        run = layered.embed(rows)
        positions = torch.zeros(len(here), tokens, dtype=torch.bool, device=rows["input_ids"].device)
        positions[range(len(here)), here] = True
        unswapped = Predictions([_said(layered, layered.final(states[layered.depth - 1]), base, slot)[:, :words]])
        for layer in every:
            values = _shifted(source_states[layer], tokens, shift).expand(len(here), -1, -1)
            hidden = states[layer].expand(len(here), -1, -1)
            final = resume(layered, run, hidden, {layer: values}, positions)
            swapped = Predictions(_said(layered, final, rows, slot)[:, :words].split(1))
            moved[layer, here] = unswapped.divergence(swapped)[0, 0].cpu()
    return moved


def mean_movement(
    models: Sequence[PreTrainedModel],
    held_out: HeldOut,
    pairs: int,
    *,
    reach: int,
    words: int,
    advance: Advance | None = None,
) -> list[Float[Tensor, "layers offsets"]]:
    """For each model the mean of :func:`movement` over ``pairs`` held-out texts, each with another as its source.

    Column o is of the tokens that stand at o - ``reach`` from where the answer is read, which is one of the text's slots, drawn
    for it; NaN where no text has one. The pairs are those of ``diito evaluate interchange`` with the same seed.
    """
    examples = held_out.examples[:pairs]
    sums: list[NDArray[np.float64]] = []
    counts = np.zeros(2 * reach + 1)
    for number, example in enumerate(examples):
        source = other_example(held_out, "evaluation source", example, {example})
        made, donor = (held_out.batch_of([each], device=models[0].device) for each in (example, source))
        slots = made["slots"][0]
        used = slots[slots >= 0].tolist()
        if not used:
            continue
        slot = host_random("movement slot", held_out.seed, example).choice(used)
        base, other = (_read(models[0], each) for each in (made, donor))
        first, last = max(0, slot - reach), min(base["input_ids"].shape[1] - 1, slot + reach)
        for place, model in enumerate(models):
            whole = movement(model, base, other, slot, words=words, places=range(first, last + 1))
            moved = whole[:, first : last + 1].double().numpy()
            if len(sums) <= place:
                sums.append(np.zeros((len(moved), 2 * reach + 1)))
            columns = slice(first - slot + reach, last - slot + reach + 1)
            sums[place][:, columns] += np.nan_to_num(moved)
            if place == 0:
                counts[columns] += ~np.isnan(moved[0])
        if advance is not None:
            advance(number + 1, len(examples))
    with np.errstate(divide="ignore", invalid="ignore"):
        return [torch.from_numpy(np.where(counts > 0, each / counts, np.nan)) for each in sums]


def _read(model: PreTrainedModel, batch: Inputs) -> dict[str, Tensor]:
    """What the model reads of a batch."""
    return {name: value for name, value in accepted(model, batch).items() if isinstance(value, Tensor)}
