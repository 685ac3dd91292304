"""A grid, as data: the dataclasses behind ``grids/*.yaml``. :func:`read` fills a :class:`Grid` from a YAML file and flags, and
refuses what can never be right. No torch here.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from diito.embedded import packaged
from diito.evaluation.kinds import PARTS, find, refusals_under
from diito.evaluation.settings import AllSettings
from diito.experiments.preparations import check_preparations
from diito.recipe import Recipe
from diito.recipe.file import read_section
from diito.recipe.keys import aliases, section_of
from diito.refusal import Refusal
from diito.report.metrics import METHODS
from diito.report.paper import PAPER


@dataclass(kw_only=True)
class Row:
    """A row of the tables."""

    name: str
    """Its name, once in the grid."""
    label: str | None = None
    """Its name in the tables; null takes the method's, or ``name`` of a reference."""
    group: str = ""
    """The part of the table it stands in, such as ``6 layers``; a condition is compared with the standard one there."""
    paper: str | None = None
    """The row of the paper that it re-makes, such as ``6/full``; see ``diito/report/paper.py``."""
    parts: list[str] | None = None
    """What it is measured on, of the grid's ``evaluations.parts``; null takes all, of a reference all that need no teacher."""


@dataclass(kw_only=True)
class Condition(Row):
    """One way to distil."""

    method: str = "other"
    """What it is, for the labels and colours of the report: one of standard, middle, late, full, full-random, full-masked,
    full-cos, equal-flops, double-kl, token-swap, random-swap, shuffled, site, other-site, hint, other."""
    recipe: str | None = None
    """A recipe of its own; null takes the grid's."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Fields of the recipe, such as ``{alignment.kind: middle}``, on top of the grid's own overrides."""


@dataclass(kw_only=True)
class Group:
    """Circumstances in which all conditions are compared, such as a number of examples."""

    name: str
    """A condition is called ``<condition>-<name>`` in it."""
    label: str
    """The part of the tables that it is."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Fields of the recipe, on top of the grid's and below the condition's."""
    conditions: list[str] | None = None
    """The conditions that are run in it; null: all."""


@dataclass(kw_only=True)
class Reference(Row):
    """A model that is measured as it is, for comparison."""

    model: str
    """Hub id, local folder, or ``embedded:teacher-minilm-mlm``."""


@dataclass
class Share:
    """What one job takes of a machine."""

    cpus: float = 1
    """Processor cores."""
    gpus: float = 0
    """Accelerators; a fraction lets jobs share one."""
    processes: int = 1
    """Processes of a distillation: more than one start under torchrun, and each takes the recipe's batch."""


@dataclass
class ReproduceSettings:
    """How a grid is run this time."""

    only: list[str] | None = None
    """The conditions and references to run now; null runs all."""
    address: str | None = None
    """A running Ray cluster, such as ``auto``; null takes this machine."""


@dataclass
class Resources:
    """What the jobs take of a machine."""

    distil: Share = field(default_factory=Share)
    evaluate: Share = field(default_factory=Share)


