"""``diito cache``: run the teacher of a recipe once over all its micro-batches, and keep its answers.

1. the recipe's parts are made as ``diito distill`` makes them;
2. every draw is a function of seed and step, so rows, masks and swaps are those that a run of the recipe will have;
3. shards that are there already are not made again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainingArguments

from diito.locks import Held, hold
from diito.method.rows import Needs
from diito.method.runs import LiveTeacher
from diito.paths import expand
from diito.progress import bar, bars
from diito.recipe import Recipe
from diito.refusal import Refusal
from diito.run.manifest import answers_manifest
from diito.run.parts import Parts, as_run, build_trainer, load, survey
from diito.run.plan import Plan
from diito.speed.process import keep_freed_memory
from diito.training.arguments import training_arguments
from diito.training.cached_teacher import CachedTeacher, WritingTeacher
from diito.training.teacher_cache import FIELD, TeacherCache
from diito.training.trainer import DistillationTrainer


def cache(recipe: Recipe, folder: Path) -> int:
    """Write the answers of the recipe's teacher into ``folder``; the exit code. Raises ValueError, naming the field."""
    arguments = training_arguments(recipe, output_dir=str(folder))
    parts = load(survey(as_run(recipe, arguments)), arguments)
    check_cacheable(parts)
    main = arguments.process_index == 0
    if main:
        print(parts.plan, flush=True)
    keep_freed_memory()
    held = TeacherCache(folder, arguments.process_index)
    try:
        with hold(folder / f".rank-{arguments.process_index}.lock"):
            seconds, tokens = _write(held, parts, arguments)
    except Held as error:
        raise Refusal(FIELD, f"{folder} is being written by {error}; wait for it") from error
    if main:
        size, count = held.content["bytes"], held.content["micro_batches"]
        total = count * parts.plan.recipe.training.batch * parts.plan.corpus.statistics.mean_length
        print(
            f"written    {folder}: {count:,} micro-batches, {size / 1e6:,.1f} MB, {size / total:,.0f} bytes a token; "
            f"{tokens:,} tokens in {seconds:,.0f} s\n"
            f"           diito distill RECIPE --teacher.cache {folder}"
        )
    return 0


def check_cacheable(parts: Parts) -> None:
    """Refuse what a cache of predictions cannot give."""
    for name, loss in parts.plan.losses.items():
        if Needs.of([loss]).teacher:
            sentence = f"reads what the teacher's layers hold, and {FIELD} keeps predictions alone; leave one of them out"
            raise Refusal(f"objective.weights.{name}", sentence)
    if parts.plan.recipe.alignment.kind == "learned":
        raise Refusal("alignment.kind", f"learned is not known before the run, as {FIELD} needs it; give another")


def check_cache(parts: Parts, arguments: TrainingArguments) -> None:
    """Refuse a cache that the recipe names and that was made for anything else, is too short or is not whole."""
    folder = parts.plan.recipe.teacher.cache
    if folder is None:
        return
    check_cacheable(parts)
    cache = TeacherCache(expand(folder, field=FIELD), arguments.process_index)
    cache.check(answers_manifest(parts, processes=arguments.world_size), micro_batches(parts.plan))


def use_cache(trainer: DistillationTrainer, recipe: Recipe) -> None:
    """Have the trainer's teacher answer from the cache that the recipe names, where it names one."""
    if recipe.teacher.cache is not None:
        cache = TeacherCache(expand(recipe.teacher.cache, field=FIELD), trainer.args.process_index)
        objective = trainer.objective
        objective.take_teacher(CachedTeacher(LiveTeacher(objective.teacher), cache))


def micro_batches(plan: Plan) -> int:
    """Micro-batches of a run on each process."""
    training = plan.recipe.training
    in_an_epoch = len(plan.corpus) // (training.batch * plan.processes)
    epochs, steps = divmod(plan.steps, plan.steps_per_epoch)
    return epochs * in_an_epoch + min(steps * training.accumulation, in_an_epoch)


def _write(cache: TeacherCache, parts: Parts, arguments: TrainingArguments) -> tuple[float, int]:
    """Ask the teacher what is missing; the seconds that it took, and the tokens."""
    decides = answers_manifest(parts, processes=arguments.world_size)
    trainer = build_trainer(parts.plan.recipe, parts, arguments)
    objective = trainer.objective
    began, tokens = time.perf_counter(), 0
    count = micro_batches(parts.plan)
    writer = cache.writer(decides, count)
    objective.take_teacher(WritingTeacher(LiveTeacher(objective.teacher), writer))
    missing, done = _batches(trainer, writer.next_step, count), min(count, writer.next_step)
    with bars(), torch.no_grad(), trainer.accelerator.autocast():
        for step, inputs in bar(missing, "answers", "micro-batches", total=count, done=done):
            objective.teacher_runs(trainer.batch(inputs, step), step=step)
            tokens += inputs["input_ids"].numel()
    writer.flush()
    return time.perf_counter() - began, tokens


def _batches(trainer: DistillationTrainer, start: int, stop: int) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """The micro-batches ``start`` to ``stop`` in the order of training, on its device."""
    loader: Any = trainer.get_train_dataloader()
    length = len(loader)
    for epoch in range(start // length, -(-stop // length)):
        trainer.sampler.set_epoch(epoch)
        loader.set_epoch(epoch)
        for step, inputs in enumerate(loader, start=epoch * length):
            if step >= stop:
                return
            if step >= start:
                yield step, trainer._prepare_inputs(inputs)
