"""Jobs: what is going to be measured, one entry of the results file each; and those that fine-tune.

Everything that can be refused is refused while the jobs are made, before any work.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import datasets
import torch

from diito.evaluation.fine_tuning.train import FineTuning, check_fit, fine_tune
from diito.evaluation.settings import FineTuningSettings, GlueSettings
from diito.files import check_writable
from diito.models import load as models
from diito.models.load import ModelSource
from diito.suites.data import has_file
from diito.suites.glue import TASKS, glue_task
from diito.suites.ner import ner_task
from diito.suites.squad import squad_task
from diito.suites.suite import Task

_GIVEN = ("epochs", "learning_rate", "batch", "length", "examples")
"""Settings that a task has values of its own for."""


@dataclass(frozen=True)
class Job:
    """One measurement to make."""

    identity: dict[str, Any]
    settings: dict[str, Any]
    title: str
    """What it is, for the reader of the screen."""
    model: str
    run: Callable[[], tuple[dict[str, Any], dict[str, Any]]]
    """Makes the figures, and the counts or predictions of single examples."""
    leaves: Path | None = None
    """A folder that it also makes; without it the job is run although its measurement is there."""


def fine_tuning_jobs(kind: str, settings: FineTuningSettings, source: ModelSource, *, device: str) -> list[Job]:
    """A job for each task and seed. The data of every task is read here already, so that a bad row shows at once."""
    _check_fine_tuning(settings)
    models.check_files(source)
    weights = models.digest(source)
    given: dict[str, Any] = {name: getattr(settings, name) for name in _GIVEN}
    jobs = []
    for load in _tasks(kind, settings):
        task = load()
        data = {name: _rows_digest(rows) for name, rows in task.splits.items()}
        for seed in settings.seeds:
            how = FineTuning.for_task(task, seed, **given, precision=_precision(settings.precision, device))
            check_fit(task, source, how.length)
            identity = {
                "kind": kind,
                "task": task.name,
                "model": weights,
                "data": data,
                **dataclasses.asdict(how),
            }
            save = None if settings.save is None else _saved(settings.save, f"{slug(source.name)}-{task.name}-{seed}")
            run = _fine_tuning(load, source, how, device, save)
            asked = dataclasses.asdict(settings)
            jobs.append(Job(identity, asked, f"{task.name}, seed {seed}", source.name, run, leaves=save))
    return jobs


def _fine_tuning(
    load: Callable[[], Task], source: ModelSource, how: FineTuning, device: str, save: Path | None
) -> Callable[[], tuple[dict[str, Any], dict[str, Any]]]:
    def run() -> tuple[dict[str, Any], dict[str, Any]]:
        task = load()
        tuned = fine_tune(task, source, how, device=device, save=save)
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

    return run


def missing_glue_tasks(settings: GlueSettings) -> list[str]:
    """The tasks of which the GLUE folder has no training rows; none where the data comes from the hub."""
    if settings.data is None:
        return []
    folder = Path(settings.data).expanduser()
    if not folder.is_dir():
        raise ValueError(f"--data: {folder} is not a folder; give the one that holds CoLA/, RTE/, SST-2/ and so on")
    return [name for name, task in TASKS.items() if not has_file(folder / task.folder, ["train.tsv"])]


def _tasks(kind: str, settings: FineTuningSettings) -> Iterator[Callable[[], Task]]:
    if kind == "ner":
        yield lambda: ner_task(settings.data)
    elif kind == "squad":
        yield lambda: squad_task(settings.data)
    else:
        assert isinstance(settings, GlueSettings)
        missing = missing_glue_tasks(settings)
        names = [name for name in TASKS if name not in missing] if settings.tasks is None else settings.tasks
        if settings.tasks == []:
            raise ValueError(f"--tasks: the list is empty; give some of {', '.join(TASKS)}")
        if not names:
            raise ValueError(f"--data: {settings.data} holds no task of GLUE; its folders are CoLA, MNLI, MRPC and so on")
        for name in names:
            if name not in TASKS:
                raise ValueError(f"--tasks: {name!r} is not one of {', '.join(TASKS)}")
        if len(set(names)) < len(names):
            raise ValueError(f"--tasks: {', '.join(names)} has a task twice; give each once")
        for name in names:
            yield lambda name=name: glue_task(name, settings.data)  # type: ignore[misc]


def _check_fine_tuning(settings: FineTuningSettings) -> None:
    if not settings.seeds:
        raise ValueError("--seeds: the list is empty; give at least one, such as [42]")
    if len(set(settings.seeds)) < len(settings.seeds):
        raise ValueError(f"--seeds: {settings.seeds} has a seed twice; give each once")
    for seed in settings.seeds:
        if not 0 <= seed < 2**32:
            raise ValueError(f"--seeds: {seed} must be at least 0 and below 2**32")
    for name in _GIVEN:
        value = getattr(settings, name)
        if value is not None and value <= 0:
            raise ValueError(f"--{name}: {value} must be above 0")
    if settings.length is not None and settings.length < 8:
        raise ValueError(f"--length: {settings.length} must be at least 8")


def _precision(wanted: Literal["auto", "fp32", "bf16"], device: str) -> Literal["fp32", "bf16"]:
    if wanted != "auto":
        return wanted
    return "bf16" if device == "auto" and torch.accelerator.is_available() else "fp32"


def _saved(folder: str, name: str) -> Path:
    """Where a fine-tuned model is saved; refuses (ValueError) a folder that holds something else."""
    path = Path(folder).expanduser() / name
    check_writable(path, "--save")
    if path.exists() and not (path / "config.json").is_file():
        raise ValueError(f"--save: {path} exists and holds no model; give another folder")
    return path


def slug(model: str) -> str:
    """A file name for a model: ``runs/quickstart/student`` is runs-quickstart-student."""
    parts = [part for part in model.replace(":", "/").split("/") if part not in ("", ".", "..", "~")]
    return "-".join(parts) or Path(model).expanduser().resolve().name


def _rows_digest(rows: datasets.Dataset) -> str:
    """A hash of the rows' content, wherever they came from."""
    total = hashlib.sha256()
    for batch in rows.iter(10_000):
        total.update(json.dumps(batch, sort_keys=True).encode())
    return total.hexdigest()[:32]