@dataclass
class Grid:
    """Conditions, seeds and evaluations."""

    name: str
    """``<output>/<name>/`` holds the list of jobs and the report."""
    conditions: list[Condition]
    """The ways to distil that are compared."""
    extends: str | None = None
    """Another grid, a path from this one's file: fields that are given here stand in place of its own."""
    recipe: str | None = None
    """The recipe of the conditions that name none of their own; a path from the grid's file."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Fields of every recipe, such as ``{training.steps: 500}``."""
    groups: list[Group] = field(default_factory=list)
    """Each condition is run in each of them, unless a group names some; an empty list leaves the conditions as they are."""
    prepare: dict[str, str] = field(default_factory=dict)
    """Commands of diito that are run first, once a seed and in this order, by name: ``{data: "generate tables --seed {seed}
    --output {output}", teacher: "pretrain {data} --seed {seed} --output {output}"}``. In overrides and evaluations ``{seed}``,
    ``{data}`` and the like stand for the seed and the folders, and ``{name.key}`` for what a preparation left under that key in
    values.json."""
    seeds: list[int] = field(default_factory=lambda: [42, 66, 88])
    """Distillation seeds. Conditions of one seed share rows and masks, so their differences are paired."""
    fine_tuning_seeds: list[int] = field(default_factory=lambda: [111, 222, 333, 444, 555])
    """Seeds of every fine-tuning of every student."""
    references: list[Reference] = field(default_factory=list)
    """Models that are measured as they are."""
    evaluations: AllSettings = field(default_factory=AllSettings)
    """What every student is measured on. The seeds of the fine-tuning parts are ``fine_tuning_seeds``; interchange takes the
    recipe's teacher."""
    maps: list[str] = field(default_factory=list)
    """Conditions of which, at the first seed, the map of all pairs of layers is measured too."""
    resources: Resources = field(default_factory=Resources)
    retries: int = 1
    """How often a job that fails is started again."""
    output: str = "experiments"
    """Folder of the jobs, shared by all grids; on a cluster one that all machines see."""

    @property
    def rows(self) -> list[Row]:
        """References and conditions."""
        return [*self.references, *self.conditions]


def read(
    path: str | Path, overrides: Mapping[str, Any] | None = None, recipe_overrides: Mapping[str, Any] | None = None
) -> Grid:
    """The grid in a YAML file (``grid:small`` comes with diito), with overrides of its own fields and of every recipe on top.

    Raises ValueError.
    """
    file, overrides = packaged(str(path), "grid"), dict(overrides or {})
    known = [file]
    while (above := _extending(file)) is not None:
        file, overrides = file.parent / above["extends"], {**above, **overrides}
        if file in known:
            raise Refusal("extends", f"{above['extends']} extends, in the end, itself")
        known.append(file)
    grid = read_section(Grid, file, overrides, what="grid")
    if grid.groups:
        grid.maps = [f"{name}-{group.name}" for group in grid.groups for name in grid.maps if _is_in(name, group)]
        grid.conditions = [each for group in grid.groups for each in _in_group(grid.conditions, group)]
    for condition in grid.conditions:
        if (recipe := condition.recipe or grid.recipe) is not None:  # beside the grid, wherever the command is given
            condition.recipe = recipe if recipe.startswith("recipe:") else str(file.parent / recipe)
        condition.overrides = _merged(grid.overrides, condition.overrides, recipe_overrides or {})
    _check(grid)
    return grid


def _extending(path: Path) -> dict[str, Any] | None:
    """The fields of a file that extends another; None of any other file, whose faults are not told here."""
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return fields if isinstance(fields, dict) and isinstance(fields.get("extends"), str) else None


def _in_group(conditions: Sequence[Condition], group: Group) -> list[Condition]:
    names = [condition.name for condition in conditions]
    for name in group.conditions or ():
        if name not in names:
            raise Refusal(f"{group.name}.conditions", f"{name!r} is no condition of the grid; there are {', '.join(names)}")
    made = []
    for condition in conditions:
        if condition.group:
            raise Refusal(f"{condition.name}.group", "is given by the groups of the grid; leave it out")
        if _is_in(condition.name, group):
            name, overrides = f"{condition.name}-{group.name}", _merged(group.overrides, condition.overrides)
            made.append(dataclasses.replace(condition, name=name, group=group.label, overrides=overrides))
    return made


def _is_in(name: str, group: Group) -> bool:
    return group.conditions is None or name in group.conditions


