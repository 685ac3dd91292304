"""Interchange-intervention accuracy: how far the student answers an intervention as the teacher does.

1. every example gets a source, another example, and positions to swap; both are functions of (seed, example);
2. each model runs base and source once, and is resumed once for each set of layers that is swapped, so a map of all pairs
   of layers costs as many resumed runs as the two models have layers, not as there are pairs;
3. the predictions at the example's slots that the swap can change are compared and summed by example, apart for swapped and
   unswapped tokens: at a swapped token agreement is nearly copying, and the headline numbers are of the unswapped ones;
4. beside the student stand references that say how much agreement is cheap: ``agreement.REFERENCES``.
"""

from __future__ import annotations

import bisect
import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from diito.evaluation.held_out.agreement import QUANTITIES, REFERENCES, STUDENT, Counts, means
from diito.evaluation.held_out.predictions import Predictions
from diito.evaluation.held_out.text import LOGITS, HeldOut, at_slots, rows_of_slots
from diito.method.alignment import AlignedPair, Alignment, DimensionRange
from diito.method.draws import generator, host_random
from diito.method.intervention import resume, source_values
from diito.method.outputs import count_outputs
from diito.method.positions import PositionRule, consecutive, derangement
from diito.method.reach import reached
from diito.method.rotation import Bases
from diito.method.swaps import SwapDraws
from diito.models.layered import Layered, Run
from diito.models.modes import eval_mode
from diito.progress import bar
from diito.refusal import Refusal
from diito.tasks.task import UNUSED

_Side = tuple[tuple[int, ...], tuple[DimensionRange, ...] | None]
"""The neurons swapped in one model: layers, and ranges of dimensions (None: all)."""


def interchange_accuracy(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    alignment: Alignment,
    held_out: HeldOut,
    *,
    rule: PositionRule = consecutive,
    share: float = 0.3,
    special_ids: Sequence[int] | None = None,
    student_bases: Bases | None = None,
    teacher_bases: Bases | None = None,
) -> dict[str, float]:
    """Agreement of student and teacher under the interventions of ``alignment``, over all its pairs.

    ``iia``: share of tokens with the same most likely word; ``effective_iia``: the same where the intervention changed the
    teacher's word; ``efficacy``: the share of tokens where it did; ``counterfactual_kl``: KL(teacher ‖ student) in nats;
    ``tokens``: how many were compared. Each for unswapped tokens, and with the prefix ``swapped_`` for swapped ones; a mean
    over no token is left out. ``student_bases``, ``teacher_bases``: see :func:`interchange_counts`. Raises ValueError for fewer
    than two examples.
    """
    counts = interchange_counts(
        student,
        teacher,
        alignment.pairs,
        held_out,
        rule=rule,
        share=share,
        special_ids=special_ids,
        student_bases=student_bases,
        teacher_bases=teacher_bases,
    )
    unswapped, swapped = counts.sums[0].sum(axis=(0, 1))
    return {**means(unswapped), **{f"swapped_{name}": value for name, value in means(swapped).items()}}


@torch.no_grad()
def interchange_counts(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    pairs: Sequence[AlignedPair],
    held_out: HeldOut,
    *,
    rule: PositionRule = consecutive,
    share: float = 0.3,
    special_ids: Sequence[int] | None = None,
    references: bool = False,
    undistilled: PreTrainedModel | None = None,
    student_bases: Bases | None = None,
    teacher_bases: Bases | None = None,
) -> Counts:
    """Compare the models under the interventions of ``pairs``, each on its own.

    ``student_bases``, ``teacher_bases``: layers of either that are swapped in a sub-space alone (``method.rotation``).

    ``references``: also those of :data:`REFERENCES`; ``undistilled`` is the student before training, None leaves that one out.
    The models are in eval mode and put back into theirs afterwards. Raises ValueError for fewer than two examples, three with
    references.
    """
    _check_examples(held_out, 3 if references else 2)
    models = [model for model in (student, teacher, undistilled) if model is not None]
    with eval_mode(*models):
        held_out = held_out.for_models(*models)
        swaps = SwapDraws(rule=rule, pairing=derangement, share=share, special_ids=special_ids)
        names = [STUDENT]
        if references:
            names += [name for name in REFERENCES if name != "undistilled" or undistilled is not None]
        sums = np.zeros((len(names), len(pairs), len(held_out.examples), 2, len(QUANTITIES)))
        unswapped = np.zeros((len(held_out.examples), 2))
        done = 0
        for examples in bar(list(held_out.batches()), "interchange", "batches"):
            draw = _draw(held_out, examples, swaps, device=student.device, with_donors=references)
            theirs = _Runs(teacher, draw.base, draw.sources, teacher_bases)
            ours = {STUDENT: _Runs(student, draw.base, draw.sources, student_bases)}
            if references:
                ours["no swap"] = ours[STUDENT]
                ours["random donor"] = ours[STUDENT].with_sources(draw.donors)
            if undistilled is not None:
                ours["undistilled"] = _Runs(undistilled, draw.base, draw.sources)
            batch_sums = _compare({name: ours[name] for name in names}, theirs, pairs, draw)
            sums[:, :, done : done + len(examples)] = batch_sums
            if references:
                unswapped[done : done + len(examples)] = _agreement(ours[STUDENT], theirs, draw.base["slots"])
            done += len(examples)
    documents = held_out.documents.astype(np.int64)
    return Counts(tuple(names), tuple(pairs), sums, documents, unswapped if references else None)


