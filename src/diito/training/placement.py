"""Where the teacher stands and in which precision: neither Trainer nor FSDP sees it, so it is put in place here."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel, TrainingArguments


def place_teacher(teacher: PreTrainedModel, args: TrainingArguments) -> None:
    """Put the teacher on the device of training, held in bf16 where training computes in it."""
    teacher.to(args.device)  # type: ignore[arg-type]
    if args.bf16:
        teacher.to(torch.bfloat16)  # type: ignore[arg-type]
