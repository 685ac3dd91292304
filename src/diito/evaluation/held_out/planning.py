"""Held-out text as the model that is measured reads it, planned before anything is measured."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from diito.evaluation.held_out.text import HeldOut, held_out_layout
from diito.evaluation.settings import HeldOutSettings
from diito.models import load as models
from diito.models.load import ModelSource
from diito.models.teacher import check_tokenizer
from diito.recipe import CorpusSection
from diito.recipe.file import read_again
from diito.refusal import Refusal
from diito.tasks import DEFAULT, find_task, task_of
from diito.tasks.task import Task


@dataclass(frozen=True)
class PlannedText:
    """Held-out text as one model reads it."""

    task: Task
    examples: HeldOut
    tokenizer: PreTrainedTokenizerBase
    identity: dict[str, Any]
    """All that decides which words are masked, by what, and in which documents they stand."""


def plan_text(settings: HeldOutSettings, source: ModelSource, *beside: ModelSource) -> PlannedText:
    """The text in the model's own tokens, with what it predicts of it; the models ``beside`` read it too.

    Raises Refusal for what cannot be read or measured.
    """
    read_again(settings)
    if not settings.sources:
        raise Refusal("sources", "the list is empty; name held-out text, such as '[my-text.txt]'")
    task = task_to_measure(settings, source)
    task.check_sources(settings.sources, field="sources")
    check_model(source, task)
    length = _length(settings, source, *beside)
    if task.of_examples:  # labels are found among the model's classes, and slots where its head reads
        task = task.of(load_model(source, task))
    vocabulary = models.sizes_of(models.load_configuration(source), field=source.field).words
    tokenizer = models.load_tokenizer(source)
    check_tokenizer(tokenizer, source, vocabulary=vocabulary, field=source.field, needed=task.needed_tokens)
    batching = task.held_out_batching(tokenizer=tokenizer, vocab_size=vocabulary)
    if batching is None:
        raise Refusal("task", f"{task.name} has no held-out examples to measure on; give another task")
    layout = held_out_layout(settings.sources, settings.layout)
    section = CorpusSection(
        sources=settings.sources,
        layout=layout,
        length=length,
        assistant_only_loss=settings.assistant_only_loss,
        minimum_tokens=min(12, length),
        workers=settings.workers,
        cache=settings.cache,
    )
    try:
        corpus = task.load_rows(section, tokenizer=tokenizer, seed=0, field="evaluation")
    except Refusal as refusal:  # which names the fields of a recipe's section
        raise refusal.at(refusal.field.removeprefix("evaluation.")) from refusal
    for remark in corpus.remarks:
        print(f"sources: {remark}", file=sys.stderr, flush=True)
    examples = HeldOut(corpus, batching, settings.seed, settings.limit, settings.batch, task.reach)
    words = [sorted(tokenizer.get_vocab().items()), sorted(tokenizer.all_special_ids), vocabulary]
    identity = {
        "text": examples.digest(),
        "vocabulary": hashlib.sha256(json.dumps(words).encode()).hexdigest()[:32],
        "seed": settings.seed,
        "layout": layout,
        "length": length,
    }
    if task.name != find_task(DEFAULT).name:  # whose measurements of diito 0.1.0 do not say so
        identity["task"] = task.name
    return PlannedText(task, examples, tokenizer, identity)


def task_to_measure(settings: HeldOutSettings, source: ModelSource) -> Task:
    """The task that is named, or that the model was saved for."""
    return task_of(source) if settings.task is None else find_task(settings.task)


def _length(settings: HeldOutSettings, *sources: ModelSource) -> int:
    """The length that is given, or that of the kind, cut to what all the models have positions for."""
    length = settings.LENGTH if settings.length is None else settings.length
    for source in sources:
        longest = models.longest_sequence(source)
        if longest is not None and length > longest:
            if settings.length is not None:
                raise Refusal("length", f"{length} tokens, but {source.name} has positions for {longest}; give fewer")
            length = longest
            print(f"length: {length} tokens, as {source.name} has positions for no more", file=sys.stderr, flush=True)
    return length


def check_teacher(source: ModelSource, text: PlannedText, teacher: ModelSource) -> None:
    check_model(teacher, text.task)
    if text.tokenizer.get_vocab() != models.load_tokenizer(teacher).get_vocab():
        raise Refusal(
            "teacher",
            f"{teacher.name!r} has another vocabulary than {source.name!r}; interchange needs a student and a teacher that "
            "read and predict the same words",
        )
    words = models.sizes_of(models.load_configuration(teacher), field=teacher.field).words
    check_tokenizer(text.tokenizer, teacher, vocabulary=words, field="teacher", needed=text.task.needed_tokens)


def names_of(source: ModelSource, *teacher: ModelSource) -> list[str]:
    """What results call the measured model and the teacher beside it, if any: their names, which are told apart where both
    have the same one, as two revisions of a model do."""
    return [source.name, *(f"{each.name} (teacher)" if each.name == source.name else each.name for each in teacher)]


def device_of(wanted: str) -> torch.device:
    if wanted == "cpu" or not torch.accelerator.is_available():
        return torch.device("cpu")
    return torch.accelerator.current_accelerator()  # type: ignore[return-value]


def check_model(source: ModelSource, task: Task) -> None:
    """Refuse (ValueError), from its files alone, a model without configuration, tokenizer, weights or the task's head."""
    models.check_files(source)
    models.check_trained(source, task.head, noun=task.noun)


def load_model(source: ModelSource, task: Task) -> PreTrainedModel:
    """The model with the head of the task, in fp32 and eval mode."""
    return models.load_trained(source, task.head, noun=task.noun)
