"""Jobs that fine-tune: one for each task of a suite and seed.

Everything that can be refused is refused while the jobs are planned, before any work; the data of every task is read for it
already, so that a bad row shows at once.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import datasets
import torch

from diito.evaluation.fine_tuning.train import FineTuning, check_fit, fine_tune
from diito.evaluation.kind import Job, Result
from diito.evaluation.results import Measurement, ResultsFile, slug
from diito.evaluation.settings import FineTuningSettings
from diito.files import write_text
from diito.models import load as models
from diito.models.load import ModelSource
from diito.models.save import check_place
from diito.paths import expand
from diito.recipe.file import read_again
from diito.refusal import Refusal
from diito.suites.suite import Task

_GIVEN = ("epochs", "learning_rate", "batch", "length", "examples")
"""Settings that a task has values of its own for."""

Load = Callable[[], Task]
Suite = Callable[[Any], Sequence[Load]]
"""``suite(settings)``: for each task a function that loads it."""


def fine_tuning_jobs(
    kind: str,
    suite: Suite,
    settings: FineTuningSettings,
    source: ModelSource,
    *,
    device: str,
    results: ResultsFile | None = None,
) -> list[Job]:
    """A job for each task and seed."""
    jobs = []
    for load, tuning, identity in _planned(kind, suite, settings, source, device):
        task = identity["task"]
        save = None if settings.save is None else _saved(settings.save, f"{slug(source.name)}-{task}-{tuning.seed}")
        run = functools.partial(_run, load, source, tuning, device, save)
        title = f"{task}, seed {tuning.seed}"
        jobs.append(Job(identity, dataclasses.asdict(settings), title, source.name, run, leaves=save))
    return jobs


def fine_tuning_identity(
    kind: str, suite: Suite, settings: FineTuningSettings, source: ModelSource, *, depth: int | None = None
) -> dict[str, Any]:
    """What decides the result of the first task and seed."""
    _, _, identity = next(_planned(kind, suite, settings, source, "cpu"))
    return identity


def prediction_files(settings: FineTuningSettings, measurements: Sequence[Measurement], results: Path) -> Iterator[Path]:
    """Write each measurement's predictions on its first scored split beside the results: of SQuAD in its official format."""
    for each in measurements:
        name = f"{slug(each.model)}-{each.identity['kind']}-{each.identity['seed']}.json"
        predictions = next(iter(each.examples["predictions"].values()))
        write_text(results.with_name(name), json.dumps(predictions, ensure_ascii=False))
        yield results.with_name(name)


def _planned(
    kind: str, suite: Suite, settings: FineTuningSettings, source: ModelSource, device: str
) -> Iterator[tuple[Load, FineTuning, dict[str, Any]]]:
    """Each task with each seed: the function that loads it, how it is trained, and all that decides the result."""
    _check(settings)
    models.check_files(source)
    weights = models.digest(source)
    given: dict[str, Any] = {name: getattr(settings, name) for name in _GIVEN}
    longest = models.longest_sequence(source)
    precision = _precision(settings.precision, device)
    for load_all in suite(settings):
        load = functools.partial(_limited, load_all, settings.limit)
        task = load()
        data = {name: _rows_digest(rows) for name, rows in task.splits.items()}
        for seed in settings.seeds:
            tuning = FineTuning.for_task(task, seed, **given, precision=precision)
            if settings.length is None and longest is not None and longest < tuning.length:
                tuning = dataclasses.replace(tuning, length=longest)
                print(f"length: {longest} tokens, as {source.name} has positions for no more", file=sys.stderr, flush=True)
            check_fit(task, source, tuning.length)
            identity = {"kind": kind, "task": task.name, "model": weights, "data": data, **dataclasses.asdict(tuning)}
            yield load, tuning, identity


def _limited(load: Load, limit: int | None) -> Task:
    """A task whose scored splits have at most ``limit`` rows, spread evenly."""
    task = load()
    splits = dict(task.splits)
    for name, rows in task.splits.items():
        if name != "train" and limit is not None and limit < len(rows):
            splits[name] = rows.select([index * len(rows) // limit for index in range(limit)])
    return dataclasses.replace(task, splits=splits)


def _run(load: Load, source: ModelSource, tuning: FineTuning, device: str, save: Path | None) -> Result:
    task = load()
    tuned = fine_tune(task, source, tuning, device=device, save=save)
    result = {
        "headline": task.headline,
        "scores": {name: scores.metrics for name, scores in tuned.scores.items()},
        "baseline": tuned.baselines,
        "train_rows": tuned.train_rows,
        "of_train_rows": len(task.splits["train"]),
        "scored_rows": {name: len(task.splits[name]) for name in tuned.scores},
        "steps": tuned.steps,
        "train_loss": tuned.train_loss,
        "train_rows_per_second": tuned.train_rows_per_second,
        "predicted_features_per_second": tuned.predicted_features_per_second,
        "notes": list(task.notes),
    }
    return result, {"predictions": {name: scores.predictions for name, scores in tuned.scores.items()}}


def _check(settings: FineTuningSettings) -> None:
    read_again(settings)
    if not settings.seeds:
        raise Refusal("seeds", "the list is empty; give at least one, such as [42]")
    if len(set(settings.seeds)) < len(settings.seeds):
        raise Refusal("seeds", f"{settings.seeds} has a seed twice; give each once")


def _precision(wanted: Literal["auto", "fp32", "bf16"], device: str) -> Literal["fp32", "bf16"]:
    if wanted != "auto":
        return wanted
    return "bf16" if device == "auto" and torch.accelerator.is_available() else "fp32"


def _saved(folder: str, name: str) -> Path:
    """Where a fine-tuned model is saved. Raises Refusal for a folder that holds something else."""
    path = expand(folder, field="save") / name
    check_place(path, "save")
    return path


def _rows_digest(rows: datasets.Dataset) -> str:
    """A hash of the rows' content, wherever they came from."""
    total = hashlib.sha256()
    for batch in rows.iter(10_000):
        total.update(json.dumps(batch, sort_keys=True).encode())
    return total.hexdigest()[:32]
