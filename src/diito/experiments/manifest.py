"""What is written before any job runs: in each job's folder its command, and for the report which job makes which cell."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diito.experiments.expansion import Distillation, Evaluation
from diito.experiments.folders import JobFolder
from diito.experiments.grid import Condition, Grid, Reference, Row
from diito.experiments.jobs import Job
from diito.experiments.preparations import Preparation, resolved
from diito.files import write_json, write_text
from diito.recipe.file import dump, write_value
from diito.run.students import sizes_of_student


def prepare_folder(job: Job, output: Path, grid: Grid, earlier: Mapping[str, str] | None = None) -> None:
    """What the process of a job reads. ``earlier``: of a preparation, the folders of those before it, by name."""
    folder = JobFolder(output / "jobs" / job.hash)
    folder.path.mkdir(parents=True, exist_ok=True)
    if folder.is_done:
        return
    if isinstance(job.planned, Distillation):
        recipe = dataclasses.replace(job.planned.recipe, output=str(folder.path), name=folder.run.name)
        write_text(folder.recipe, dump(recipe))
        arguments = ["distill", str(folder.recipe)]
    elif isinstance(job.planned, Preparation):
        arguments = resolved(job.planned, earlier or {}, output=str(folder.made))
    else:
        of = job.planned.of
        model = of.model if isinstance(of, Reference) else str(JobFolder(output / "jobs" / str(job.student)).student)
        arguments = ["evaluate", job.kind, model, "--output", str(folder.results), *_flags(job.planned.settings)]
    processes = grid.resources.distil.processes if job.kind == "distil" else 1
    content = {"title": job.planned.title, "arguments": arguments, "processes": processes, "identity": job.identity}
    write_json(folder.job, content)


def _flags(settings: Any, prefix: str = "--") -> list[str]:
    """Settings as the flags that give them, without those that are defaults."""
    flags = []
    defaults = type(settings)()
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value) and dataclasses.is_dataclass(getattr(defaults, field.name)):
            flags += _flags(value, f"{prefix}{field.name}.")
        elif value != getattr(defaults, field.name):
            flags += [f"{prefix}{field.name}", value if isinstance(value, str) else write_value(value)]
    return flags


def write_index(grid: Grid, jobs: Sequence[Job], output: Path) -> None:
    """``grid.json``: what the report needs to know, the rows, and which job makes which cell."""
    recipes = {each.planned.condition.name: each.planned.recipe for each in jobs if isinstance(each.planned, Distillation)}
    rows = [
        {
            "name": each.name,
            "label": each.label,
            "group": each.group,
            "paper": each.paper,
            "method": each.method if isinstance(each, Condition) else "reference",
            "layers": sizes_of_student(recipes[each.name]).depth if each.name in recipes else None,
            "share": recipes[each.name].corpus.share if each.name in recipes else None,
        }
        for each in grid.rows
    ]
    path = output / grid.name / "grid.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"name": grid.name, "rows": rows, "jobs": [_entry(job) for job in jobs]})


def _entry(job: Job) -> dict[str, Any]:
    assert not isinstance(job.planned, Preparation)  # no cell of a report
    of = job.planned.of if isinstance(job.planned, Evaluation) else job.planned
    entry: dict[str, Any] = {
        "hash": job.hash,
        "kind": job.kind,
        "row": row_of(job).name,
        "seed": None if isinstance(of, Reference) else of.seed,
    }
    if isinstance(job.planned, Evaluation):
        entry |= {"task": job.planned.task, "fine_tuning_seed": job.planned.seed}
    if job.numbers is not None:
        entry |= dataclasses.asdict(job.numbers)
    return entry


def row_of(job: Job) -> Row:
    """The row of the tables that a job works for."""
    if isinstance(job.planned, Preparation):
        return Row(name=job.planned.name)
    of = job.planned.of if isinstance(job.planned, Evaluation) else job.planned
    return of.condition if isinstance(of, Distillation) else of