@dataclass(frozen=True)
class _Draw:
    """A batch of examples and what is swapped in it."""

    base: dict[str, Tensor]
    sources: dict[str, Tensor]
    donors: dict[str, Tensor]
    """The sources of the reference "random donor"; those of the teacher where it is not wanted."""
    positions: Tensor
    """Bool[batch tokens]."""
    slots: Tensor
    """Long[batch slots]: what is predicted and the swap can change, -1 where unused."""

    def to(self, device: torch.device) -> _Draw:
        """The same on ``device``."""
        base, sources, donors = (
            {name: value.to(device) for name, value in batch.items()} for batch in (self.base, self.sources, self.donors)
        )
        return _Draw(base, sources, donors, self.positions.to(device), self.slots.to(device))


class _Runs:
    """One model's runs of a batch and of its sources, from which counterfactual runs are resumed."""

    def __init__(
        self,
        model: PreTrainedModel,
        base: Mapping[str, Tensor],
        sources: Mapping[str, Tensor],
        bases: Bases | None = None,
    ) -> None:
        self.layered = Layered(model)
        self.inputs, self.bases = base, bases
        self.run: Run
        self.run, self.states = self.layered.states(base, range(self.layered.depth))
        self.sources = self._values(sources)

    def with_sources(self, sources: Mapping[str, Tensor]) -> _Runs:
        """The same base runs with other sources."""
        other = copy.copy(self)
        other.sources = self._values(sources)
        return other

    def _values(self, sources: Mapping[str, Tensor]) -> dict[int, Tensor]:
        return self.layered.states(sources, range(self.layered.depth))[1]

    def base(self, slots: Tensor) -> Tensor:
        """What the base run says at the used slots, to be read by :meth:`logits`."""
        return self._at(self.layered.final(self.states[self.layered.depth - 1]), slots)

    def under(self, side: _Side, draw: _Draw) -> Tensor:
        """The same under the intervention on ``side``."""
        layers, dimensions = side
        values = {layer: source_values(self.sources[layer], draw.positions.shape[1]) for layer in layers}
        hidden = self.states[layers[0]]
        final = resume(self.layered, self.run, hidden, values, draw.positions, dimensions=dimensions, bases=self.bases)
        return self._at(final, draw.slots)

    def _at(self, final: Tensor, slots: Tensor) -> Tensor:
        """N_h at the used slots; the logits where the head reads whole sequences, and so has to see them all."""
        if self.layered.per_token:
            return at_slots(final, slots)
        return self.layered.head(final, self.inputs)[slots[:, 0] >= 0]

    @property
    def words(self) -> int:
        """How many logits there are: words of the vocabulary, padding among them, or labels."""
        return count_outputs(self.layered.model)

    def logits(self, said: Tensor, words: int) -> Tensor:
        """The first ``words`` logits, those of both models, of some of what :meth:`base` or :meth:`under` gave."""
        return (self.layered.head(said) if self.layered.per_token else said)[..., :words]


