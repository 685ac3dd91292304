"""One pair of texts under interventions, for one model at a time: its answers, and where in it a swap moves them.

1. :func:`answers` gives what the model says of the base, of the source, and of the base under the intervention, which is
   :func:`diito.interchange`;
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
from diito.method.alignment import Dimensions
from diito.method.draws import host_random
from diito.method.intervention import interchange, resume, source_values
from diito.models.layered import Inputs, Layered
from diito.models.modes import eval_mode
from diito.models.steps import accepted, logits_of

Advance = Callable[[int, int], None]
"""Told how many of how many are done."""


@dataclass(frozen=True)
class Swap:
    """What is swapped in one text: a span of the base takes the states of as many tokens of the source."""

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
    slot: int
    """The token of the base at which the answer is read; of no matter where the head reads whole sequences."""
    source_slot: int
    """The same of the source."""

    @property
    def positions(self) -> Bool[Tensor, "1 tokens"]:
        """Where the base is swapped."""
        return _span(self.base, self.first, self.last)

    @property
    def source_positions(self) -> Bool[Tensor, "1 tokens"]:
        """Where the source is read."""
        return _span(self.source, self.read, self.read + self.last - self.first)


def _span(inputs: Inputs, first: int, last: int) -> Bool[Tensor, "1 tokens"]:
    places = torch.arange(inputs["input_ids"].shape[1], device=inputs["input_ids"].device)
    return ((places >= first) & (places <= last)).unsqueeze(0)


@torch.no_grad()
def answers(
    model: PreTrainedModel, swap: Swap, layers: Sequence[int], *, words: int, dimensions: Dimensions = None
) -> Float[Tensor, "3 words"]:
    """Log-probabilities of base, source and counterfactual run.

    ``layers``: those that are swapped, all of them or in ``dimensions``; ``words``: the first so many outputs, which are those
    of all models that are compared.
    Raises Refusal as :func:`diito.interchange` does.
    """
    with eval_mode(model):
        said = [
            _at(logits_of(model(**accepted(model, inputs))), slot)
            for inputs, slot in ((swap.base, swap.slot), (swap.source, swap.source_slot))
        ]
        swapped = interchange(
            model,
            swap.base,
            swap.source,
            layers,
            swap.positions,
            source_positions=swap.source_positions,
            dimensions=dimensions,
        )
        said.append(_at(swapped, swap.slot))
    return torch.cat(said)[:, :words].float().log_softmax(-1)


def _at(logits: Tensor, slot: int) -> Float[Tensor, "1 words"]:
    """What is said at the slot, of a head that reads whole sequences all of it."""
    return logits[:, slot] if logits.ndim == 3 else logits


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
    reads = torch.arange(tokens) + shift
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
        device = rows["input_ids"].device
        positions = torch.zeros(len(here), tokens, dtype=torch.bool, device=device)
        positions[range(len(here)), here] = True
        index = reads.clamp(0, source_tokens - 1).unsqueeze(0).to(device)
        unswapped = _said(layered, states[layered.depth - 1], base, slot, words)
        for layer in every:
            values = source_values(source_states[layer], tokens, index=index).expand(len(here), -1, -1)
            hidden = states[layer].expand(len(here), -1, -1)
            final = resume(layered, run, hidden, {layer: values}, positions)
            swapped = _said(layered, final, rows, slot, words, is_final=True)
            moved[layer, here] = unswapped.divergence(swapped)[0, 0].cpu()
    return moved


def _said(layered: Layered, hidden: Tensor, inputs: Inputs, slot: int, words: int, *, is_final: bool = False) -> Predictions:
    """One prediction with as many interventions as there are rows."""
    final = hidden if is_final else layered.final(hidden)
    logits = layered.head(final[:, slot]) if layered.per_token else layered.head(final, inputs)
    return Predictions([row.unsqueeze(0) for row in logits[:, :words]])


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
            moved = movement(model, base, other, slot, words=words, places=range(first, last + 1))
            moved = moved[:, first : last + 1].double().numpy()
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
