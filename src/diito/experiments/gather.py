"""From the folders of a grid's jobs to one file, ``measurements.json``, that holds all a report is made of.

1. ``grid.json`` says which conditions there are and which job makes which cell;
2. each job's folder says what became of it: results, training curve, cost, environment; one that is not done is left open;
3. the file can be read in place of the folders, wherever they are.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diito.evaluation.kinds import find
from diito.experiments.folders import JobFolder
from diito.files import read_json, read_json_lines
from diito.refusal import Refusal

FORMAT = 1
_NO_CURVE = ("tokens_per_second", "epoch", "grad_norm", "learning_rate")
_ENVIRONMENT = ("diito", "commit", "python", "packages", "platform", "processors", "threads", "processes", "accelerator")


def read(path: Path) -> dict[str, Any]:
    """The measurements of a grid's folder, or those in a ``measurements.json``. Raises ValueError for anything else."""
    if path.is_file():
        return _read_file(path)
    if not (path / "grid.json").is_file():
        raise Refusal(
            "MEASURED",
            f"{path} is no folder of a run or a grid (it has neither recipe.yaml nor grid.json); give one such as "
            "runs/quickstart or experiments/small, or a measurements.json",
        )
    grid = read_json(path / "grid.json")
    students, evaluations = [], []
    for job in grid["jobs"]:
        folder = JobFolder(path.parent / "jobs" / job["hash"])
        if job["kind"] == "distil":
            students.append({**job, **(_student(folder) if folder.is_done else {"done": False})})
        else:
            evaluations.append({**job, **(_evaluation(folder, job) if folder.is_done else {"done": False})})
    return {"format": FORMAT, "name": grid["name"], "rows": grid["rows"], "students": students, "evaluations": evaluations}


def _read_file(path: Path) -> dict[str, Any]:
    try:
        measured = json.loads(path.read_text(encoding="utf-8"))
        if measured["format"] != FORMAT:
            raise KeyError(f"format {measured['format']}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Refusal("MEASURED", f"{path} is no measurements.json of this version of diito ({error})") from error
    return measured


def _student(folder: JobFolder) -> dict[str, Any]:
    """What a distillation left: held-out figures before and after, the losses of its steps, its cost."""
    results = read_json(folder.run / "results.json")
    lines = [line for line in read_json_lines(folder.run / "metrics.jsonl") if "loss" in line]
    curve = [{name: value for name, value in line.items() if name not in _NO_CURVE} for line in lines]
    timed = [line for line in lines if line.get("tokens_per_second")]
    seconds = 0.0
    for before, line in zip([{"tokens": 0}, *timed], timed, strict=False):
        seconds += (line["tokens"] - before["tokens"]) / line["tokens_per_second"]
    return {
        "done": True,
        "before": results.get("before"),
        "after": results.get("after"),
        "curve": curve,
        "trained_tokens": timed[-1]["tokens"] if timed else 0,
        "training_seconds": seconds,
        "environment": _environment(read_json(folder.run / "environment.json")),
    }


def _evaluation(folder: JobFolder, job: dict[str, Any]) -> dict[str, Any]:
    """What an evaluation found, without single examples."""
    measured = read_json(folder.results)["measurements"][0]
    return {
        "done": True,
        "result": find(job["kind"]).kept(measured["result"]),
        "seconds": read_json(folder.done)["seconds"],
        "environment": _environment(measured["environment"]),
    }


def _environment(environment: dict[str, Any]) -> dict[str, Any]:
    """Versions, commit and machine; not the command, which is full of one machine's paths."""
    return {name: environment[name] for name in _ENVIRONMENT if name in environment}