def _compare(ours: Mapping[str, _Runs], theirs: _Runs, pairs: Sequence[AlignedPair], draw: _Draw) -> NDArray[np.float64]:
    """The sums of a batch: [names, pairs, examples, unswapped and swapped, quantities]."""
    student_sides = list(dict.fromkeys((pair.student, pair.student_dimensions) for pair in pairs))
    teacher_sides = list(dict.fromkeys((pair.teacher, pair.teacher_dimensions) for pair in pairs))
    finals = {
        name: [runs.base(draw.slots)] if name == "no swap" else [runs.under(side, draw) for side in student_sides]
        for name, runs in ours.items()
    }
    targets = [theirs.under(side, draw) for side in teacher_sides]
    unchanged = theirs.base(draw.slots)

    swapped = draw.positions.gather(1, draw.slots.clamp(min=0))[draw.slots >= 0].cpu().numpy().astype(np.int64)
    rows = rows_of_slots(draw.slots)
    words = min(runs.words for runs in (theirs, *ours.values()))
    chunk = max(1, LOGITS // (4 * words * (2 * len(teacher_sides) + len(student_sides))))
    sums = np.zeros((len(ours), len(pairs), len(draw.positions), 2, len(QUANTITIES)))
    for start in range(0, len(rows), chunk):
        part = slice(start, start + chunk)
        places = (rows[part], swapped[part])
        target = Predictions([theirs.logits(said[part], words) for said in targets])
        word = Predictions([theirs.logits(unchanged[part], words)]).words[:, 0]
        for index, (name, runs) in enumerate(ours.items()):
            answer = Predictions([runs.logits(said[part], words) for said in finals[name]])
            divergence = target.divergence(answer)
            for number, pair in enumerate(pairs):
                theirs_at = teacher_sides.index((pair.teacher, pair.teacher_dimensions))
                ours_at = 0 if name == "no swap" else student_sides.index((pair.student, pair.student_dimensions))
                agree = answer.words[:, ours_at] == target.words[:, theirs_at]
                changed = target.words[:, theirs_at] != word
                columns = (torch.ones_like(word), agree, changed, agree & changed, divergence[:, theirs_at, ours_at])
                values = torch.stack([column.double() for column in columns], dim=1)
                np.add.at(sums[index, number], places, values.cpu().numpy())
    return sums


def _agreement(ours: _Runs, theirs: _Runs, slots: Tensor) -> NDArray[np.float64]:
    """[examples, 2]: used slots, and those at which both base runs have the same most likely word."""
    rows, bases = rows_of_slots(slots), [runs.base(slots) for runs in (ours, theirs)]
    words = min(ours.words, theirs.words)
    chunk = max(1, LOGITS // (8 * words))
    sums = np.zeros((len(slots), 2))
    for start in range(0, len(rows), chunk):
        part = slice(start, start + chunk)
        said, told = (runs.logits(base[part], words).argmax(-1) for runs, base in zip((ours, theirs), bases, strict=True))
        alike = (said == told).double()
        np.add.at(sums, rows[part], torch.stack([torch.ones_like(alike), alike], dim=1).cpu().numpy())
    return sums


def _check_examples(held_out: HeldOut, least: int) -> None:
    if len(held_out.examples) < least:
        raise Refusal("evaluation.blocks", f"interchange needs at least {least} examples, to swap between")


def _draw(held_out: HeldOut, examples: Sequence[int], swaps: SwapDraws, *, device: torch.device, with_donors: bool) -> _Draw:
    host = torch.device("cpu")  # a generator of another device would draw other positions
    base = held_out.batch_of(examples, device=host)
    source_numbers = [other_example(held_out, "evaluation source", example, {example}) for example in examples]
    sources = held_out.batch_of(source_numbers, device=host)
    if not with_donors:
        positions = _positions(base, sources, None, examples, held_out.seed, swaps)
        return _Draw(base, sources, sources, positions, _reached(held_out, base, positions)).to(device)
    excluded = zip(examples, source_numbers, strict=True)
    donor_numbers = [other_example(held_out, "evaluation donor", example, {example, source}) for example, source in excluded]
    donors = held_out.batch_of(donor_numbers, device=host)
    positions = _positions(base, sources, swaps.allowed(donors), examples, held_out.seed, swaps)
    return _Draw(base, sources, donors, positions, _reached(held_out, base, positions)).to(device)


def _reached(held_out: HeldOut, base: dict[str, Tensor], positions: Tensor) -> Tensor:
    """The slots that the swap can change; unused where it cannot."""
    return base["slots"].where(reached(held_out.reach, base, base["slots"], positions), UNUSED)


def other_example(held_out: HeldOut, name: str, example: int, excluded: set[int]) -> int:
    """An example that is not among the excluded ones, each as likely as another, drawn for this one."""
    examples = held_out.examples
    index = host_random(name, held_out.seed, example).randrange(len(examples) - len(excluded))
    for place in sorted(bisect.bisect_left(examples, each) for each in excluded):
        index += index >= place
    return examples[index]


def _positions(
    base: dict[str, Tensor],
    sources: dict[str, Tensor],
    within: Tensor | None,
    examples: Sequence[int],
    seed: int,
    swaps: SwapDraws,
) -> Tensor:
    """The swapped positions Bool[batch tokens], drawn row by row so that a row's draw is its own."""
    inputs = {**base, **{f"source_{name}": value for name, value in sources.items()}}
    drawn = []
    for row, example in enumerate(examples):
        own = generator("evaluation positions", seed, example)
        limit = None if within is None else within[row : row + 1]
        drawn.append(swaps.draw({name: value[row : row + 1] for name, value in inputs.items()}, own, within=limit).positions)
    return torch.cat(drawn)
