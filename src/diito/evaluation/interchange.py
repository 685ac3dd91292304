"""Interchange-intervention accuracy: how far the student answers an intervention as the teacher does.

For every aligned pair and held-out example, the same swap is made in both models and their predictions at the example's
masked tokens are compared. At a swapped token agreement is nearly copying, so swapped and unswapped tokens are told apart
and the headline numbers are of the unswapped ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from diito.alignment import Alignment, DimensionRange
from diito.draws import generator, host_random
from diito.evaluation.held_out import HeldOut, at_slots
from diito.intervention import resume, source_values
from diito.layered import Layered, Run
from diito.losses import smoothed_cross_entropy
from diito.positions import PositionRule, consecutive, derangement
from diito.swaps import SwapDraws


@dataclass
class _Tally:
    """Sums over tokens."""

    tokens: int = 0
    agree: int = 0
    changed: int = 0
    agree_where_changed: int = 0
    divergence: float = 0.0

    def add(self, agree: Tensor, changed: Tensor, divergence: Tensor) -> None:
        self.tokens += len(agree)
        self.agree += int(agree.sum())
        self.changed += int(changed.sum())
        self.agree_where_changed += int((agree & changed).sum())
        self.divergence += float(divergence.double().sum())

    def numbers(self) -> dict[str, float]:
        """The means; one over no token at all has no value and is left out."""
        numbers: dict[str, float] = {"tokens": self.tokens}
        if self.tokens:
            numbers["iia"] = self.agree / self.tokens
            numbers["efficacy"] = self.changed / self.tokens
            numbers["counterfactual_kl"] = self.divergence / self.tokens
        if self.changed:
            numbers["effective_iia"] = self.agree_where_changed / self.changed
        return numbers


@torch.no_grad()
def interchange_accuracy(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    alignment: Alignment,
    held_out: HeldOut,
    *,
    rule: PositionRule = consecutive,
    share: float = 0.3,
    special_ids: Sequence[int] | None = None,
) -> dict[str, float]:
    """Agreement of student and teacher under the interventions of ``alignment``, over all its pairs.

    ``iia``: share of tokens with the same most likely word; ``effective_iia``: the same where the intervention changed the
    teacher's word; ``efficacy``: the share of tokens where it did; ``counterfactual_kl``: KL(teacher ‖ student) in nats;
    ``tokens``: how many were compared. Each for unswapped tokens, and with the prefix ``swapped_`` for swapped ones; a mean
    over no token is left out.
    Every example's source is another example. Both models in eval mode; the student's mode is put back afterwards.
    Raises ValueError for fewer than two examples.
    """
    if len(held_out.examples) < 2:
        raise ValueError("evaluation.blocks: interchange needs at least 2 examples, to swap between")
    training = student.training
    sides = (Layered(student.eval()), Layered(teacher.eval()))
    tallies = {False: _Tally(), True: _Tally()}
    swaps = SwapDraws(rule=rule, pairing=derangement, share=share, special_ids=special_ids).to(student.device)
    for examples in held_out.batches():
        batch = held_out.masked(examples, device=student.device)
        sources = held_out.masked([_source_of(example, held_out) for example in examples], device=student.device)
        positions = _positions(batch, sources, examples, held_out.seed, swaps)
        slots = batch["masked_positions"]
        swapped = positions.gather(1, slots.clamp(min=0))[slots >= 0]
        student_logits, teacher_logits = (_predictions(side, batch, sources) for side in sides)
        unchanged = teacher_logits.base(slots).argmax(-1)
        for pair in alignment.pairs:
            ours = student_logits.under(pair.student, pair.student_dimensions, positions, slots)
            theirs = teacher_logits.under(pair.teacher, pair.teacher_dimensions, positions, slots)
            agree = ours.argmax(-1) == theirs.argmax(-1)
            changed = theirs.argmax(-1) != unchanged
            divergence = smoothed_cross_entropy(ours, theirs, 1.0)
            for which, tally in tallies.items():
                chosen = swapped == which
                tally.add(agree[chosen], changed[chosen], divergence[chosen])
    student.train(training)
    named = {f"swapped_{name}": value for name, value in tallies[True].numbers().items()}
    return {**tallies[False].numbers(), **named}


@dataclass
class _Predictions:
    """One model's states of a batch and of its sources, and what it predicts from them."""

    layered: Layered
    run: Run
    states: dict[int, Tensor]
    sources: dict[int, Tensor]

    def base(self, slots: Tensor) -> Tensor:
        """Logits of the base run at the used slots."""
        return self._logits(self.layered.final(self.states[self.layered.depth - 1]), slots)

    def under(
        self, layers: Sequence[int], dimensions: Sequence[DimensionRange] | None, positions: Tensor, slots: Tensor
    ) -> Tensor:
        """Logits under the intervention on ``layers``, at the used slots."""
        values = {layer: source_values(self.sources[layer], positions.shape[1]) for layer in layers}
        return self._logits(
            resume(self.layered, self.run, self.states[min(layers)], values, positions, dimensions=dimensions), slots
        )

    def _logits(self, final: Tensor, slots: Tensor) -> Tensor:
        return self.layered.head(at_slots(final, slots))


def _predictions(layered: Layered, batch: dict[str, Tensor], sources: dict[str, Tensor]) -> _Predictions:
    everything = range(layered.depth)
    run, states = layered.states(batch, everything)
    return _Predictions(layered, run, states, layered.states(sources, everything)[1])


def _source_of(example: int, held_out: HeldOut) -> int:
    """Another example, drawn for this one."""
    examples = held_out.examples
    others = host_random("evaluation source", held_out.seed, example)
    source = examples[others.randrange(len(examples) - 1)]
    return examples[-1] if source == example else source


def _positions(
    batch: dict[str, Tensor], sources: dict[str, Tensor], examples: Sequence[int], seed: int, swaps: SwapDraws
) -> Tensor:
    """The swapped positions Bool[batch tokens], drawn row by row so that a row's draw is its own."""
    inputs = {**batch, **{f"source_{name}": value for name, value in sources.items()}}
    drawn = []
    for row, example in enumerate(examples):
        own = generator("evaluation positions", seed, example, device=batch["input_ids"].device)
        drawn.append(swaps.draw({name: value[row : row + 1] for name, value in inputs.items()}, own).positions)
    return torch.cat(drawn)
