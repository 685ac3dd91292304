"""What a kind of evaluation is: a row that holds all that the rest of diito knows of it. No torch here.

To add a kind, make a :class:`Kind` in a file of your own and name it on the command line,
``diito evaluate my_package.my_file:row MODEL``, or as an entry point of the group ``diito.evaluations``.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diito.evaluation.results import Measurement
from diito.tables import Table

Result = tuple[dict[str, Any], dict[str, Any]]
"""The figures, and the counts or predictions of single examples from which they can be made again."""


@dataclass(frozen=True)
class Job:
    """One measurement to make, one entry of the results file."""

    identity: dict[str, Any]
    """All that decides the result, as JSON can hold it; ``kind`` among it."""
    settings: dict[str, Any]
    title: str
    """What it is, for the reader of the screen."""
    model: str
    run: Callable[[], Result]
    leaves: Path | None = None
    """A folder that it also makes; without it the job is run although its measurement is there."""


@dataclass(frozen=True)
class Figure:
    """One figure of a report."""

    key: str
    name: str
    better: int
    """1: more is better; -1: less is better."""
    digits: int = 2
    task: str | None = None
    """The task that gives it, of a kind that has several."""
    read: Callable[[dict[str, Any]], float | None] = lambda result: None
    """From the result of a measurement; None where it is not defined there."""


Spread = Iterator[tuple[str | None, int | None, Any]]
"""Task, fine-tuning seed and settings of each measurement that can be made by itself."""


def _as_one(settings: Any, seeds: Sequence[int], precision: Literal["fp32", "bf16"]) -> Spread:
    yield None, None, settings


@dataclass(frozen=True)
class Kind:
    """A kind of evaluation. Refusals (``Refusal``) name a field of its settings, or the model by ``source.field``."""

    name: str
    settings: type
    """A dataclass; its fields are the flags, its docstring says in the help what is measured."""
    jobs: Callable[..., list[Job]]
    """``jobs(settings, source, *, device, results)``: what is to be measured. All that can be refused is refused here.
    ``device``: auto or cpu; ``results``: the file that earlier jobs of the list have put their measurements in."""
    identity: Callable[..., dict[str, Any]]
    """``identity(settings, source, *, depth=None)``: what decides the result of the first job. With ``depth`` the source is
    the teacher of a student of so many layers that is yet to be made."""
    tables: Callable[[Any, Sequence[Measurement]], Sequence[Table]]
    """``tables(settings, measurements)``: what is printed."""
    files: Callable[[Any, Sequence[Measurement], Path], Iterable[Path]] = lambda settings, measurements, results: ()
    """``files(settings, measurements, results)``: write more beside the results file; the paths."""
    packages: Callable[[Any], Sequence[str]] = lambda settings: ()
    """Modules beyond diito's core that a measurement with these settings imports."""
    extra: str = "evaluation"
    """The extra of diito that installs them."""
    figures: Sequence[Figure] = ()
    """What a report takes from its results."""
    kept: Callable[[dict[str, Any]], dict[str, Any]] = lambda result: result
    """The part of a result that a report reads."""
    version: int = 1
    """Part of the names of finished jobs in a grid: raise it when a change of the code changes results."""
    spread: Callable[[Any, Sequence[int], Literal["fp32", "bf16"]], Spread] = _as_one
    """The measurements of a grid, given its fine-tuning seeds and its precision."""
    check_in_grid: Callable[[Any], None] = lambda settings: None
    """Refuse settings that a grid has no use for."""
    section: str = ""
    """Where a grid has the settings, if not under the kind's own name."""
    parts: Callable[[Any], Mapping[str, Any]] | None = None
    """Of a kind that is composed of others: their settings by name."""

    @property
    def needs_teacher(self) -> bool:
        """Whether it compares a model with its teacher."""
        return any(field.name == "teacher" for field in dataclasses.fields(self.settings))


def later(reference: str) -> Callable[..., Any]:
    """A function of diito that is imported when it is first called, so that a row loads nothing heavy."""
    module, _, name = reference.partition(":")

    def call(*arguments: Any, **keywords: Any) -> Any:
        return getattr(importlib.import_module(f"diito.{module}"), name)(*arguments, **keywords)

    return call
