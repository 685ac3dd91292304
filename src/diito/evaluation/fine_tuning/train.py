"""Fine-tuning on a task with transformers' Trainer, the same for every task.

1. the model gets the task's head, its random weights drawn by the seed;
2. rows become features, padded to the longest of a batch only, batches grouped by length;
3. linear decay without warm-up, AdamW without weight decay, clipping at 1, the last epoch's weights;
4. every scored split is predicted in order of length and scored by the task.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import TrainOutput

from diito.method.draws import host_random
from diito.models.load import ModelSource, check_head, load_head, load_tokenizer, longest_sequence
from diito.models.padding import reads_padding
from diito.models.save import save as save_model
from diito.refusal import Refusal
from diito.speed.dropout import use_fast_dropout
from diito.suites.suite import Scores, Task


@dataclass(frozen=True)
class FineTuning:
    """How a task is fine-tuned."""

    seed: int
    learning_rate: float
    batch: int
    epochs: float
    length: int
    examples: int | None
    """Training rows that are used, a subset drawn by the seed 0 whatever ``seed`` is; None takes all."""
    precision: Literal["fp32", "bf16"]

    @classmethod
    def for_task(
        cls,
        task: Task,
        seed: int,
        *,
        learning_rate: float | None = None,
        batch: int | None = None,
        epochs: float | None = None,
        length: int | None = None,
        examples: int | None = None,
        precision: Literal["fp32", "bf16"] = "fp32",
    ) -> FineTuning:
        """The task's own values where nothing else is given."""
        return cls(
            seed=seed,
            learning_rate=task.learning_rate if learning_rate is None else learning_rate,
            batch=task.batch if batch is None else batch,
            epochs=task.epochs if epochs is None else epochs,
            length=task.length if length is None else length,
            examples=None if examples is None or examples >= len(task.splits["train"]) else examples,
            precision=precision,
        )


@dataclass(frozen=True)
class FineTuned:
    """What came of one fine-tuning."""

    scores: dict[str, Scores]
    """By scored split."""
    baselines: dict[str, dict[str, float | None]]
    train_rows: int
    steps: int
    train_loss: float
    """Mean over the whole training."""
    train_rows_per_second: float
    predicted_features_per_second: float


def fine_tune(
    task: Task, source: ModelSource, tuning: FineTuning, *, device: str = "auto", save: str | Path | None = None
) -> FineTuned:
    """Fine-tune a model on ``task`` and score it.

    ``device``: auto or cpu. ``save``: folder for the fine-tuned model and its tokenizer. The global random state is put back
    (torch's). Raises ValueError for a model without the needed files or with another label set, and for a length that the
    model has no positions for; FloatingPointError where training diverged.
    """
    check_fit(task, source, tuning.length)
    with torch.random.fork_rng():
        set_seed(tuning.seed)
        tokenizer = load_tokenizer(source)
        tokenizer.padding_side = "right"
        model = load_head(source, task.head, task.labels, **task.head_arguments)
        train_rows = chosen_rows(task.splits["train"], tuning.examples)
        trained, seconds = _train(task, model, tokenizer, encode(task, train_rows, tokenizer, tuning.length), tuning, device)
    scores, predicted, predicting = {}, 0, 0.0
    for name, rows in task.splits.items():
        if name == "train":
            continue
        features = encode(task, rows, tokenizer, tuning.length)
        start = time.perf_counter()
        logits = predict(task, model, features, tokenizer, batch=2 * tuning.batch, precision=tuning.precision)
        predicting += time.perf_counter() - start
        predicted += len(features)
        scores[name] = task.score(rows, features, logits)
    if save is not None:
        save_model(model, tokenizer, Path(save))
    return FineTuned(
        scores=scores,
        baselines={name: task.baseline(task.splits["train"], task.splits[name]) for name in scores},
        train_rows=len(train_rows),
        steps=trained.global_step,
        train_loss=trained.training_loss,
        train_rows_per_second=len(train_rows) * tuning.epochs / seconds,
        predicted_features_per_second=predicted / predicting,
    )


def check_fit(task: Task, source: ModelSource, length: int) -> None:
    """Refuse, before any work, a length that the model has no positions for, and another head (Refusal)."""
    longest = longest_sequence(source)
    if longest is not None and length > longest:
        raise Refusal(
            "length", f"{length} tokens, but {source.name} has positions for {longest}; give at most {longest} for {task.name}"
        )
    check_head(source, task.head, task.outputs, task.labels)
    if load_tokenizer(source).pad_token_id is None:
        raise Refusal(source.field, f"the tokenizer of {source.name!r} has no padding token, which batches need")


