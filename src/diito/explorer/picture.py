"""A view with all that the models say to it, as data: what the page shows, what its JSON holds, what its PNG is drawn from."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from diito.evaluation.held_out.predictions import Predictions
from diito.evaluation.one_pair import answers, mean_movement, movement
from diito.explorer.subjects import Subjects
from diito.explorer.texts import Text, Texts, source_slot
from diito.explorer.view import View

MOST_ANSWERS = 10
RUNS = ("base", "source", "counterfactual", "donor")
"""What each model is asked: the base, the source, the base with the span swapped, and the same from a random donor."""
OFFSETS = 8
"""Tokens on either side of the answer in the mean map."""


@dataclass(frozen=True)
class Answer:
    """One of the likeliest answers."""

    text: str
    probability: float


@dataclass(frozen=True)
class Answers:
    """What one model says."""

    role: str
    """teacher, student or against."""
    title: str
    """What the page calls it."""
    name: str
    """What the user calls it."""
    layers: list[int]
    """Those that are swapped."""
    depth: int
    likeliest: dict[str, list[Answer]]
    """Of each run the likeliest answers, falling."""
    moved: dict[str, float]
    """KL(base ‖ run) in nats, of the runs with a swap."""
    divergence: dict[str, float]
    """KL(teacher ‖ this model) in nats, of each run; empty for the teacher."""

    def said(self, run: str) -> str:
        """The likeliest answer."""
        return self.likeliest[run][0].text

    @property
    def changed(self) -> bool:
        """Whether the swap changed the likeliest answer."""
        return self.said("counterfactual") != self.said("base")


@dataclass(frozen=True)
class Map:
    """How far the swap of one token in one layer moves the answer, in nats; None where nothing can be swapped."""

    columns: list[str]
    """The tokens, or, of a mean, their distances from the answer."""
    values: dict[str, list[list[float | None]]]
    """By model, then layer, then column."""
    pairs: int = 1
    """Of how many pairs of texts."""
    is_mean: bool = False
    """Whether it is the mean over held-out pairs."""
    first: int = 0
    """The place of the first column: a token, or the distance from the answer."""

    @property
    def most(self) -> float:
        """The largest value, at which the colours of all models end."""
        return max((value for rows in self.values.values() for row in rows for value in row if value is not None), default=0.0)


@dataclass(frozen=True)
class Picture:
    """All of it."""

    view: View
    task: str
    base: Text
    source: Text
    donor: Text | None
    source_slot: int
    models: list[Answers]
    reached: bool
    """Whether the swap can change the answer at all: in a decoder only from before it."""
    verdicts: dict[str, str] = field(default_factory=dict)
    """Of each student, in words, whether it changed its mind as the teacher did."""

    def as_json(self, *maps: Map) -> dict[str, Any]:
        """What is shown as numbers and texts."""

        def shown(text: Text | None) -> Any:
            return None if text is None else {"tokens": list(text.tokens), "ids": list(text.ids)}

        return {
            "view": dataclasses.asdict(self.view),
            "link": f"?{self.view.link()}",
            "task": self.task,
            "base": shown(self.base),
            "source": shown(self.source),
            "donor": shown(self.donor),
            "verdicts": self.verdicts,
            "models": [dataclasses.asdict(model) for model in self.models],
            "maps": [dataclasses.asdict(each) for each in maps],
        }


class Looking:
    """Computes pictures and maps; what was looked at lately is kept."""

    def __init__(self, subjects: Subjects) -> None:
        self.subjects = subjects
        self.texts = Texts(subjects)
        self._kept = functools.lru_cache(maxsize=128)(self._picture)
        self._movement = functools.lru_cache(maxsize=128)(self._movement_anew)
        self._mean = functools.lru_cache(maxsize=8)(self._mean_anew)

    def picture(self, view: View) -> Picture:
        """What the models say to a view. Raises Refusal for one that they cannot be asked."""
        return self._kept(self.texts.settled(view))

    def _picture(self, view: View) -> Picture:
        base, source = self.texts.of(view)
        donor = self.texts.donor(view)
        swaps = [self.texts.swap(view), *([] if donor is None else [self.texts.swap(view, donor)])]
        slot = source_slot(base, source, view.slot or 0)
        predicted = {}
        for role, model in self.subjects.models.items():
            layers = getattr(view, role)
            said = answers(
                model,
                swaps,
                layers,
                slot=view.slot or 0,
                source_slot=slot,
                words=self.subjects.outputs,
                dimensions=self.subjects.dimensions(role, layers),
            )
            predicted[role] = Predictions(said.split(1))
        models = [self._answers(view, role, predicted) for role in predicted]
        reached = self.subjects.task.reach(torch.tensor([[view.slot]]), swaps[0].positions.cpu())
        teacher, *students = models
        return Picture(
            view,
            self.subjects.task.name,
            base,
            source,
            donor,
            slot,
            models,
            bool(reached.item()),
            {student.role: verdict(teacher, student) for student in students},
        )

    def _answers(self, view: View, role: str, predicted: dict[str, Predictions]) -> Answers:
        ours, theirs = predicted[role], predicted["teacher"]
        runs = RUNS[: ours.logs.shape[1]]
        top = ours.logs[0].topk(min(MOST_ANSWERS, ours.logs.shape[-1]), dim=-1)
        moved = ours.divergence(ours)[0, 0]
        between = theirs.divergence(ours)[0].diagonal()
        name = self.subjects.output_name
        return Answers(
            role,
            self.subjects.title(role),
            self.subjects.names[role],
            list(getattr(view, role)),
            self.subjects.depths[role],
            {
                run: [
                    Answer(name(word), math.exp(log))
                    for word, log in zip(top.indices[index].tolist(), top.values[index].tolist(), strict=True)
                ]
                for index, run in enumerate(runs)
            },
            {run: float(moved[index]) for index, run in enumerate(runs) if index >= 2},
            {} if role == "teacher" else {run: float(between[index]) for index, run in enumerate(runs)},
        )

    def map(self, view: View) -> Map:
        """The map of the view's pair of texts; of a view that is settled."""
        base, _ = self.texts.of(view)
        assert view.first is not None and view.read is not None and view.slot is not None
        shift = view.read - view.first
        values = {
            role: self._movement(role, view.base, view.base_pair, view.source, view.source_pair, view.slot, shift)
            for role in self.subjects.models
        }
        return Map(list(base.tokens), values)

    def _movement_anew(
        self, role: str, base: str, base_pair: str, source: str, source_pair: str, slot: int, shift: int
    ) -> list[list[float | None]]:
        ours = self.texts.read(base, base_pair, "base")
        other = self.texts.read(source, source_pair, "source")
        moved = movement(self.subjects.models[role], ours.inputs, other.inputs, slot, shift=shift, words=self.subjects.outputs)
        return _listed(moved)

    def mean_map(self, pairs: int, advance: Callable[[int, int], None] | None = None) -> Map:
        """The mean map over so many pairs of held-out texts, by the distance from the answer."""
        return self._mean(pairs, advance)

    def _mean_anew(self, pairs: int, advance: Callable[[int, int], None] | None) -> Map:
        models = self.subjects.models
        means = mean_movement(
            list(models.values()),
            self.subjects.held_out,
            pairs,
            reach=OFFSETS,
            words=self.subjects.outputs,
            advance=advance,
        )
        used = [place for place in range(2 * OFFSETS + 1) if not means[0][0, place].isnan()]
        kept = range(used[0], used[-1] + 1) if used else range(0)
        names = [f"{place - OFFSETS:+d}" if place != OFFSETS else "0" for place in kept]
        values = {role: _listed(mean[:, kept]) for role, mean in zip(models, means, strict=True)}
        count = min(pairs, len(self.subjects.held_out.examples))
        return Map(names, values, count, True, kept.start - OFFSETS)


def verdict(teacher: Answers, student: Answers) -> str:
    """Whether both changed their minds alike, in a sentence."""
    before, after = teacher.said("base"), teacher.said("counterfactual")
    ours, now = student.said("base"), student.said("counterfactual")
    teachers, students = f"teacher {before} → {after}", f"{student.title} {ours} → {now}"
    if teacher.changed and student.changed:
        return f"Both changed their minds, {'alike' if after == now else 'but not alike'}: {teachers}, {students}."
    if teacher.changed:
        return f"The teacher changed its mind, the {student.title} did not: {teachers}, {students}."
    if student.changed:
        return f"The {student.title} changed its mind, the teacher did not: {students}, {teachers}."
    return f"Neither changed its mind: teacher {after}, {student.title} {now}."


def _listed(values: Tensor) -> list[list[float | None]]:
    return [[None if math.isnan(value) else value for value in row] for row in values.tolist()]
