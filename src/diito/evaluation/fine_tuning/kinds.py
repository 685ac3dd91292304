"""The kinds of evaluation that fine-tune, as rows: a suite each. No torch here."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

from diito.evaluation.kind import Figure, Kind, Spread, later
from diito.evaluation.settings import FineTuningSettings, GlueSettings, NerSettings, SquadSettings
from diito.refusal import Refusal
from diito.suites.glue_tasks import TASKS

_GLUE = {name: task.folder for name, task in TASKS.items() if task.in_mean}
"""The tasks of the paper's mean, in its order."""


def fine_tuning_kind(name: str, settings: type[FineTuningSettings], tasks: Callable[[Any], Any], **row: Any) -> Kind:
    """The row of a suite of fine-tuning tasks.

    ``tasks(settings)``: for each task a function that loads it, a :class:`diito.suites.suite.Task`; ``row``: what else differs.
    """
    return Kind(
        name,
        settings,
        jobs=functools.partial(later("evaluation.fine_tuning.jobs:fine_tuning_jobs"), name, tasks),
        identity=functools.partial(later("evaluation.fine_tuning.jobs:fine_tuning_identity"), name, tasks),
        spread=functools.partial(_spread, name),
        **{"tables": later("evaluation.tables:fine_tuning_tables"), **row},
    )


def _spread(name: str, settings: FineTuningSettings, seeds: Sequence[int], precision: Literal["fp32", "bf16"]) -> Spread:
    """Each task, of a suite that has several, with each seed."""
    if settings.precision == "auto":
        settings = dataclasses.replace(settings, precision=precision)
    by_task = {name: settings}
    if isinstance(settings, GlueSettings):
        by_task = {task: dataclasses.replace(settings, tasks=[task]) for task in settings.tasks or ()}
    for task, one in by_task.items():
        for seed in seeds:
            yield task, seed, dataclasses.replace(one, seeds=[seed])


def _check_glue(settings: GlueSettings) -> None:
    if not settings.tasks:
        raise Refusal("tasks", "name the tasks, such as [rte, stsb]")
    for task in settings.tasks:
        if task not in _GLUE:
            raise Refusal("tasks", f"{task!r} is not one of the paper's, {', '.join(_GLUE)}")


def _score(metric: str) -> Callable[[dict[str, Any]], float | None]:
    return lambda result: next(iter(result["scores"].values()))[metric]


def _headline(result: dict[str, Any]) -> float | None:
    return _score(result["headline"])(result)


FINE_TUNING = (
    fine_tuning_kind(
        "glue",
        GlueSettings,
        lambda settings: later("suites.glue:glue_tasks")(settings.data, settings.tasks),
        tables=later("evaluation.tables:glue_tables"),
        packages=lambda settings: ("sklearn", "scipy"),
        figures=tuple(Figure(task, title, 1, task=task, read=_headline) for task, title in _GLUE.items()),
        check_in_grid=_check_glue,
        version=2,
    ),
    fine_tuning_kind(
        "ner",
        NerSettings,
        lambda settings: [functools.partial(later("suites.ner:ner_task"), settings.data)],
        packages=lambda settings: ("seqeval",),
        figures=(
            Figure("ner accuracy", "CoNLL accuracy", 1, read=_score("accuracy")),
            Figure("ner f1", "CoNLL F1", 1, read=_score("f1")),
        ),
        version=2,
    ),
    fine_tuning_kind(
        "squad",
        SquadSettings,
        lambda settings: [functools.partial(later("suites.squad:squad_task"), settings.data)],
        files=later("evaluation.fine_tuning.jobs:prediction_files"),
        packages=lambda settings: ("torchmetrics",),
        figures=(
            Figure("squad em", "SQuAD EM", 1, read=_score("em")),
            Figure("squad f1", "SQuAD F1", 1, read=_score("f1")),
        ),
        version=2,
    ),
)
