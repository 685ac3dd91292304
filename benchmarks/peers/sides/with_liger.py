"""Liger's fused linear and distillation loss, which makes logits a chunk at a time, in a plain loop.

Its kernels for layers are Triton's and need a GPU; this loss is torch's alone. ``compiled=False``, as no other side compiles.
At ``beta`` 0 its divergence is KL(teacher ‖ student), without the square of the temperature.
"""

from __future__ import annotations

from typing import Any

import torch
from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss
from peer_models import autocast
from torch import Tensor


class Side:
    """The losses of a decoder and their gradients."""

    def __init__(self, case: dict[str, Any], teacher: Any, student: Any) -> None:
        self.case, self.teacher, self.student = case, teacher, student
        self.loss = LigerFusedLinearJSDLoss(
            weight_hard_loss=0.5,
            weight_soft_loss=0.5 * case["temperature"] ** 2,
            beta=0.0,
            temperature=case["temperature"],
            compiled=False,
            chunk_size=512,
            return_soft_hard_loss=True,
        )

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
            with torch.no_grad():
                teacher = self.teacher.model(input_ids=ids).last_hidden_state[:, :-1].flatten(0, 1)
            student = self.student.model(input_ids=ids).last_hidden_state[:, :-1].flatten(0, 1)
            heads = self.student.lm_head.weight, self.teacher.lm_head.weight
            loss, soft, hard = self.loss(student, heads[0], teacher, heads[1], ids[:, 1:].flatten())
        loss.backward()
        return {"task": hard, "ce": self.case["temperature"] ** 2 * soft}
