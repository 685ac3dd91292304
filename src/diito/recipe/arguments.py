"""What a recipe may say with the fields of transformers.TrainingArguments: each is in exactly one of the tables below.

A field that is in none, of a transformers newer than this, is refused: nobody has looked at what it does to the method.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from diito.recipe.keys import hints
from diito.recipe.training import TrainingSection, transformers_arguments
from diito.refusal import Refusal

ELSEWHERE = {
    "name and output": ("output_dir",),
    "seed": ("seed", "data_seed"),
    "speed.precision": ("bf16", "fp16", "bf16_full_eval", "fp16_full_eval"),
    "speed.compile": ("torch_compile", "torch_compile_backend", "torch_compile_mode"),
    "training.save_steps": ("save_strategy",),
    "training.eval_steps": ("eval_strategy",),
    "evaluation.batch": ("per_device_eval_batch_size",),
    "corpus.layout": ("dataloader_drop_last", "train_sampling_strategy"),
    "the flag --resume": ("resume_from_checkpoint", "ignore_data_skip"),
}
"""Where a recipe gives what some arguments would."""

DECIDED = {
    "average_tokens_across_devices": "each micro-batch counts alike",
    "ddp_broadcast_buffers": "there is nothing to broadcast",
    "ddp_find_unused_parameters": "it depends on what the losses reach",
    "label_names": "batches are the task's",
    "load_best_model_at_end": "the student is that of the last step",
    "local_rank": "torchrun says it",
    "logging_nan_inf_filter": "a loss that is not finite stops the run",
    "prediction_loss_only": "evaluation is that of the section evaluation",
    "remove_unused_columns": "rows are the corpus's",
    "save_only_model": "a run can always be resumed",
}
"""Arguments that the method or its checkpoints depend on, and why; no recipe changes them."""

UNUSABLE = {
    "accelerator_config": "how rows are dealt to the processes keys every draw",
    "auto_find_batch_size": "every draw is keyed by the micro-batch, whose size must stay; give training.batch",
    "ddp_static_graph": "which layers are swapped differs from step to step",
    "enable_jit_checkpoint": "SIGTERM ends the step and saves already",
    "include_num_input_tokens_seen": "tokens are counted and logged already",
    "label_smoothing_factor": "the losses are those of objective.weights",
    "liger_kernel_config": "its fused loss hides the logits, which the losses read",
    "neftune_noise_alpha": "noise on the embeddings would differ between the base and the counterfactual run",
    "parallelism_config": "a batch goes through a model on one device",
    "use_cache": "no step reads what a cache holds",
    "use_liger_kernel": "its fused loss hides the logits, which the losses read",
}
"""Arguments that cannot work with the method, and why; switched off they may stand in a recipe."""

PASSED_ON = (
    "activation_checkpointing", "activation_checkpointing_kwargs", "gradient_checkpointing", "gradient_checkpointing_kwargs",
    "lr_scheduler_type", "lr_scheduler_kwargs", "optim", "optim_args", "optim_target_modules",
    "metric_for_best_model", "greater_is_better",
    "dataloader_in_order", "dataloader_multiprocessing_context", "dataloader_num_workers", "dataloader_persistent_workers",
    "dataloader_pin_memory", "dataloader_prefetch_factor",
    "ddp_backend", "ddp_bucket_cap_mb", "ddp_timeout", "deepspeed", "fsdp", "fsdp_config", "full_determinism", "tf32",
    "torch_empty_cache_steps",
    "disable_tqdm", "log_level", "log_level_replica", "log_on_each_node", "logging_first_step", "logging_strategy",
    "project", "run_name", "trackio_bucket_id", "trackio_space_id", "trackio_static_space_id",
    "debug", "skip_memory_metrics", "save_on_each_node", "eval_delay", "eval_on_start",
    "hub_always_push", "hub_model_id", "hub_private_repo", "hub_revision", "hub_strategy", "hub_token", "push_to_hub",
)  # fmt: skip
"""Arguments that do in Trainer what transformers says they do."""

WITHOUT_EFFECT = (
    "batch_eval_metrics", "do_eval", "do_predict", "do_train", "eval_accumulation_steps", "eval_do_concat_batches",
    "eval_use_gather_object", "include_for_metrics", "length_column_name", "restore_callback_states_from_checkpoint",
)  # fmt: skip
"""Arguments of scripts and of Trainer's own evaluation, which are taken for the sake of recipes that have them."""


def is_switched_off(value: Any) -> bool:
    """Whether a value asks for nothing."""
    return not value or value == "no"


def argument_refusals(training: TrainingSection) -> Iterator[Refusal]:
    """What stands against the arguments of a recipe."""
    for name, value in training.arguments.items():
        field = f"training.{name}"
        if name in hints(TrainingSection):
            yield Refusal(f"training.arguments.{name}", f"give it one level up, as {field}")
        elif name in DECIDED:
            yield Refusal(field, f"diito decides this itself ({DECIDED[name]}); leave it out")
        elif places := [place for place, names in ELSEWHERE.items() if name in names]:
            yield Refusal(field, f"the recipe decides this elsewhere; use {places[0]} instead")
        elif name == "hub_token" and value:
            sentence = "a recipe is copied into the model card and holds no token; log in with `hf auth login` or set HF_TOKEN"
            yield Refusal(field, sentence)
        elif name not in transformers_arguments():
            near = difflib.get_close_matches(name, transformers_arguments(), n=1)
            hint = f"; did you mean {near[0]}?" if near else "; see transformers.TrainingArguments"
            yield Refusal(f"training.arguments.{name}", f"no such argument{hint}")
        elif name not in (*UNUSABLE, *PASSED_ON, *WITHOUT_EFFECT) and not is_switched_off(value):
            yield Refusal(field, "an argument of a newer transformers, which this version of diito does not know; leave it out")
    yield from unusable(training.arguments, prefix="training.")


def unusable(arguments: Mapping[str, Any], *, prefix: str) -> Iterator[Refusal]:
    """What cannot work among values of TrainingArguments, in a recipe or given in Python."""
    for name, reason in UNUSABLE.items():
        if name in arguments and not is_switched_off(arguments[name]):
            yield Refusal(prefix + name, f"does not work with distillation ({reason}); leave it out")
    for name in ("activation_checkpointing_kwargs", "gradient_checkpointing_kwargs"):
        if arguments.get(name) not in (None, {}, {"use_reentrant": False}):
            yield Refusal(prefix + name, "must be {use_reentrant: false} or left out; every layer is run again as it was run")
    if arguments.get("dataloader_in_order") is False:
        yield Refusal(prefix + "dataloader_in_order", "must be true; every draw is keyed by the number of the micro-batch")
    if arguments.get("dataloader_multiprocessing_context") not in (None, "fork"):
        yield Refusal(prefix + "dataloader_multiprocessing_context", "must be fork or left out; workers share the corpus")
