"""What a grid expands to: students and measurements.

1. :func:`distillations` are its conditions times its seeds, each with the complete recipe;
2. :func:`evaluations` are what each student is measured on: once a kind on text, once a task and seed where it is
   fine-tuned.

No torch here. What decides the result of a job, and so the name of its folder, is found out in ``jobs.py``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from diito.evaluation.kinds import PARTS, find
from diito.experiments.grid import Condition, Grid, Reference, Share
from diito.experiments.preparations import Prepared, builds_on, nothing_prepared
from diito.recipe import Recipe
from diito.recipe.checks import check as check_recipe
from diito.recipe.file import read as read_recipe
from diito.refusal import Refusal, Refusals, refusals_of

_MAP = find("map")
"""What ``maps`` asks for."""


@dataclass(frozen=True)
class Distillation:
    """One student to make."""

    condition: Condition
    seed: int
    recipe: Recipe

    @property
    def title(self) -> str:
        """For the screen."""
        return f"{self.condition.name}, seed {self.seed}"


@dataclass(frozen=True)
class Evaluation:
    """One measurement to make of a student or a reference."""

    of: Distillation | Reference
    kind: str
    """The name of the kind of evaluation."""
    settings: Any
    task: str | None = None
    """The fine-tuning task, where there is one."""
    seed: int | None = None
    """The fine-tuning seed."""

    @property
    def title(self) -> str:
        """For the screen."""
        name = self.of.name if isinstance(self.of, Reference) else self.of.title
        return f"{name}: {self.task or self.kind}" + ("" if self.seed is None else f", seed {self.seed}")


def distillations(grid: Grid, prepared: Sequence[Prepared] = ()) -> list[Distillation]:
    """Every condition with every seed, all conditions of a seed together. ``prepared``: what was, of each seed.

    Raises ValueError naming the condition whose recipe cannot be right.
    """
    precision, made = _precision(grid.resources.distil), _by_seed(grid, prepared)
    known: dict[str, Recipe] = {}  # most are the same for all seeds
    students = []
    for seed in grid.seeds:
        for condition in grid.conditions:
            overrides = made[seed].fill(condition.overrides)
            key = repr((condition.name, overrides))
            if key not in known:
                known[key] = _recipe(condition, overrides, precision)
            students.append(Distillation(condition, seed, dataclasses.replace(known[key], seed=seed)))
    return students


def check_unprepared(grid: Grid) -> None:
    """Refuse, before anything is prepared, what the recipes already show to be wrong: all but the fields that hold names."""
    for condition in grid.conditions:
        overrides = {key: value for key, value in condition.overrides.items() if not builds_on(value, grid.prepare)}
        _read(condition, overrides)


def evaluations(grid: Grid, students: Sequence[Distillation], prepared: Sequence[Prepared] = ()) -> list[Evaluation]:
    """Everything that is measured of the references and of ``students``."""
    measured: list[Distillation | Reference] = [*grid.references, *students]
    made = _by_seed(grid, prepared)
    return [evaluation for each in measured for evaluation in _evaluations_of(grid, each, made)]


def _by_seed(grid: Grid, prepared: Sequence[Prepared]) -> dict[int, Prepared]:
    return {seed: nothing_prepared(seed) for seed in grid.seeds} | {each.seed: each for each in prepared}


def _evaluations_of(grid: Grid, of: Distillation | Reference, prepared: Mapping[int, Prepared]) -> Iterator[Evaluation]:
    asked = of.parts if isinstance(of, Reference) else of.condition.parts
    precision = _precision(grid.resources.evaluate)
    for name in PARTS:
        kind = find(name)
        if name not in grid.evaluations.parts or (asked is not None and name not in asked):
            continue
        if asked is None and isinstance(of, Reference) and kind.needs_teacher:
            continue
        settings = _with_teacher(getattr(grid.evaluations, name), of, prepared)
        for task, seed, one in kind.spread(settings, grid.fine_tuning_seeds, precision):
            yield Evaluation(of, name, one, task, seed)
    if isinstance(of, Distillation) and of.condition.name in grid.maps and of.seed == grid.seeds[0]:
        settings = _with_teacher(getattr(grid.evaluations, _MAP.section), of, prepared)
        yield Evaluation(of, _MAP.name, _MAP.settings(**{**vars(settings), "map": True}))


def _with_teacher(settings: Any, of: Distillation | Reference, prepared: Mapping[int, Prepared]) -> Any:
    """With the teacher that a student answers to, and what was prepared for its seed; of a reference as the settings are."""
    if isinstance(of, Reference):
        return settings
    settings = prepared[of.seed].fill(settings)
    if not hasattr(settings, "teacher"):
        return settings
    teacher = of.recipe.teacher
    return dataclasses.replace(settings, teacher=teacher.model, teacher_revision=teacher.revision)


def _precision(share: Share) -> Literal["fp32", "bf16"]:
    """What ``auto`` is in a grid: decided by its resources, not by the machine that happens to plan."""
    return "bf16" if share.gpus else "fp32"


def _recipe(condition: Condition, overrides: Mapping[str, Any], precision: Literal["fp32", "bf16"]) -> Recipe:
    recipe = _read(condition, overrides, check_recipe)
    if recipe.speed.precision == "auto":
        recipe.speed.precision = precision
    return recipe


def _read(condition: Condition, overrides: Mapping[str, Any], check: Callable[[Recipe], None] = lambda recipe: None) -> Recipe:
    assert condition.recipe is not None
    try:
        recipe = read_recipe(condition.recipe, overrides)
        check(recipe)
    except (Refusal, Refusals) as error:
        raise Refusals([Refusal(f"conditions, {condition.name}", str(each)) for each in refusals_of(error)]) from error
    return recipe
