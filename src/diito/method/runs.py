"""What a model answers in a micro-batch: its base run and its counterfactual run, read at the loss slots.

1. the source's states: a source in the same batch has been run already, one of its own is run up to the swapped layers;
2. the base run, which keeps the outputs of the swapped layers;
3. the counterfactual run is resumed above the swap (Algorithm 1, lines 9 to 15): below it nothing is computed twice; so is
   one for each further pair that is drawn;
4. the head is read at the loss slots only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from diito.method.alignment import AlignedPair, Alignment, DimensionRange, other_dimensions
from diito.method.intervention import resume
from diito.method.losses import Predictions
from diito.method.reach import Reach, reached
from diito.method.rotation import Bases
from diito.method.swaps import Swap
from diito.models.kept import Kept, Wanted
from diito.models.layered import Inputs, Layered
from diito.models.padding import real_positions
from diito.refusal import Refusal

Dropout = Callable[[], AbstractContextManager[None]]
"""What keys the dropout inside."""
NOTHING = Wanted()
Intervention = tuple[Sequence[int], Sequence[DimensionRange] | None, Swap]
"""The layers of a model that are swapped, the dimensions of their states (None: all), and the swap."""


@dataclass(frozen=True)
class Runs:
    """The predictions of one model in its base run and in its counterfactual run; None where no loss reads it."""

    base: Predictions | None
    counterfactual: Predictions | None
    outside: Predictions | None = None
    """Of a student: its run with a swap in the neurons outside of Π."""
    further: tuple[Runs, ...] = ()
    """Those under the interventions on further pairs, each with the same base run."""

    def read(self, run: str) -> Predictions:
        """One of them by its name, which must be there."""
        predictions: Predictions | None = getattr(self, run)
        assert predictions is not None
        return predictions


@runtime_checkable
class Teacher(Protocol):
    """What the objective asks of a teacher. Its answers are functions of the arguments alone, so they can be kept."""

    depth: int
    """Number of layers."""
    width: int
    """Size of a hidden state."""

    def runs(
        self,
        batch: Inputs,
        pair: AlignedPair,
        swap: Swap | None,
        slots: Int[Tensor, "batch slots"],
        *,
        step: int,
        base: bool,
        outputs: int | None,
    ) -> Runs:
        """Its answers at ``slots`` (-1 unused), without gradients: the counterfactual run where there is a swap of the pair's
        teacher layers, the base run where ``base``. ``step``: micro-batches since the start. ``outputs``: see ``read_slots``.

        Only a live model is asked to ``keep`` what its layers held, for the runs of ``further`` pairs, or to swap in ``bases``.
        """


class LiveTeacher:
    """A model that answers as it is asked, in eval mode and frozen."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model.eval().requires_grad_(False)
        layered = Layered(model)
        self.depth, self.width = layered.depth, layered.width

    @torch.no_grad()
    def runs(
        self,
        batch: Inputs,
        pair: AlignedPair,
        swap: Swap | None,
        slots: Int[Tensor, "batch slots"],
        *,
        step: int,
        base: bool,
        outputs: int | None,
        keep: Wanted = NOTHING,
        further: Sequence[tuple[AlignedPair, Swap]] = (),
        bases: Bases | None = None,
    ) -> Runs:
        """See :class:`Teacher`."""
        return run_model(
            self.model,
            batch,
            pair.teacher,
            pair.teacher_dimensions,
            swap,
            slots,
            base=base,
            outputs=outputs,
            keep=keep,
            further=[(each.teacher, each.teacher_dimensions, its_swap) for each, its_swap in further],
            bases=bases,
        )


def check_pairs(count: int, alignment: Alignment, *, is_live: bool = True, of_tokens: bool = False) -> None:
    """Refuse a number of pairs a micro-batch that there are not, or that cannot be run."""
    if not 1 <= count <= len(alignment.pairs):
        sentence = f"{count} different pairs are asked for; the alignment has {len(alignment.pairs)}, give 1 to as many"
        raise Refusal("alignment.pairs_per_batch", sentence)
    if count > 1 and of_tokens:
        raise Refusal("alignment.pairs_per_batch", "must be 1 with the control token-swap, which needs no alignment")
    if count > 1 and not is_live:
        raise Refusal("alignment.pairs_per_batch", "must be 1 with a teacher that is no model")


