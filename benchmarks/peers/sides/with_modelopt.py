"""ModelOpt: the student converted with its teacher and a loss for each pair of modules, which a balancer adds up.

Both losses are of the tokens that count: the loss modules are given which, so that nothing is computed for the others.
"""

from __future__ import annotations

from typing import Any

import modelopt.torch.distill as mtd
import torch
import torch.nn.functional as F
from peer_models import autocast
from torch import Tensor


class Logits(mtd.LogitsDistillationLoss):
    """ModelOpt's own, of the chosen tokens."""

    def forward(self, student: Tensor, teacher: Tensor, chosen: Tensor) -> Tensor:
        """Mean over these."""
        return super().forward(student[chosen].float(), teacher[chosen].float())


class Cosine(torch.nn.modules.loss._Loss):
    """1 − cos of the chosen tokens' states."""

    def forward(self, student: Any, teacher: Any, chosen: Tensor) -> Tensor:
        """Mean over these."""
        states = [output.last_hidden_state[chosen].float() for output in (student, teacher)]
        return F.cosine_embedding_loss(*states, torch.ones(len(states[0])))


class Side:
    """The losses of a masked language model or a decoder, and their gradients."""

    def __init__(self, case: dict[str, Any], teacher: Any, student: Any) -> None:
        self.case = case
        decoder = case["kind"] == "decoder"
        head = "lm_head" if decoder else "cls"
        criterion = {(head, head): Logits(temperature=case["temperature"], reduction="batchmean")}
        if not decoder:
            criterion["bert", "bert"] = Cosine()
        self.names = ["task", "ce"] if decoder else ["task", "ce", "cos"]
        config = {
            "teacher_model": teacher,
            "criterion": criterion,
            "loss_balancer": mtd.StaticLossBalancer(kd_loss_weight=[1 / len(self.names)] * len(criterion)),
        }
        self.student = mtd.convert(student, mode=[("kd_loss", config)])
        self.student.train()

    def parameters(self) -> Any:
        """What is trained."""
        return [parameter for parameter in self.student.parameters() if parameter.requires_grad]

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Which tokens' predictions count, and what is right there."""
        ids = batch["input_ids"]
        if self.case["kind"] == "decoder":
            chosen = torch.ones_like(ids, dtype=torch.bool)
            chosen[:, -1] = False
            return {"input_ids": ids, "chosen": chosen, "right": ids[:, 1:].flatten()}
        chosen = batch["labels"] >= 0
        return {"input_ids": ids, "chosen": chosen, "right": batch["labels"][chosen]}

    def backward(self, batch: dict[str, Tensor], number: int) -> dict[str, Tensor]:
        """Named losses; the gradients of their mean are in the parameters."""
        with autocast(self.case):
            student = self.student(input_ids=batch["input_ids"])
            task = F.cross_entropy(student.logits[batch["chosen"]].float(), batch["right"])
            losses = self.student.compute_kd_loss(student_loss=task, skip_balancer=True, chosen=batch["chosen"])
            loss = self.student.loss_balancer(losses)
        loss.backward()
        return dict(zip(self.names, losses.values(), strict=True))