def chosen_rows(rows: datasets.Dataset, count: int | None) -> datasets.Dataset:
    """``count`` of the rows, the same ones for every model and seed."""
    if count is None or count >= len(rows):
        return rows
    return rows.select(sorted(host_random("fine-tuning rows", 0).sample(range(len(rows)), count)))


def encode(task: Task, rows: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, length: int) -> datasets.Dataset:
    """Rows to features, with the number of their tokens in ``length``."""

    def convert(batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        features = task.encode(batch, tokenizer, length)
        return {**features, "length": [len(ids) for ids in features["input_ids"]]}

    return rows.map(
        convert,
        batched=True,
        remove_columns=rows.column_names,
        load_from_cache_file=False,
        keep_in_memory=True,
        desc=f"{task.name}: tokenising",
    )


@torch.no_grad()
def predict(
    task: Task,
    model: PreTrainedModel,
    features: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch: int,
    precision: Literal["fp32", "bf16"] = "fp32",
) -> list[NDArray[np.float32]]:
    """The logits of every feature in fp32, padding cut off; features of a length go together, so little is padded, and nothing
    for a model whose answers it would move."""
    model.eval()
    collate = task.collator(tokenizer)
    lengths = np.asarray(features["length"])
    order = np.argsort(-lengths, kind="stable")
    inputs = features.select_columns([name for name in task.model_inputs if name in features.column_names])
    logits: list[NDArray[np.float32]] = [np.empty(0, dtype=np.float32)] * len(features)

    def answers(chosen: Sequence[int]) -> Tensor:
        rows = inputs[list(chosen)]
        examples = [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
        padded = {name: value.to(model.device) for name, value in collate(examples).items()}
        return task.logits(model(**padded))

    if reads_padding(model, answers, lengths):
        batch = 1
    for start in tqdm(range(0, len(order), batch), desc=f"{task.name}: predicting", unit=" batches", disable=None):
        chosen = order[start : start + batch].tolist()
        with torch.autocast(model.device.type, torch.bfloat16, enabled=precision == "bf16"):
            output = answers(chosen).float().cpu().numpy()
        for index, values in zip(chosen, output, strict=True):
            own = values[: lengths[index]] if output.ndim == 3 else values  # a logit a token: without the padding
            if not np.isfinite(own).all():
                raise FloatingPointError(f"{task.name}: the fine-tuned model's logits are not finite; lower the learning rate")
            logits[index] = own
    return logits


def _train(
    task: Task,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train: datasets.Dataset,
    tuning: FineTuning,
    device: str,
) -> tuple[TrainOutput, float]:
    """What Trainer says of the training, and the seconds that it took."""
    has_accelerator = device == "auto" and torch.accelerator.is_available()
    with tempfile.TemporaryDirectory(prefix="diito-") as folder:  # nothing is saved there: save_strategy is "no"
        arguments = TrainingArguments(
            output_dir=folder,
            seed=tuning.seed,
            num_train_epochs=tuning.epochs,
            per_device_train_batch_size=tuning.batch,
            learning_rate=tuning.learning_rate,
            weight_decay=0.0,
            max_grad_norm=1.0,
            lr_scheduler_type="linear",
            warmup_steps=0,
            bf16=tuning.precision == "bf16",
            use_cpu=not has_accelerator,
            dataloader_pin_memory=has_accelerator,
            train_sampling_strategy="group_by_length",
            length_column_name="length",
            save_strategy="no",
            logging_strategy="no",
            logging_nan_inf_filter=False,  # it would hide a loss that is not finite
            report_to="none",
            disable_tqdm=not sys.stderr.isatty(),
        )
        arguments._n_gpu = min(arguments.n_gpu, 1)  # one model on one device: DataParallel would change the batch
        if not has_accelerator:
            use_fast_dropout(model)
        trainer = Trainer(model, arguments, train_dataset=train, data_collator=task.collator(tokenizer))
        trainer.remove_callback(PrinterCallback if arguments.disable_tqdm else ProgressCallback)
        if not arguments.disable_tqdm:
            trainer.add_callback(_Bar())
        start = time.perf_counter()
        trained = trainer.train()
        seconds = time.perf_counter() - start
    if not math.isfinite(trained.training_loss):
        raise FloatingPointError(f"{task.name}: the training loss is not finite; lower the learning rate")
    return trained, seconds


class _Bar(ProgressCallback):
    """Trainer's progress bar, without the summary that Trainer would print."""

    def on_log(self, *arguments: Any, **keywords: Any) -> None:
        pass
