"""Teachers with a cache of their answers: one that writes what it is asked, and one that reads instead of running."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diito.method.alignment import AlignedPair
from diito.method.losses import Predictions
from diito.method.rotation import Bases
from diito.method.runs import NOTHING, LiveTeacher, Runs
from diito.method.swaps import Swap
from diito.models.kept import Wanted
from diito.models.layered import Inputs, Layered
from diito.training.teacher_cache import Answers, TeacherCache, Writer, fingerprint


class WritingTeacher:
    """A live teacher whose answers are kept."""

    def __init__(self, live: LiveTeacher, writer: Writer) -> None:
        self.live, self.writer = live, writer
        self.depth, self.width = live.depth, live.width

    def runs(
        self,
        batch: Inputs,
        pair: AlignedPair,
        swap: Swap | None,
        slots: Int[Tensor, "batch slots"],
        *,
        step: int,
        further: Sequence[tuple[AlignedPair, Swap]] = (),
        **asked: Any,
    ) -> Runs:
        """See :class:`~diito.method.runs.Teacher`."""
        runs = self.live.runs(batch, pair, swap, slots, step=step, further=further, **asked)
        answers: Answers = {"slots": slots.to("cpu", torch.int32)}
        self._keep(answers, "base", runs.base, slots, fingerprint(batch))
        swapped = [] if swap is None else zip([runs, *runs.further], [(pair, swap), *further], strict=True)
        for number, (each, drawn) in enumerate(swapped):
            self._keep(answers, run_name(number), each.counterfactual, slots, fingerprint(batch, *drawn))
        self.writer.add(step, answers)
        return runs

    def _keep(self, answers: Answers, name: str, run: Predictions | None, slots: Tensor, asked: Tensor) -> None:
        if run is None:
            return
        answers[name], answers[f"{name}.asked"] = run.hidden[(slots >= 0).flatten()].cpu(), asked
        if not Layered(self.live.model).per_token:
            answers[f"{name}.logits"] = run.logits.cpu().contiguous()


class CachedTeacher:
    """Answers from a cache, with the head of the live teacher, whose layers are not run.

    What is asked is held against what was asked when the cache was written: in each micro-batch on a CPU, elsewhere in the
    first one alone, since looking makes the device wait.
    """

    def __init__(self, live: LiveTeacher, cache: TeacherCache) -> None:
        self.model, self.cache = live.model, cache
        self.depth, self.width = live.depth, live.width
        self._has_looked = False

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
        """See :class:`~diito.method.runs.Teacher`; ``bases`` belong to what decides the cache."""
        assert not keep, "a cache holds predictions alone"
        answers = self.cache.read(step)
        if slots.device.type == "cpu" or not self._has_looked:
            asked = [(run_name(number), *each) for number, each in enumerate([(pair, swap), *further])] if swap else []
            self._compare(answers, batch, slots, [*([("base", None, None)] if base else []), *asked], step)

        def read(name: str) -> Predictions:
            return self._predictions(answers, name, slots, outputs)

        answer = read("base") if base else None
        if swap is None:
            return Runs(answer, None)
        first, *others = [Runs(answer, read(run_name(number))) for number in range(1 + len(further))]
        return Runs(answer, first.counterfactual, further=tuple(others))

    def _predictions(self, answers: Answers, name: str, slots: Int[Tensor, "batch slots"], outputs: int | None) -> Predictions:
        states, used = answers[name], (answers["slots"] >= 0).flatten()
        hidden = states.new_zeros(len(used), states.shape[-1])
        hidden[used] = states
        logits = answers.get(f"{name}.logits")
        kept = None if logits is None else logits.to(slots.device)[:, :outputs]

        def head(hidden: Float[Tensor, "tokens width"]) -> Float[Tensor, "tokens words"]:
            return Layered(self.model).head(hidden)[:, :outputs] if kept is None else kept

        predictions = Predictions(hidden.to(slots.device, non_blocking=True), head)
        predictions.used = (slots >= 0).flatten()
        return predictions

    def _compare(self, answers: Answers, batch: Inputs, slots: Tensor, asked: Sequence[Any], step: int) -> None:
        """A cache that passed its check and is asked something else is a fault of the program."""
        self._has_looked = True
        same = torch.equal(answers["slots"], slots.to("cpu", torch.int32))
        for name, pair, swap in asked:
            same = same and torch.equal(answers[f"{name}.asked"], fingerprint(batch, pair, swap))
        if not same:
            raise RuntimeError(f"{self.cache.folder} holds the answers to another micro-batch {step} than the run has")


def run_name(number: int) -> str:
    """The name of a counterfactual run among the answers, by the number of its pair in the micro-batch."""
    return f"swapped.{number}"
