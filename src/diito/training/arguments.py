"""Trainer's arguments, as a recipe says."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations

from diito.recipe import Recipe
from diito.speed.precision import choose_precision


def training_arguments(recipe: Recipe, *, output_dir: str) -> TrainingArguments:
    """Trainer's arguments for a recipe. Also joins the process group under torchrun.

    Raises ValueError naming ``training.arguments`` for a field that TrainingArguments does not have or refuses.
    """
    training = recipe.training
    known = [field.name for field in dataclasses.fields(TrainingArguments)]
    for name in training.arguments:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else "; see transformers.TrainingArguments"
            raise ValueError(f"training.arguments.{name}: no such argument{hint}")
    _check_loggers(training.report_to)
    has_accelerator = not training.use_cpu and torch.accelerator.is_available()
    device = torch.accelerator.current_accelerator() if has_accelerator else None
    precision = choose_precision(recipe.speed.precision, device or torch.device("cpu"))
    ours: dict[str, Any] = {
        "output_dir": output_dir,
        "run_name": recipe.name,
        "seed": recipe.seed,
        "num_train_epochs": training.num_train_epochs,
        "max_steps": training.max_steps or -1,
        "per_device_train_batch_size": training.per_device_train_batch_size,
        "gradient_accumulation_steps": training.gradient_accumulation_steps,
        "learning_rate": training.learning_rate,
        "adam_beta1": training.adam_beta1,
        "adam_beta2": training.adam_beta2,
        "adam_epsilon": training.adam_epsilon,
        "weight_decay": training.weight_decay,
        "warmup_steps": training.warmup_ratio if training.warmup_steps is None else training.warmup_steps,
        "max_grad_norm": training.max_grad_norm,
        "bf16": precision == "bf16",
        "use_cpu": not has_accelerator,
        "dataloader_pin_memory": has_accelerator,
        "logging_steps": training.logging_steps,
        "logging_first_step": True,
        "save_steps": training.save_steps,
        "save_total_limit": training.save_total_limit,
        "eval_strategy": "steps" if training.eval_steps else "no",
        "eval_steps": training.eval_steps or None,
        "report_to": training.report_to or "none",
        "disable_tqdm": True,
    }
    try:
        return TrainingArguments(**{**ours, **training.arguments})
    except (ValueError, TypeError, ImportError) as error:
        raise ValueError(f"training.arguments: {error}") from error


def _check_loggers(names: list[str]) -> None:
    """Trainer would say so only when it is made, after the measurements."""
    installed = get_available_reporting_integrations() if names else []
    for name in names:
        if name not in [*installed, "all", "none"]:
            raise ValueError(
                f"training.report_to: {name!r} is not installed, or no logger of transformers; "
                f"installed: {', '.join(installed) or 'none'}"
            )
