"""Where the teacher stands and in which precision: neither Trainer nor FSDP sees it, so it is put in place here."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel, TrainingArguments


def place_teacher(teacher: PreTrainedModel, args: TrainingArguments) -> None:
    """Put the teacher on the device of training, held in bf16 where training computes in it."""
    teacher.to(args.device)  # type: ignore[arg-type]
    if args.bf16:
        cast_parameters(teacher, torch.bfloat16)


def cast_parameters(model: nn.Module, dtype: torch.dtype) -> None:
    """Hold the parameters in ``dtype``, and leave buffers: rotary tables stay fp32, as ``from_pretrained`` leaves them."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
