"""A teacher for generated data, from nothing: ``diito pretrain``.

1. a model of a family of transformers is made from its configuration, with drawn weights;
2. it is trained on all rows, the held-out ones too, by the cross-entropy of the answer, with ``transformers.Trainer``;
3. every so many steps its answers to all rows are counted, and it ends where it knows enough; a teacher that does not get there
   is refused, for what is distilled from it would say nothing of its task.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from diito.corpus import collate
from diito.evaluation.held_out.classification import predict
from diito.evaluation.held_out.text import HeldOut, at_slots
from diito.models.save import check_place, save
from diito.models.steps import accepted, logits_of
from diito.paths import expand
from diito.recipe import CorpusSection, SourceSection
from diito.refusal import Refusal
from diito.structured.folder import TOKENIZER, Generated
from diito.structured.settings import PretrainSettings
from diito.tasks import find_task
from diito.tasks.task import HeldOutBatching, Task

_SIZES = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128}
_CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {**_SIZES, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "llama": {**_SIZES, "num_key_value_heads": 4},
}
"""Of the families that are taken where none is named; others have their own defaults."""
_SOURCES: dict[str, dict[str, str]] = {
    "cloze": {"label": "answer"},
    "sequence-classification": {"column": "prompt", "label": "answer"},
    "causal-lm": {"prompt": "prompt", "column": "answer"},
}
"""The columns that each task reads."""
_WARMUP = 100
_POSITIONS, _SPARE = 32, 8
"""Positions at least, and beyond the longest row: some families count theirs from behind the padding's id."""
_ROWS_AT_A_TIME = 512


def pretrain(data: str, settings: PretrainSettings) -> Path:
    """Train a teacher on the generated folder ``data`` and save it; its folder. Raises Refusal."""
    generated = Generated.read(data, field="DATA")
    folder = expand(settings.output or f"models/{generated.path.resolve().name}", field="--output")
    check_place(folder, "--output")
    tokenizer = AutoTokenizer.from_pretrained(generated.path / TOKENIZER)
    task = find_task(settings.task)
    rows_file = generated.split("teacher", field="DATA")
    model = _new_model(settings, task, tokenizer, rows_file)
    task = task.of(model)
    source = SourceSection(path=str(rows_file), **_SOURCES[settings.task])
    section = CorpusSection(sources=[source], layout="lines", minimum_tokens=1)
    rows = task.load_rows(section, tokenizer=tokenizer, seed=settings.seed)
    batching = task.held_out_batching(tokenizer=tokenizer, vocab_size=len(tokenizer))
    assert batching is not None
    held_out = HeldOut(rows, batching, settings.seed, batch=_ROWS_AT_A_TIME)
    known = _train(model, held_out, settings)
    if not known.is_enough(settings):
        raise Refusal(
            "--steps",
            f"after {settings.steps} steps it answers {known.accuracy:.4f} of {len(rows):,} rows rightly (cross-entropy "
            f"{known.cross_entropy:.3f}), and {settings.accuracy} ({settings.cross_entropy}) is asked for; give more steps, a "
            "larger model, another learning rate, or ask for less",
        )
    save(model, tokenizer, folder)
    print(f"accuracy   {known.accuracy:.4f} of {len(rows):,} rows, cross-entropy {known.cross_entropy:.4f}")
    return folder


def _new_model(settings: PretrainSettings, task: Task, tokenizer: PreTrainedTokenizerBase, rows: Path) -> PreTrainedModel:
    """The model with weights drawn by the seed."""
    fields = dict(settings.config)
    family = fields.pop("model_type", "llama" if settings.task == "causal-lm" else "bert")
    lines = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    given = {
        **_CONFIGS.get(family, {}),
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "max_position_embeddings": max(_POSITIONS, *(len(line["text"].split()) + _SPARE for line in lines)),
        **fields,
    }
    if settings.task == "sequence-classification":
        names = sorted({line["answer"] for line in lines})
        given |= {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
    try:
        config = AutoConfig.for_model(family, **given)
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            return task.head.from_config(config)  # type: ignore[no-any-return]
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # whatever a family says of fields that do not fit
        raise Refusal("--config", f"no model can be made of it: {error}") from error


class _Known:
    """What a model knows of rows."""

    def __init__(self, model: PreTrainedModel, held_out: HeldOut) -> None:
        logits, labels = predict(model, held_out).known
        self.accuracy = float((logits.argmax(-1) == labels).mean())
        logs = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
        self.cross_entropy = float(-logs[np.arange(len(labels)), labels].mean())

    def is_enough(self, settings: PretrainSettings) -> bool:
        return self.accuracy >= settings.accuracy and self.cross_entropy <= settings.cross_entropy


class _Look(TrainerCallback):
    """Ends the training once the model knows enough."""

    def __init__(self, held_out: HeldOut, settings: PretrainSettings) -> None:
        self.held_out, self.settings = held_out, settings
        self.known: _Known | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, *, model: Any = None, **others: Any) -> None:
        if state.global_step % self.settings.check_every == 0 or state.global_step == state.max_steps:
            known = self.known = _Known(model, self.held_out)
            text = f"step {state.global_step}: accuracy {known.accuracy:.4f}, cross-entropy {known.cross_entropy:.4f}"
            print(text, file=sys.stderr, flush=True)
            control.should_training_stop |= known.is_enough(self.settings)


class _AnswerTrainer(Trainer):
    """The cross-entropy at the slots of a task's batches."""

    def compute_loss(self, model: Any, inputs: Mapping[str, Tensor], *arguments: Any, **keywords: Any) -> Any:
        logits = logits_of(model(**accepted(model, inputs)))
        labels = inputs["labels"][inputs["slots"] >= 0]
        return F.cross_entropy(at_slots(logits, inputs["slots"]) if logits.ndim == 3 else logits, labels)


def _train(model: PreTrainedModel, held_out: HeldOut, settings: PretrainSettings) -> _Known:
    rows: Any = held_out.corpus
    look = _Look(held_out, settings)
    with tempfile.TemporaryDirectory(prefix="diito-") as folder:  # nothing is saved there: save_strategy is "no"
        arguments = TrainingArguments(
            output_dir=folder,
            seed=settings.seed,
            max_steps=settings.steps,
            per_device_train_batch_size=settings.batch,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            max_grad_norm=1.0,
            lr_scheduler_type="linear",
            warmup_steps=min(_WARMUP, settings.steps // 2),
            remove_unused_columns=False,
            dataloader_pin_memory=torch.accelerator.is_available(),
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        collator = _Collator(held_out.batching)
        trainer = _AnswerTrainer(model, arguments, train_dataset=rows, data_collator=collator, callbacks=[look])
        trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(ProgressCallback)
        trainer.train()
    assert look.known is not None
    return look.known


class _Collator:
    """Rows to the task's batches."""

    def __init__(self, batching: HeldOutBatching) -> None:
        self.batching = batching

    def __call__(self, rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        numbers = list(range(len(rows)))
        return self.batching.examples(collate(rows, pad_token_id=self.batching.pad_token_id), seed=0, examples=numbers)
