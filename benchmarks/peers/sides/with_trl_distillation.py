"""TRL's DistillationTrainer, which makes logits in tiles: its loss on given text, so that nothing is generated."""

from __future__ import annotations

from typing import Any

import models  # noqa: F401  (before trl)
import torch
from torch import Tensor
from trl import DistillationConfig, DistillationTrainer
from trl_parts import Losses, arguments, conversations, tokenizer


class Side(Losses):
    """Half of the losses of a decoder, and their gradients."""

    def __init__(self, case: dict[str, Any], teacher: Any, student: Any) -> None:
        self.trainer = DistillationTrainer(
            model=student,
            teacher_model=teacher,
            args=DistillationConfig(**arguments(case)),
            train_dataset=conversations(),
            processing_class=tokenizer(),
        )

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rows with a prompt of one token and the others as what was generated."""
        ids = batch["input_ids"]
        prompt, completion = ids[:, :1], ids[:, 1:]
        masks = {"prompt_mask": torch.ones_like(prompt), "completion_mask": torch.ones_like(completion)}
        return {"prompt_ids": prompt, "completion_ids": completion, **masks}
