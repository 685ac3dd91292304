"""The section of a recipe about training, and the names of transformers.TrainingArguments, any of which can stand in it."""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from diito.recipe.fields import FREE, FREE_ARGUMENTS, AboveZero, Alias, Aliased, BelowOne, Count, CountOrNever, NotNegative


@dataclass
class TrainingSection(Aliased):
    """Steps, batches, optimiser and device, by the names of transformers.TrainingArguments, of which any other field can stand
    here too."""

    num_train_epochs: AboveZero = 3.0
    """Passes over the corpus; ``max_steps`` wins where given."""
    max_steps: Count | None = None
    """Optimiser steps."""
    per_device_train_batch_size: Count = 40
    """Sequences of a micro-batch on one device."""
    gradient_accumulation_steps: Count = 6
    """Micro-batches an optimiser step."""
    learning_rate: AboveZero = 5e-4
    """Highest learning rate of AdamW, reached at the end of the warm-up."""
    adam_beta1: BelowOne = 0.9
    """AdamW's decay rate of the gradient's mean."""
    adam_beta2: BelowOne = 0.98
    """AdamW's decay rate of the gradient's square."""
    adam_epsilon: AboveZero = 1e-6
    """AdamW's epsilon."""
    weight_decay: NotNegative = 0.0
    """AdamW's weight decay."""
    warmup_ratio: BelowOne = 0.05
    """Share of the steps with a rising learning rate; it then falls linearly to 0."""
    warmup_steps: NotNegative | None = None
    """Steps with a rising learning rate, in place of ``warmup_ratio``."""
    max_grad_norm: NotNegative = 5.0
    """Largest gradient norm; 0 does not clip."""
    use_cpu: bool = False
    """true stays on the CPU even where there is an accelerator."""
    logging_steps: Count = field(default=10, metadata=FREE)
    """Steps between lines of metrics.jsonl."""
    save_steps: Count = field(default=500, metadata=FREE)
    """Steps between checkpoints; one is always written at the end."""
    save_total_limit: Count = field(default=2, metadata=FREE)
    """Checkpoints kept."""
    eval_steps: CountOrNever = field(default=0, metadata=FREE)
    """Steps between evaluations; 0 evaluates before and after training only."""
    report_to: list[str] = field(default_factory=list, metadata=FREE)
    """Loggers of Trainer, e.g. [tensorboard, wandb, mlflow]: every number of metrics.jsonl, and the maps that an alignment is
    chosen from (alignment.kind: learned) as pictures. TensorBoard's files lie in the run's checkpoints/runs/."""
    arguments: dict[str, Any] = field(default_factory=dict, metadata=FREE_ARGUMENTS)
    """Further fields of transformers.TrainingArguments as a section of their own, e.g. {push_to_hub: true}."""

    ALIASES: ClassVar[Mapping[str, Alias]] = {
        "epochs": Alias(("num_train_epochs",)),
        "steps": Alias(("max_steps",)),
        "batch": Alias(("per_device_train_batch_size",)),
        "accumulation": Alias(("gradient_accumulation_steps",)),
        "betas": Alias(("adam_beta1", "adam_beta2")),
        "epsilon": Alias(("adam_epsilon",)),
        "warmup": Alias(("warmup_ratio",)),
        "clip": Alias(("max_grad_norm",)),
        "device": Alias(("use_cpu",), {"auto": False, "cpu": True}),
        "log_every": Alias(("logging_steps",)),
        "save_every": Alias(("save_steps",)),
        "keep": Alias(("save_total_limit",)),
        "evaluate_every": Alias(("eval_steps",)),
    }
    """The names of diito 0.1.0, which go on working in recipes and flags."""
    REST: ClassVar[str] = "arguments"

    @classmethod
    def takes(cls, name: str) -> bool:
        """Whether ``name`` is a field of transformers.TrainingArguments."""
        return name in transformers_arguments()


@functools.cache
def transformers_arguments() -> tuple[str, ...]:
    """The fields of transformers.TrainingArguments, read from its source: importing it would bring torch."""
    package = importlib.util.find_spec("transformers")
    assert package is not None and package.origin is not None
    module = ast.parse(Path(package.origin).with_name("training_args.py").read_text(encoding="utf-8"))
    classes = [node for node in module.body if isinstance(node, ast.ClassDef) and node.name == "TrainingArguments"]
    fields = [node.target for node in classes[0].body if isinstance(node, ast.AnnAssign)]
    return tuple(target.id for target in fields if isinstance(target, ast.Name))
