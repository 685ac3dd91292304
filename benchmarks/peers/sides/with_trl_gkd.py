"""TRL's GKDTrainer on given text (``lmbda`` 0). Its loss has the divergence alone, at temperature 1 whatever is asked for."""

from __future__ import annotations

from typing import Any

import models  # noqa: F401  (before trl)
import torch
from torch import Tensor
from trl.experimental.gkd import GKDConfig, GKDTrainer
from trl_parts import Losses, arguments, conversations, tokenizer


class Side(Losses):
    """Half of the losses of a decoder, and their gradients."""

    def __init__(self, case: dict[str, Any], teacher: Any, student: Any) -> None:
        self.trainer = GKDTrainer(
            model=student,
            teacher_model=teacher,
            args=GKDConfig(**arguments(case), lmbda=0.0),
            train_dataset=conversations(),
            processing_class=tokenizer(),
        )

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rows of which all tokens are the answer."""
        ids = batch["input_ids"]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
