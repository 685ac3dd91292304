"""diito as its run sets it up: the objective, dropout and memory for the CPU, a teacher in bf16 where that is used."""

from __future__ import annotations

from typing import Any

from diito.speed.process import keep_freed_memory, limit_spinning

limit_spinning()  # before torch is imported

import torch  # noqa: E402
from peer_models import autocast  # noqa: E402
from torch import Tensor  # noqa: E402

from diito import Alignment, DistillationObjective  # noqa: E402
from diito.recipe import SpeedSection  # noqa: E402
from diito.speed.precision import prepare_models  # noqa: E402
from diito.tasks.causal_lm import CausalLM, NextTokens  # noqa: E402
from diito.training.placement import cast_parameters  # noqa: E402

SHARE = 0.3


class Side:
    """Standard distillation, or DIITO where the case says ``causal``."""

    def __init__(self, case: dict[str, Any], teacher: Any, student: Any) -> None:
        self.case, self.student = case, student
        keep_freed_memory()
        if case["precision"] == "bf16":
            cast_parameters(teacher, torch.bfloat16)
        prepare_models(student, teacher, SpeedSection(), device=torch.device("cpu"))
        self.pairs = Alignment.full(case["teacher_layers"], case["student_layers"]).pairs
        names = ["task", "ce", *(["cos"] if case["kind"] == "masked-lm" else [])]
        names += ["causal_ce"] if case.get("causal") else []
        decoder = {"reach": CausalLM().reach, "special_ids": []} if case["kind"] == "decoder" else {}
        self.objective = DistillationObjective(
            student,
            teacher,
            Alignment(self.pairs),
            weights={name: 1 / len(names) for name in names},
            temperature=case["temperature"],
            share=SHARE,
            **decoder,
        ).train()

    def parameters(self) -> Any:
        """What is trained."""
        return self.student.parameters()

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Slots and labels, as the task gives them to the objective."""
        if self.case["kind"] == "decoder":
            return NextTokens(None).batch(batch, generator=torch.default_generator)
        if self.case["kind"] == "classifier":
            rows = batch["labels"]
            return {**batch, "slots": torch.zeros_like(rows).unsqueeze(1), "labels": rows.unsqueeze(1)}
        return {**batch, "labels": batch["labels"].gather(1, batch["slots"])}

    def backward(self, batch: dict[str, Tensor], number: int) -> dict[str, Tensor]:
        """Named losses; the gradients of their mean are in the parameters."""
        self.objective.alignment = Alignment([self.pairs[number % len(self.pairs)]])  # each as often as another
        with autocast(self.case):
            losses = self.objective(batch, step=number)
        losses["loss"].backward()
        return {name: loss for name, loss in losses.items() if name != "loss"}