def _merged(*levels: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides of several levels, the last one on top: a section there replaces single fields of it below, and a field one
    that is given below by another of its names."""
    merged: dict[str, Any] = {}
    for level in levels:
        above = {field for key in level for field in _fields(key)}
        below: dict[str, Any] = {}
        for key, value in merged.items():
            if any(key.startswith(f"{section}.") for section in level):
                continue
            fields = _fields(key)
            values = yaml.safe_load(value) if isinstance(value, str) and len(fields) > 1 else value
            if key in level or above.isdisjoint(fields):
                below[key] = value
            elif len(fields) > 1 and isinstance(values, (list, tuple)):  # both betas below, one of them above
                below |= {name: each for name, each in zip(fields, values, strict=False) if name not in above}
        merged = below | dict(level)
    return merged


def _fields(key: str) -> list[str]:
    """The keys of the fields that a key of a recipe stands for."""
    section, name = section_of(key, Recipe), key.rpartition(".")[2]
    alias = aliases(section).get(name) if section is not None else None
    return [key.removesuffix(name) + field for field in alias.fields] if alias else [key]


def _check(grid: Grid) -> None:
    if grid.name.strip() != grid.name or grid.name in ("", ".", "..", "jobs") or "/" in grid.name:
        raise Refusal("name", f"{grid.name!r} must be the plain name of a folder, and not 'jobs'")
    names = [each.name for each in grid.rows]
    if not names:
        raise Refusal("conditions", "the list is empty; name at least one, or a reference")
    for name in names:
        if names.count(name) > 1:
            raise Refusal("conditions", f"{name!r} is named twice; give each condition and reference a name of its own")
    for field_name in ("seeds", "fine_tuning_seeds"):
        _check_seeds(field_name, getattr(grid, field_name))
    if grid.retries < 0:
        raise Refusal("retries", f"{grid.retries} must be at least 0")
    for row in grid.rows:
        if not re.fullmatch(r"[\w.+-]+", row.name):
            raise Refusal("conditions", f"{row.name!r} is no name; give letters, digits and . _ + - only, such as full-6")
        if row.paper is not None and row.paper not in PAPER:
            raise Refusal(f"{row.name}.paper", f"{row.paper!r} is not one of {', '.join(PAPER)}")
    for condition in grid.conditions:
        if condition.method not in (*METHODS, "other"):
            raise Refusal(f"{condition.name}.method", f"{condition.method!r} is not one of {', '.join(METHODS)}, other")
        for key in ("seed", "name", "output"):
            if key in condition.overrides:
                raise Refusal(f"{condition.name}.overrides", f"{key} is the grid's to give; see seeds, name and output there")
        if condition.recipe is None:
            raise Refusal(f"conditions, {condition.name}", "no recipe; name one there, or one for the whole grid")
    check_preparations(grid.prepare)
    for name in grid.maps:
        if name not in [each.name for each in grid.conditions]:
            raise Refusal("maps", f"{name!r} is no condition of the grid")
    _check_parts(grid)
    for name, share in vars(grid.resources).items():
        if share.cpus < 0 or share.gpus < 0 or share.cpus + share.gpus == 0:
            raise Refusal(f"resources.{name}", "a job must take something; give cpus or gpus above 0")
        if share.processes < 1 or (name == "evaluate" and share.processes > 1) or 0 < share.gpus < share.processes > 1:
            raise Refusal(
                f"resources.{name}.processes",
                f"{share.processes} is not possible; give 1 or, to distil, more (with a GPU each)",
            )


def _check_parts(grid: Grid) -> None:
    asked = [("evaluations.parts", grid.evaluations.parts)]
    asked += [(f"{each.name}.parts", each.parts) for each in grid.rows if each.parts is not None]
    for place, parts in asked:
        for part in parts:
            if part not in PARTS:
                raise Refusal(place, f"{part!r} is not one of {', '.join(PARTS)}")
    for part in grid.evaluations.parts:
        settings = getattr(grid.evaluations, part)
        with refusals_under(f"evaluations.{part}.", settings):
            find(part).check_in_grid(settings)
    for reference in grid.references:
        for part in reference.parts or ():
            if find(part).needs_teacher and getattr(grid.evaluations, part).teacher is None:
                raise Refusal(f"{reference.name}.parts", f"{part} needs evaluations.{part}.teacher")


def _check_seeds(name: str, seeds: Sequence[int]) -> None:
    if not seeds:
        raise Refusal(name, "the list is empty; give at least one")
    for seed in seeds:
        if not 0 <= seed < 2**32 or seeds.count(seed) > 1:
            raise Refusal(name, f"{seed} must be given once, at least 0 and below 2**32")
