"""Trainer's arguments, as a recipe says and as the method needs them."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations

from diito.method.objective import DistillationObjective
from diito.models.learn import reaches_every_parameter
from diito.recipe import Recipe
from diito.refusal import Refusal
from diito.speed.precision import choose_precision

_UNUSABLE = {
    "activation_checkpointing": "layers are run one by one, and their outputs are kept for the swaps",
    "gradient_checkpointing": "layers are run one by one, and their outputs are kept for the swaps",
    "neftune_noise_alpha": "noise on the embeddings would differ between the base and the counterfactual run",
    "use_liger_kernel": "its fused loss hides the logits, which the losses read",
    "auto_find_batch_size": "every draw is keyed by the micro-batch, whose size must stay",
    "label_smoothing_factor": "the losses are those of objective.weights",
    "include_num_input_tokens_seen": "tokens are counted and logged already",
}
"""Arguments of Trainer that cannot work with the method, and why."""


def training_arguments(recipe: Recipe, *, output_dir: str) -> TrainingArguments:
    """Trainer's arguments for a recipe. Also joins the process group under torchrun.

    Raises ValueError naming the field that TrainingArguments does not have or refuses.
    """
    training = recipe.training
    known = [field.name for field in dataclasses.fields(TrainingArguments)]
    for name in training.arguments:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else "; see transformers.TrainingArguments"
            raise Refusal(f"training.arguments.{name}", f"no such argument{hint}")
    _refuse_unusable(training.arguments, prefix="training.")
    for name in ("eval_on_start", "do_eval"):
        if training.arguments.get(name) and (not training.eval_steps or recipe.evaluation.sources == []):
            raise Refusal(f"training.{name}", "needs training.eval_steps above 0 and held-out text (evaluation.sources)")
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
    except (ValueError, TypeError, ImportError, OSError) as error:
        given = list(training.arguments)
        named = [name for name in given if name in str(error)] if len(given) > 1 else given
        raise Refusal(f"training.{named[0]}" if len(named) == 1 else "training", str(error)) from error


def require(args: TrainingArguments, objective: DistillationObjective) -> TrainingArguments:
    """``args`` with the fields that the method depends on, whatever they were set to.

    Raises Refusal naming a field that cannot work with the method.
    """
    _refuse_unusable(vars(args), prefix="args.")
    args.remove_unused_columns = False
    args.dataloader_drop_last = True  # a partial batch would have other sources and another weight
    args.ignore_data_skip = False  # a resumed run must see the rows that one which was not stopped sees
    args.logging_nan_inf_filter = False  # it would hide a non-finite loss, and synchronise at every micro-batch
    args.ddp_broadcast_buffers = False
    # The head gets no gradient from losses that read hidden states only, nor does a pooler or a bias that no logits read.
    args.ddp_find_unused_parameters = "logits" not in objective.reads or not reaches_every_parameter(objective.student)
    args._n_gpu = min(args.n_gpu, 1)  # several devices: torchrun (DataParallel cannot carry named losses)
    return args


def _refuse_unusable(arguments: Mapping[str, Any], *, prefix: str) -> None:
    for name, reason in _UNUSABLE.items():
        if arguments.get(name) not in (None, False, 0, "no"):
            raise Refusal(prefix + name, f"does not work with distillation ({reason}); leave it out")


def _check_loggers(names: list[str]) -> None:
    """Trainer would say so only when it is made, after the measurements."""
    installed = get_available_reporting_integrations() if names else []
    for name in names:
        if name not in [*installed, "all", "none"]:
            raise Refusal(
                "training.report_to",
                f"{name!r} is not installed, or no logger of transformers; installed: {', '.join(installed) or 'none'}",
            )
