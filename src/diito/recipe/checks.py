"""What can be refused from the recipe alone, before a model, a corpus or torch is loaded.

:func:`check` goes through the sections in the order of the recipe and raises ValueError at the first value that no
model or corpus could make right: one sentence that names the field and what would be right. Fields that need more than
the recipe (layers the teacher does not have, a corpus that is not there) are checked where that is known.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import math
import os
from collections.abc import Sequence
from typing import NoReturn

from diito.recipe.sections import (
    RELEASED_LAYERS,
    AlignedPairSection,
    AlignmentSection,
    CorpusSection,
    DimensionRange,
    EvaluationSection,
    Recipe,
    SourceSection,
    TrainingSection,
)

SHORTEST = 3
"""Tokens of the shortest useful sequence: [CLS], one word, [SEP]."""

_DECIDED = {
    "name and output": ("output_dir",),
    "seed": ("seed", "data_seed"),
    "training.epochs": ("num_train_epochs",),
    "training.steps": ("max_steps",),
    "training.batch": ("per_device_train_batch_size", "train_batch_size"),
    "training.accumulation": ("gradient_accumulation_steps",),
    "training.learning_rate": ("learning_rate",),
    "training.betas": ("adam_beta1", "adam_beta2"),
    "training.epsilon": ("adam_epsilon",),
    "training.weight_decay": ("weight_decay",),
    "training.warmup": ("warmup_steps", "warmup_ratio"),
    "training.clip": ("max_grad_norm",),
    "speed.precision": ("bf16", "fp16", "bf16_full_eval", "fp16_full_eval"),
    "training.device": ("use_cpu", "no_cuda"),
    "speed.compile": ("torch_compile", "torch_compile_backend", "torch_compile_mode"),
    "training.log_every": ("logging_steps", "logging_strategy"),
    "training.save_every": ("save_steps", "save_strategy"),
    "training.keep": ("save_total_limit",),
    "training.evaluate_every": ("eval_steps", "eval_strategy", "eval_on_start", "do_eval"),
    "training.report_to": ("report_to",),
    "evaluation.batch": ("per_device_eval_batch_size", "eval_batch_size"),
    "corpus.layout": ("group_by_length", "length_column_name", "train_sampling_strategy", "dataloader_drop_last"),
    "the flag --resume": ("resume_from_checkpoint", "ignore_data_skip"),
    "the flag --overwrite": ("overwrite_output_dir",),
}
"""Recipe field -> the arguments of transformers.TrainingArguments that it decides."""

_OURS = (
    "auto_find_batch_size",
    "average_tokens_across_devices",
    "do_predict",
    "do_train",
    "include_for_metrics",
    "label_names",
    "label_smoothing_factor",
    "load_best_model_at_end",
    "prediction_loss_only",
    "remove_unused_columns",
    "save_only_model",
)
"""Arguments that diito sets because the method or the checkpoints depend on them; no recipe field changes them."""


def check(recipe: Recipe) -> None:
    """Raise ValueError, one sentence naming the field, if something in the recipe can never be right."""
    _check_run(recipe)
    _check_student(recipe)
    _check_corpus(recipe.corpus)
    _share("masking.rate", recipe.masking.rate)
    _not_negative("masking.smoothing", recipe.masking.smoothing)
    check_alignment(recipe.alignment, student_depth(recipe))
    _check_intervention(recipe)
    _check_objective(recipe)
    _check_training(recipe.training)
    _check_pairing(recipe)
    _check_arguments(recipe.training)
    _check_evaluation(recipe.evaluation)


def student_depth(recipe: Recipe) -> int:
    """The number of layers of the student."""
    layers = recipe.student.layers
    if isinstance(layers, str):
        return len(RELEASED_LAYERS[layers])
    return layers if isinstance(layers, int) else len(layers)


def is_causal(recipe: Recipe) -> bool:
    """Whether a causal loss has a weight, so that counterfactual runs are made."""
    return recipe.objective.weights.causal_ce > 0 or recipe.objective.weights.causal_cos > 0


def _check_run(recipe: Recipe) -> None:
    name = recipe.name
    if name.strip() != name or name in ("", ".", "..") or any(mark in name for mark in "/\\\0"):
        _refuse("name", repr(name), "must be the plain name of a folder, such as my-run")
    _text("output", recipe.output)
    if not 0 <= recipe.seed < 2**32:
        _refuse("seed", recipe.seed, "must be at least 0 and below 2**32")
    _text("teacher.model", recipe.teacher.model)


def _check_student(recipe: Recipe) -> None:
    layers, field = recipe.student.layers, "student.layers"
    if isinstance(layers, str):
        if layers not in RELEASED_LAYERS:
            near = difflib.get_close_matches(layers, RELEASED_LAYERS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            known = ", ".join(RELEASED_LAYERS)
            _refuse(field, repr(layers), f"is not a number of layers, a list of teacher layers or one of {known}{hint}")
    elif isinstance(layers, int):
        _at_least(field, layers, 1)
    else:
        _layer_list(field, layers)
    dropout = recipe.student.dropout
    if dropout is not None and not 0 <= dropout < 1:
        _refuse("student.dropout", dropout, "must be at least 0 and below 1")


def _check_corpus(corpus: CorpusSection) -> None:
    if not corpus.sources:
        raise ValueError("corpus.sources: the list is empty; name at least one source, such as [my-text.txt]")
    _check_sources("corpus.sources", corpus.sources)
    if corpus.length is not None:
        _at_least("corpus.length", corpus.length, SHORTEST)
    _share("corpus.share", corpus.share)
    _at_least("corpus.minimum_tokens", corpus.minimum_tokens, 0)
    longest = corpus.length or 512
    if corpus.layout == "lines" and corpus.minimum_tokens > longest:
        _refuse("corpus.minimum_tokens", corpus.minimum_tokens, f"must be at most corpus.length, {longest}")
    _share("corpus.maximum_unknown", corpus.maximum_unknown)
    _at_least("corpus.workers", corpus.workers, 1)


def _check_sources(field: str, sources: Sequence[SourceSection | str]) -> None:
    for index, source in enumerate(sources):
        place = f"{field}[{index}]"
        if isinstance(source, str):
            _text(place, source)
        elif bool(source.path) == bool(source.dataset):
            raise ValueError(f"{place}: give exactly one of path (local text) and dataset (a hub id)")
        elif source.path and (source.config or source.revision):
            given = "config" if source.config else "revision"
            raise ValueError(f"{place}.{given}: belongs to a hub dataset; leave it out where path is given")


def check_alignment(alignment: AlignmentSection, depth: int) -> None:
    """The same for the section ``alignment`` alone, with a student of ``depth`` layers."""
    kind = alignment.kind
    if kind == "custom":
        _check_custom(alignment, depth)
        return
    for given in ("pairs", "file"):
        if getattr(alignment, given) is not None:
            raise ValueError(f"alignment.{given}: belongs to alignment.kind custom, and the kind is {kind}")
    needed = {"late": 2, "late-released": 3}.get(kind, 1)
    if depth < needed:
        raise ValueError(f"alignment.kind: {kind} needs at least {needed} student layers; student.layers gives {depth}")
    if not alignment.top and (depth == 1 or (kind == "middle" and depth == 2)):
        raise ValueError(f"alignment.top: must be true; {kind} has no pair below the top of {depth} layers")


def _check_custom(alignment: AlignmentSection, depth: int) -> None:
    if (alignment.pairs is None) == (alignment.file is None):
        raise ValueError("alignment.kind: custom needs exactly one of alignment.pairs and alignment.file")
    if alignment.file is not None and not os.path.isfile(alignment.file):
        _refuse("alignment.file", repr(alignment.file), "is not a file; give the path of a .nm or .yaml file")
    if alignment.pairs is not None and not alignment.pairs:
        raise ValueError("alignment.pairs: the list is empty; give at least one pair {student: [...], teacher: [...]}")
    for index, pair in enumerate(alignment.pairs or []):
        _check_pair(f"alignment.pairs[{index}]", pair, depth)


def _check_pair(place: str, pair: AlignedPairSection, depth: int) -> None:
    _layer_list(f"{place}.student", pair.student)
    _layer_list(f"{place}.teacher", pair.teacher)
    if pair.student[-1] >= depth:
        _refuse(f"{place}.student", pair.student, f"must stay within the student's layers, 0 to {depth - 1}")
    _ranges(f"{place}.student_dimensions", pair.student_dimensions)
    _ranges(f"{place}.teacher_dimensions", pair.teacher_dimensions)


def _ranges(field: str, ranges: Sequence[DimensionRange] | None) -> None:
    if ranges is None:
        return
    if not ranges:
        raise ValueError(f"{field}: the list is empty; give ranges [start, stop], or null for the whole hidden state")
    for start, stop in ranges:
        if not 0 <= start < stop:
            _refuse(field, [start, stop], "must be a range [start, stop] with 0 <= start < stop")


def _check_intervention(recipe: Recipe) -> None:
    _share("intervention.share", recipe.intervention.share)
    if recipe.intervention.control != "token-swap":
        return
    if not is_causal(recipe):
        raise ValueError(
            "intervention.control: token-swap needs objective.weights.causal_ce or causal_cos above 0, "
            "the weights of the losses on the swapped text"
        )
    if recipe.alignment.shuffled:
        raise ValueError("alignment.shuffled: must be false with the control token-swap, which needs no alignment")


def _check_objective(recipe: Recipe) -> None:
    weights = dataclasses.asdict(recipe.objective.weights)
    for name, weight in weights.items():
        _not_negative(f"objective.weights.{name}", weight)
    if not any(weights.values()):
        raise ValueError("objective.weights: all weights are 0; at least one must be above 0")
    _above_zero("objective.temperature", recipe.objective.temperature)


def _check_training(training: TrainingSection) -> None:
    _above_zero("training.epochs", training.epochs)
    if training.steps is not None:
        _at_least("training.steps", training.steps, 1)
    for name in ("batch", "accumulation", "log_every", "save_every", "keep"):
        _at_least(f"training.{name}", getattr(training, name), 1)
    _at_least("training.evaluate_every", training.evaluate_every, 0)
    _above_zero("training.learning_rate", training.learning_rate)
    for index, beta in enumerate(training.betas):
        if not 0 <= beta < 1:
            _refuse(f"training.betas[{index}]", beta, "must be at least 0 and below 1")
    _above_zero("training.epsilon", training.epsilon)
    _not_negative("training.weight_decay", training.weight_decay)
    if not 0 <= training.warmup < 1:
        _refuse("training.warmup", training.warmup, "must be at least 0 and below 1")
    _not_negative("training.clip", training.clip)


def _check_pairing(recipe: Recipe) -> None:
    if recipe.training.batch == 1 and recipe.intervention.pairing == "in-batch" and is_causal(recipe):
        raise ValueError(
            "training.batch: in-batch pairing needs at least 2 rows, so that a row has another as its source; "
            "raise it, or set intervention.pairing to independent"
        )


def _check_arguments(training: TrainingSection) -> None:
    for argument in training.arguments:
        for field, arguments in _DECIDED.items():
            if argument in arguments:
                raise ValueError(f"training.arguments.{argument}: the recipe decides this; use {field} instead")
        if argument in _OURS:
            raise ValueError(f"training.arguments.{argument}: diito decides this itself; leave it out")


def _check_evaluation(evaluation: EvaluationSection) -> None:
    _check_sources("evaluation.sources", evaluation.sources or [])
    if evaluation.length is not None:
        _at_least("evaluation.length", evaluation.length, SHORTEST)
    if evaluation.blocks is not None:
        _at_least("evaluation.blocks", evaluation.blocks, 1)
    _at_least("evaluation.batch", evaluation.batch, 1)
    _at_least("evaluation.interchange_every", evaluation.interchange_every, 0)
    if evaluation.interchange_every and evaluation.sources == []:
        raise ValueError("evaluation.interchange_every: needs held-out text; name some in evaluation.sources")


def _refuse(field: str, value: object, right: str) -> NoReturn:
    raise ValueError(f"{field}: {value} {right}")


def _text(field: str, value: str) -> None:
    if not value.strip():
        raise ValueError(f"{field}: the text is empty")


def _at_least(field: str, value: int, least: int) -> None:
    if value < least:
        _refuse(field, value, f"must be at least {least}")


def _share(field: str, value: float) -> None:
    if not 0 < value <= 1:
        _refuse(field, value, "must be above 0 and at most 1")


def _above_zero(field: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        _refuse(field, value, "must be a finite number above 0")


def _not_negative(field: str, value: float) -> None:
    if not (value >= 0 and math.isfinite(value)):
        _refuse(field, value, "must be a finite number of at least 0")


def _layer_list(field: str, layers: Sequence[int]) -> None:
    increasing = all(below < above for below, above in itertools.pairwise(layers))
    if not layers or layers[0] < 0 or not increasing:
        _refuse(field, layers, "must be a list of layers that increase, counted from 0")
