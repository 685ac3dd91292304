"""torchdistill: a distillation box that is configured as its YAML files are, with hooks on the modules that its losses read.

A classifier's losses are torchdistill's and torch's own. It has none of masked tokens: those are written as its documents
say, as losses of the middle level that are registered by name.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from peer_models import autocast
from torch import Tensor, nn
from torchdistill.core.distillation import get_distillation_box
from torchdistill.losses.registry import register_mid_level_loss


@register_mid_level_loss
class MaskedTask(nn.Module):
    """The cross-entropy of the masked tokens."""

    def forward(self, student: Any, teacher: Any, targets: Tensor) -> Tensor:
        """Mean over these."""
        chosen = targets >= 0
        return F.cross_entropy(student["cls"]["output"][chosen].float(), targets[chosen])


@register_mid_level_loss
class MaskedDivergence(nn.KLDivLoss):
    """The divergence of the masked tokens' predictions, put as in torchdistill's own KDLoss."""

    def __init__(self, temperature: float) -> None:
        super().__init__(reduction="batchmean")
        self.temperature = temperature

    def forward(self, student: Any, teacher: Any, targets: Tensor) -> Tensor:
        """Mean over these, times the square of the temperature."""
        chosen = targets >= 0
        logits = [io["cls"]["output"][chosen].float() / self.temperature for io in (student, teacher)]
        return self.temperature**2 * super().forward(torch.log_softmax(logits[0], dim=1), torch.softmax(logits[1], dim=1))


@register_mid_level_loss
class MaskedCosine(nn.Module):
    """1 − cos of the masked tokens' states."""

    def forward(self, student: Any, teacher: Any, targets: Tensor) -> Tensor:
        """Mean over these."""
        chosen = targets >= 0
        states = [io["bert"]["output"].last_hidden_state[chosen].float() for io in (student, teacher)]
        return F.cosine_embedding_loss(*states, torch.ones(len(states[0])))


def of_masked_tokens(temperature: float) -> tuple[list[str], dict[str, Any]]:
    """The modules that are read, and the losses."""
    criteria = {
        "task": {"key": "MaskedTask", "kwargs": {}},
        "ce": {"key": "MaskedDivergence", "kwargs": {"temperature": temperature}},
        "cos": {"key": "MaskedCosine", "kwargs": {}},
    }
    return ["bert", "cls"], {name: {"criterion": criterion, "weight": 1 / 3} for name, criterion in criteria.items()}


def of_rows(temperature: float) -> tuple[list[str], dict[str, Any]]:
    """The module that is read, and the losses; those of KDLoss alone are without the square of the temperature."""
    logits = {"is_from_teacher": False, "module_path": "classifier", "io": "output"}
    task = {
        "criterion": {"key": "CrossEntropyLoss", "kwargs": {}},
        "criterion_wrapper": {"key": "SimpleLossWrapper", "kwargs": {"input": logits, "target": {"uses_label": True}}},
        "weight": 0.5,
    }
    paths = {"student_module_path": "classifier", "teacher_module_path": "classifier"}
    of_logits = {**paths, "student_module_io": "output", "teacher_module_io": "output"}
    soft = {"key": "KDLoss", "kwargs": {**of_logits, "temperature": temperature, "alpha": 0.0, "reduction": "batchmean"}}
    return ["classifier"], {"task": task, "ce": {"criterion": soft, "weight": 0.5 * temperature**2}}


class Side:
    """The losses of a masked language model or a classifier, and their gradients."""

    def __init__(self, case: dict[str, Any], teacher: Any, student: Any) -> None:
        self.case, self.student = case, student
        modules, terms = (of_masked_tokens if case["kind"] == "masked-lm" else of_rows)(case["temperature"])
        model = {"forward_proc": "forward_batch_only_as_kwargs", "forward_hook": {"output": modules}}
        config = {
            "num_epochs": 1,
            "teacher": {**model, "requires_grad": False},
            "student": model,
            "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": terms}},
        }
        self.box = get_distillation_box(teacher, student, {}, config, torch.device("cpu"), None, False, 1)
        self.values: dict[str, Tensor] = {}
        for name, (criterion, weight) in self.box.criterion.term_dict.items():
            criterion.register_forward_hook(partial(self._note, name, weight * len(terms)))

    def _note(self, name: str, scale: float, module: nn.Module, inputs: Any, value: Tensor) -> None:
        self.values[name] = scale * value.detach()

    def parameters(self) -> Any:
        """What is trained."""
        return self.student.parameters()

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Nothing has to be."""
        return batch

    def backward(self, batch: dict[str, Tensor], number: int) -> dict[str, Tensor]:
        """Named losses; the gradients of their mean are in the parameters."""
        inputs = {name: value for name, value in batch.items() if name in ("input_ids", "attention_mask")}
        with autocast(self.case):
            loss = self.box.forward_process(inputs, batch["labels"])
        loss.backward()
        return self.values