def run_model(
    model: PreTrainedModel,
    batch: Inputs,
    layers: Sequence[int],
    dimensions: Sequence[DimensionRange] | None,
    swap: Swap | None,
    slots: Int[Tensor, "batch slots"],
    *,
    base: bool,
    outputs: int | None,
    dropout: Dropout = nullcontext,
    head_dropout: Dropout = nullcontext,
    recompute: bool = False,
    keep: Wanted = NOTHING,
    bases: Bases | None = None,
    outside: bool = False,
    reach: Reach | None = None,
    further: Sequence[Intervention] = (),
) -> Runs:
    """The runs of a model in the caller's mode and gradient state; ``layers`` and ``dimensions`` are what is swapped in it.

    ``dropout``: keys what is dropped out; a source run of its own draws the dropout of the base run, as a source in the batch
    does. ``head_dropout``: the same of the head, which runs when a loss asks for its logits. ``base``, ``outputs``: see
    :meth:`Teacher.runs`. ``recompute``: whether layers are run again for the backward pass, instead of keeping what they
    computed. ``keep``: what of the layers is kept for the losses. ``bases``: in place of ``dimensions``, sub-spaces by layer.
    ``outside``: whether there is a run with the same swap in the dimensions that Π leaves out. ``reach``: which tokens count in
    what is kept of a counterfactual run; None: all real ones. ``further``: interventions beside the first, with sources of the
    same batch.
    """
    layered = Layered(model, recompute=recompute)
    top = layered.depth - 1
    interventions = [] if swap is None else [(layers, dimensions, swap), *further]
    swapped_layers = [layer for layers, _, swap in interventions if not swap.of_tokens for layer in layers]
    sources: dict[int, Tensor] = {}
    if swap is not None and swap.sources is not None and swapped_layers:
        with dropout():
            _, sources = layered.states(swap.sources, swapped_layers)
    real = real_positions(batch)
    kept = Kept(keep, real, real)
    with dropout():
        run, states = layered.states(batch, swapped_layers + ([top] if base else []), kept)

        def read(final: Tensor, kept: Kept | None, inputs: Inputs = batch) -> Predictions:
            answers = read_slots(layered, final, slots, inputs, outputs=outputs, dropout=head_dropout)
            answers.kept = kept
            return answers

        answers = read(layered.final(states[top]), kept) if base else None
        if swap is None:
            return Runs(answers, None)
        everywhere = torch.arange(real.shape[1], device=real.device).expand_as(real)

        def counted(swap: Swap) -> Tensor:
            if not keep or reach is None:
                return real
            return reached(reach, batch, everywhere.where(real, -1), swap.positions)

        def intervened(layers: Sequence[int], dimensions: Sequence[DimensionRange] | None, swap: Swap) -> Runs:
            if swap.of_tokens:
                held = Kept(keep, counted(swap), real)
                inputs = swap.stitched(batch)
                _, stitched = layered.states(inputs, [top], held)
                return Runs(answers, read(layered.final(stitched[top]), held, inputs))
            values = {layer: swap.values((sources or states)[layer]) for layer in layers}
            swapped = partial(resume, layered, run, states[min(layers)], values, swap.positions, bases=bases)
            held = kept.resumed(min(layers), counted(swap))
            counterfactual = read(swapped(dimensions=dimensions, keep=held), held)
            counterfactual.natural = answers
            if not outside:
                return Runs(answers, counterfactual)
            return Runs(answers, counterfactual, read(swapped(dimensions=other_dimensions(dimensions, layered.width)), None))

        first, *others = [intervened(*each) for each in interventions]
        return replace(first, further=tuple(others))


def read_slots(
    layered: Layered,
    final: Float[Tensor, "batch tokens width"],
    slots: Int[Tensor, "batch slots"],
    inputs: Inputs,
    *,
    outputs: int | None,
    dropout: Dropout = nullcontext,
) -> Predictions:
    """The predictions at ``slots``; unused ones read token 0 and are never counted.

    ``inputs``: what the run has read. ``outputs``: how many of the logits are kept, where two models' differ in number; None
    keeps all. ``dropout``: keys what the head drops out. Where the head reads whole sequences the one slot of a row is its
    prediction.
    """
    if not layered.per_token:
        # A prediction a row: never so many that values_of would ask for a part of them, of which the head knows nothing.
        hidden = read_by_head(layered, final, inputs)
    else:
        index = slots.clamp(min=0).unsqueeze(-1).expand(-1, -1, final.shape[-1])
        hidden = final.gather(1, index).flatten(0, 1)

    def head(hidden: Float[Tensor, "tokens width"]) -> Float[Tensor, "tokens words"]:
        with dropout():
            return (layered.head(hidden) if layered.per_token else layered.head(final, inputs))[:, :outputs]

    predictions = Predictions(hidden, head)
    predictions.used = (slots >= 0).flatten()
    return predictions


def read_by_head(layered: Layered, final: Float[Tensor, "batch tokens width"], inputs: Inputs) -> Float[Tensor, "batch width"]:
    """N_h of a sequence: the state that the head reads; the mean of all real tokens where it reads several."""
    chosen = layered.read_positions(inputs)
    if layered.parts.reads == "all":
        return (final * chosen.unsqueeze(-1)).sum(1) / chosen.sum(1, keepdim=True)
    index = chosen.int().argmax(1).view(-1, 1, 1).expand(-1, 1, final.shape[-1])
    return final.gather(1, index).squeeze(1)
