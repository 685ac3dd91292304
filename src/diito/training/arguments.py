"""Trainer's arguments, as a recipe says and as the method needs them."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainingArguments
from transformers.integrations import get_available_reporting_integrations

from diito.method.objective import DistillationObjective
from diito.models.learn import reaches_every_parameter
from diito.recipe import Recipe
from diito.recipe.arguments import argument_refusals, unusable
from diito.refusal import Refusal, refuse
from diito.speed.precision import choose_precision

_MEASURED = {"perplexity": False, "iia": True, "efficacy": True, "counterfactual_kl": False}
"""What an evaluation always gives, and whether more of it is better."""


def training_arguments(recipe: Recipe, *, output_dir: str) -> TrainingArguments:
    """Trainer's arguments for a recipe. Also joins the process group under torchrun.

    Raises Refusal or Refusals naming the fields that TrainingArguments does not have, that it or Trainer refuses, or that
    cannot work with the method.
    """
    training = recipe.training
    refuse(argument_refusals(training))
    for name in ("eval_on_start", "do_eval"):
        if training.arguments.get(name) and (not training.eval_steps or recipe.evaluation.sources == []):
            raise Refusal(f"training.{name}", "needs training.eval_steps above 0 and held-out text (evaluation.sources)")
    _check_loggers(training.report_to)
    chooses = training.arguments.get("metric_for_best_model")
    metric = None if chooses is None else str(chooses).removeprefix("eval_")
    if metric is not None and metric not in _MEASURED:
        raise Refusal("training.metric_for_best_model", f"{chooses!r} is not measured; give one of {', '.join(_MEASURED)}")
    if training.arguments.get("lr_scheduler_type") == "reduce_lr_on_plateau" and not (metric and training.eval_steps):
        sentence = f"needs training.eval_steps above 0 and training.metric_for_best_model, one of {', '.join(_MEASURED)}"
        raise Refusal("training.lr_scheduler_type", f"reduce_lr_on_plateau {sentence}")
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
        "hub_model_id": recipe.name,
        "disable_tqdm": True,
        "greater_is_better": None if metric is None else _MEASURED[metric],
    }
    try:
        arguments = TrainingArguments(**{**ours, **training.arguments})
    except (ValueError, TypeError, ImportError, OSError) as error:
        raise _refusal_of(error, training.arguments) from error
    if training.arguments:
        _try(arguments, training.arguments)
    return arguments


def _try(arguments: TrainingArguments, given: Mapping[str, Any]) -> None:
    """Make optimiser, schedule and loader for a model of one number: Trainer would refuse them after the measurements only."""
    if arguments.deepspeed or arguments.fsdp:  # which are made for one model
        return
    with tempfile.TemporaryDirectory() as folder:
        tried = copy.copy(arguments)
        tried.output_dir, tried.push_to_hub, tried.report_to = folder, False, []
        tried.activation_checkpointing = tried.gradient_checkpointing = False
        rows = [{"x": 0.0}] * arguments.train_batch_size * arguments.world_size
        try:
            trainer = Trainer(nn.Linear(1, 1), tried, train_dataset=rows, eval_dataset=rows)  # type: ignore[arg-type]
            trainer.create_optimizer_and_scheduler(max(arguments.max_steps, 1))
            trainer.get_train_dataloader()
        except Exception as error:  # of any type: the model is sound, so it is about what was given
            raise _refusal_of(error, given) from error


def _refusal_of(error: Exception, given: Mapping[str, Any]) -> Refusal:
    """What a library says against the arguments ``given``, about the one that it names or that alone there is."""
    text = str(error) or type(error).__name__
    named = [name for name in given if name in text] or [name for name, value in given.items() if str(value) in text]
    if len(given) == 1:
        named = list(given)
    return Refusal(f"training.{named[0]}" if len(named) == 1 else "training", " ".join(text.split()))


def require(args: TrainingArguments, objective: DistillationObjective) -> TrainingArguments:
    """``args`` with the fields that the method depends on, whatever they were set to.

    Raises Refusal naming a field that cannot work with the method.
    """
    given = {name: value for name, value in vars(args).items() if name != "accelerator_config"}  # never empty
    refuse(unusable(given, prefix="args."))
    args.remove_unused_columns = False
    args.dataloader_drop_last = True  # a partial batch would have other sources and another weight
    args.ignore_data_skip = False  # a resumed run must see the rows that one which was not stopped sees
    args.logging_nan_inf_filter = False  # it would hide a non-finite loss, and synchronise at every micro-batch
    args.ddp_broadcast_buffers = False
    # The head gets no gradient from losses that read hidden states only, nor does a pooler or a bias that no logits read.
    # With a schedule, a loss with parameters of its own is not computed while its weight is 0.
    reaches_all = "logits" in objective.reads and reaches_every_parameter(objective.student)
    args.ddp_find_unused_parameters = objective.has_schedules or not reaches_all
    args._n_gpu = min(args.n_gpu, 1)  # several devices: torchrun (DataParallel cannot carry named losses)
    return args


def _check_loggers(names: list[str]) -> None:
    """Trainer would say so only when it is made, after the measurements."""
    installed = get_available_reporting_integrations() if names else []
    for name in names:
        if name not in [*installed, "all", "none"]:
            raise Refusal(
                "training.report_to",
                f"{name!r} is not installed, or no logger of transformers; installed: {', '.join(installed) or 'none'}",
            )
