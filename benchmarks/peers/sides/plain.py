"""A loop as one writes it with transformers alone: whole logits of both models, torch's losses.

Of a masked language model the losses are of the masked tokens, as the script that DistilBERT was made with has it where
``restrict_ce_to_mask`` is set.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from peer_models import autocast
from torch import Tensor


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Mean over tokens of KL(teacher ‖ student) at the temperature, times its square."""
    student, teacher = student.float(), teacher.float()
    if temperature != 1:
        student, teacher = student / temperature, teacher / temperature
    log_student, log_teacher = F.log_softmax(student, -1), F.log_softmax(teacher, -1)
    return temperature**2 * F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


class Side:
    """The losses of a case and their gradients."""

    def __init__(self, case: dict[str, Any], teacher: Any, student: Any) -> None:
        self.case, self.teacher, self.student = case, teacher, student
        self.losses = {"masked-lm": self.masked, "decoder": self.decoder, "classifier": self.classifier}[case["kind"]]

    def parameters(self) -> Any:
        """What is trained."""
        return self.student.parameters()

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Nothing has to be."""
        return batch

    def backward(self, batch: dict[str, Tensor], number: int) -> dict[str, Tensor]:
        """Named losses; their mean's gradients are in the parameters."""
        with autocast(self.case):
            losses = self.losses(batch)
        torch.stack([*losses.values()]).mean().backward()
        return losses

    def masked(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Task, divergence, cosine."""
        ids, labels = batch["input_ids"], batch["labels"]
        chosen = labels >= 0
        with torch.no_grad():
            teacher = self.teacher(input_ids=ids, output_hidden_states=True)
        student = self.student(input_ids=ids, output_hidden_states=True)
        hidden = student.hidden_states[-1][chosen], teacher.hidden_states[-1][chosen]
        return {
            "task": F.cross_entropy(student.logits.float().flatten(0, 1), labels.flatten()),
            "ce": divergence(student.logits[chosen], teacher.logits[chosen], self.case["temperature"]),
            "cos": F.cosine_embedding_loss(*(each.float() for each in hidden), torch.ones(len(hidden[0]))),
        }

    def decoder(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Task and divergence at all tokens but the last."""
        ids = batch["input_ids"]
        with torch.no_grad():
            teacher = self.teacher(input_ids=ids).logits[:, :-1].flatten(0, 1)
        student = self.student(input_ids=ids).logits[:, :-1].flatten(0, 1)
        task = F.cross_entropy(student.float(), ids[:, 1:].flatten())
        return {"task": task, "ce": divergence(student, teacher, self.case["temperature"])}

    def classifier(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Task and divergence of the rows."""
        inputs = {name: value for name, value in batch.items() if name in ("input_ids", "attention_mask")}
        with torch.no_grad():
            teacher = self.teacher(**inputs).logits
        student = self.student(**inputs).logits
        task = F.cross_entropy(student.float(), batch["labels"])
        return {"task": task, "ce": divergence(student, teacher, self.case["temperature"])}
