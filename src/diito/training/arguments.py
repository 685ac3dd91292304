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
    has_accelerator = training.device == "auto" and torch.accelerator.is_available()
    device = torch.accelerator.current_accelerator() if has_accelerator else None
    precision = choose_precision(recipe.speed.precision, device or torch.device("cpu"))
    ours: dict[str, Any] = {
        "output_dir": output_dir,
        "run_name": recipe.name,
        "seed": recipe.seed,
        "num_train_epochs": training.epochs,
        "max_steps": training.steps or -1,
        "per_device_train_batch_size": training.batch,
        "gradient_accumulation_steps": training.accumulation,
        "learning_rate": training.learning_rate,
        "adam_beta1": training.betas[0],
        "adam_beta2": training.betas[1],
        "adam_epsilon": training.epsilon,
        "weight_decay": training.weight_decay,
        "warmup_steps": training.warmup,
        "max_grad_norm": training.clip,
        "bf16": precision == "bf16",
        "use_cpu": not has_accelerator,
        "dataloader_pin_memory": has_accelerator,
        "logging_steps": training.log_every,
        "logging_first_step": True,
        "save_steps": training.save_every,
        "save_total_limit": training.keep,
        "eval_strategy": "steps" if training.evaluate_every else "no",
        "eval_steps": training.evaluate_every or None,
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
