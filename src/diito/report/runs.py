"""A run's folder, read for a report: finished, running or stopped. No torch here."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diito.evaluation.results import slug
from diito.files import read_json, read_json_lines
from diito.locks import holder
from diito.recipe import Recipe
from diito.recipe.file import read as read_recipe
from diito.refusal import Refusal, Refusals

OTHERS = {"learning_rate": "learning rate", "grad_norm": "gradient norm", "tokens_per_second": "tokens/s"}
"""What a line of metrics holds beside the losses and is drawn, with its title."""
_NO_LOSSES = {"step", "epoch", "tokens", *OTHERS}
_WEIGHT = "weight_"


@dataclass(frozen=True)
class Run:
    """What a run has left so far."""

    path: Path
    name: str
    """Its name among those that are shown."""
    recipe: Recipe
    recipe_text: str
    """As it stands in the file."""
    plan: dict[str, Any]
    """Steps, and what a step costs; empty of a run of diito 0.1."""
    lines: list[dict[str, Any]]
    """What was logged of the training steps."""
    measured: list[dict[str, Any]]
    """What was measured on the way, without the prefix ``eval_``."""
    results: dict[str, Any]
    """``teacher``, ``before``, ``after``: held-out figures, as far as there are."""
    resumes: list[dict[str, Any]]
    environment: dict[str, Any]
    evaluations: list[dict[str, Any]]
    """What ``diito evaluate`` has found of the student."""
    holder: str | None
    """The process that writes the run now."""

    @property
    def step(self) -> int:
        """The last step that is known of: of a finished run all of them, which need not have been logged."""
        logged = max((line["step"] for line in self.lines), default=0)
        return max(logged, self._planned or 0) if self.is_finished else logged

    @property
    def steps(self) -> int | None:
        """The steps of the whole run, where they are known."""
        return self._planned or (self.step if self.is_finished else None)

    @property
    def _planned(self) -> int | None:
        return self.plan.get("steps") or self.recipe.training.steps

    @property
    def is_finished(self) -> bool:
        """Whether its student was saved."""
        return "recipe" in self.results

    @property
    def state(self) -> str:
        """Finished, running or stopped, in words."""
        if self.is_finished:
            return "finished"
        return "stopped" if self.holder is None else f"running, {self.holder}"

    @property
    def flops_per_step(self) -> float | None:
        """FLOPs of an optimiser step (matrix products, estimated)."""
        return self.plan.get("flops_per_step")

    def losses(self) -> list[str]:
        """The named losses that were logged, the weighted sum last."""
        names = {name: None for line in self.lines for name, value in line.items() if _is_number(value)}
        named = [name for name in names if name not in _NO_LOSSES and name != "loss" and not name.startswith(_WEIGHT)]
        return [*named, "loss"] if "loss" in names else named

    def others(self) -> list[str]:
        """What else was logged: learning rate, gradient norm, tokens/s, weights by gradient norm."""
        names = {name: None for line in self.lines for name in line}
        return [name for name in names if name in OTHERS or name.startswith(_WEIGHT)]

    def curve(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of something that was logged."""
        points = [(line["step"], line[name]) for line in self.lines if _is_number(line.get(name))]
        return [step for step, _ in points], [value for _, value in points]

    def held_out(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of a held-out figure of the student: before, on the way, after."""
        points = {line["step"]: line[name] for line in self.measured if _is_number(line.get(name))}
        for key, step in (("before", 0), ("after", self.step)):
            value = (self.results.get(key) or {}).get(name)
            if _is_number(value):
                points[step] = value
        return sorted(points), [points[step] for step in sorted(points)]

    def maps(self) -> list[dict[str, Any]]:
        """The maps of all pairs of layers that were measured of the student."""
        return [each for each in self.evaluations if each["result"].get("map")]

    def interchange(self) -> list[dict[str, Any]]:
        """The alignments of the student that were measured, each beside its references."""
        return [each for each in self.evaluations if each["result"].get("map") is False]


def is_run(path: Path) -> bool:
    """Whether a folder is a run of ``diito distill``, to look at it from outside."""
    return (path / "recipe.yaml").is_file()


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """The runs in these folders, told apart by their folders where two have one name. Raises Refusal naming the folder."""
    recipes = [_recipe(path) for path in paths]
    names = [recipe.name for recipe in recipes]
    return [
        _read(path, recipe, recipe.name if names.count(recipe.name) == 1 else str(path))
        for path, recipe in zip(paths, recipes, strict=True)
    ]


def _recipe(path: Path) -> Recipe:
    try:
        return read_recipe(path / "recipe.yaml")
    except (Refusal, Refusals) as error:
        raise Refusal("MEASURED", f"{path} is no run that can be read: {' '.join(str(error).split())}") from error


def _read(path: Path, recipe: Recipe, name: str) -> Run:
    try:
        lines = read_json_lines(path / "metrics.jsonl")
        return Run(
            path=path,
            name=name,
            recipe=recipe,
            recipe_text=(path / "recipe.yaml").read_text(encoding="utf-8"),
            plan=read_json(path / "plan.json"),
            lines=[line for line in lines if "loss" in line],
            measured=[_without_prefix(line) for line in lines if any(key.startswith("eval_") for key in line)],
            results=read_json(path / "results.json"),
            resumes=read_json_lines(path / "resumes.jsonl"),
            environment=read_json(path / "environment.json"),
            evaluations=list(_evaluations(path, recipe.name)),
            holder=holder(path / ".lock"),
        )
    except (OSError, ValueError) as error:
        raise Refusal("MEASURED", f"{path} is a damaged run ({error})") from error


def _without_prefix(line: dict[str, Any]) -> dict[str, Any]:
    return {key.removeprefix("eval_"): value for key, value in line.items()}


def _evaluations(path: Path, name: str) -> Iterator[dict[str, Any]]:
    """The measurements of the student in results files: in the run's folder, and where ``diito evaluate`` writes them."""
    student, pattern = (path / "student").resolve(), f"*{glob.escape(slug(f'{name}/student'))}*.json"
    places = {folder.resolve() for folder in (Path(), path.resolve().parents[1])}  # here, and beside runs/
    beside = {file for place in places for file in (place / "evaluations").glob(pattern)}
    for file in sorted({*path.glob("*.json"), *beside}):
        content = json.loads(file.read_text(encoding="utf-8"))
        measurements = content.get("measurements") if isinstance(content, dict) else None
        for each in measurements if isinstance(measurements, list) else ():
            if file.parent == path or (file.parents[1] / each["model"]).resolve() == student:
                yield {"settings": each["settings"], "result": each["result"], "file": file}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
