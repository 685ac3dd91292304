"""DistillKit's divergence on the whole logits, beside the model's own loss, as its trainer has it.

Written from its source: it could not be installed where the other sides were run, so this one has not been run yet.
"""

from __future__ import annotations

from typing import Any

import torch
from distillkit.lossfuncs.kl import KLDLoss
from distillkit.signals import DenseSignal
from peer_models import autocast
from torch import Tensor


class Side:
    """The losses of a decoder and their gradients."""

    def __init__(self, case: dict[str, Any], teacher: Any, student: Any) -> None:
        self.case, self.teacher, self.student = case, teacher, student
        self.divergence = KLDLoss(temperature=case["temperature"])

    def parameters(self) -> Any:
        """What is trained."""
        return self.student.parameters()

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Nothing has to be."""
        return batch

    def backward(self, batch: dict[str, Tensor], number: int) -> dict[str, Tensor]:
        """Named losses; the gradients of their mean are in the parameters."""
        ids = batch["input_ids"]
        with autocast(self.case):
            student = self.student(input_ids=ids, labels=ids)
            with torch.no_grad():
                logits = self.teacher(input_ids=ids).logits[:, :-1]
            signal = DenseSignal(1.0, None, self.case["words"], logits)
            task, student.logits = student.loss, student.logits[:, :-1]
            divergence = self.divergence(student, signal)
        torch.stack([task, divergence]).mean().backward()
        return {"task": task, "ce": divergence}
