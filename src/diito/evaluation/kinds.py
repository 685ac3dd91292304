"""The kinds of evaluation, a row each: all that the rest of diito knows of a kind stands in its row. No torch here.

To add a kind, make a :class:`Kind` in a file of your own and name it on the command line,
``diito evaluate my_package.my_file:row MODEL``, or as an entry point of the group ``diito.evaluations``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diito.evaluation.results import Measurement
from diito.evaluation.settings import (
    AllSettings,
    FineTuningSettings,
    GlueSettings,
    InterchangeSettings,
    MapSettings,
    NerSettings,
    PerplexitySettings,
    SquadSettings,
)
from diito.plugins import load
from diito.refusal import Refusal
from diito.tables import Table

GROUP = "diito.evaluations"
"""The entry points by which an installed package adds kinds."""

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


def _no_files(settings: Any, measurements: Sequence[Measurement], results: Path) -> Iterable[Path]:
    return ()


def _needs_nothing(settings: Any) -> Sequence[str]:
    return ()


def _as_one(settings: Any, seeds: Sequence[int], precision: Literal["fp32", "bf16"]) -> Spread:
    yield None, None, settings


def _accept(settings: Any) -> None:
    pass


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
    files: Callable[[Any, Sequence[Measurement], Path], Iterable[Path]] = _no_files
    """``files(settings, measurements, results)``: write more beside the results file; the paths."""
    packages: Callable[[Any], Sequence[str]] = _needs_nothing
    """Modules beyond diito's core that a measurement with these settings imports."""
    figures: Sequence[Figure] = ()
    """What a report takes from its results."""
    kept: Callable[[dict[str, Any]], dict[str, Any]] = lambda result: result
    """The part of a result that a report reads."""
    version: int = 1
    """Part of the names of finished jobs in a grid: raise it when a change of the code changes results."""
    spread: Callable[[Any, Sequence[int], Literal["fp32", "bf16"]], Spread] = _as_one
    """The measurements of a grid, given its fine-tuning seeds and its precision."""
    check_in_grid: Callable[[Any], None] = _accept
    """Refuse settings that a grid has no use for."""
    section: str = ""
    """Where a grid has the settings, if not under the kind's own name."""
    parts: Callable[[Any], Mapping[str, Any]] | None = None
    """Of a kind that is composed of others: their settings by name."""

    @property
    def needs_teacher(self) -> bool:
        """Whether it compares a model with its teacher."""
        return any(field.name == "teacher" for field in dataclasses.fields(self.settings))


def find(reference: str | Kind) -> Kind:
    """The kind of that name: one of :data:`KINDS`, an entry point, or ``module:row``. Raises Refusal where there is none."""
    kind = reference if isinstance(reference, Kind) else load(reference, field="KIND", group=GROUP, known=KINDS)
    if not isinstance(kind, Kind):
        raise Refusal("KIND", f"{reference} is a {type(kind).__name__}; it must be a diito.evaluation.kinds.Kind")
    return kind


def parts_of(kind: Kind, settings: Any) -> list[tuple[str, Kind, Any]]:
    """What is measured one after another: the flags' prefix, the kind and the settings of each."""
    if kind.parts is None:
        return [("", kind, settings)]
    return [(f"{name}.", find(name), part) for name, part in kind.parts(settings).items()]


def check_packages(kind: Kind, settings: Any) -> None:
    """Refuse (Refusal) to start without the packages that a measurement with these settings would miss at its end."""
    for _, part, part_settings in parts_of(kind, settings):
        for module in part.packages(part_settings):
            if importlib.util.find_spec(module) is None:
                raise Refusal("", f"{module} is not installed; install it with: pip install 'diito[evaluation]'")


@contextlib.contextmanager
def refusals_under(prefix: str, settings: Any) -> Iterator[None]:
    """Refusals of a field of ``settings`` come out with ``prefix`` before it, as the user writes it; others as they are."""
    try:
        yield
    except Refusal as refusal:
        if _has_field(settings, refusal.field):
            raise refusal.under(prefix) from refusal
        raise


def _has_field(settings: Any, path: str) -> bool:
    """Whether a dotted path, such as ``alignment.pairs[0].student``, leads into the settings."""
    first, _, rest = path.partition(".")
    name, index, _ = first.partition("[")
    if not dataclasses.is_dataclass(settings) or not any(field.name == name for field in dataclasses.fields(settings)):
        return False
    return not rest or bool(index) or _has_field(getattr(settings, name), rest)


# ----------------------------------------------------------------------------------------------------------- the rows


def _later(reference: str) -> Callable[..., Any]:
    """A function of diito that is imported when it is first called, so that the table loads nothing heavy."""
    module, _, name = reference.partition(":")

    def call(*arguments: Any, **keywords: Any) -> Any:
        return getattr(importlib.import_module(f"diito.{module}"), name)(*arguments, **keywords)

    return call


def _check_perplexity(settings: PerplexitySettings) -> None:
    if settings.against is not None:
        raise Refusal("against", "the report compares the conditions; leave it out")


def _check_interchange(settings: InterchangeSettings) -> None:
    if settings.map:
        raise Refusal("map", "name the conditions in `maps` instead")


def _interchange_figure(key: str, name: str, better: int) -> Figure:
    def read(result: dict[str, Any]) -> float | None:
        value: float | None = result["models"]["student"]["unswapped"].get(key.replace(" ", "_"))
        return value

    return Figure(key, name, better, 3, read=read)


def _without_pairs(result: dict[str, Any]) -> dict[str, Any]:
    sides = ("unswapped", "swapped")
    return {"models": {name: {side: numbers[side] for side in sides} for name, numbers in result["models"].items()}}


def _pairs_alone(result: dict[str, Any]) -> dict[str, Any]:
    """Of a map each pair's figures, without their intervals."""
    return {
        "pairs": [
            {
                "student": pair["student"],
                "teacher": pair["teacher"],
                "unswapped": {name: value for name, value in pair["unswapped"].items() if not name.endswith("_interval")},
            }
            for pair in result["models"]["student"]["pairs"]
        ]
    }


def _spread_fine_tuning(
    name: str, settings: FineTuningSettings, seeds: Sequence[int], precision: Literal["fp32", "bf16"]
) -> Spread:
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


def fine_tuning_kind(name: str, settings: type[FineTuningSettings], tasks: Callable[[Any], Any], **row: Any) -> Kind:
    """The row of a suite of fine-tuning tasks.

    ``tasks(settings)``: for each task a function that loads it, a :class:`diito.suites.suite.Task`; ``row``: what else differs.
    """
    return Kind(
        name,
        settings,
        jobs=functools.partial(_later("evaluation.fine_tuning.jobs:fine_tuning_jobs"), name, tasks),
        identity=functools.partial(_later("evaluation.fine_tuning.jobs:fine_tuning_identity"), name, tasks),
        spread=functools.partial(_spread_fine_tuning, name),
        **{"tables": _later("evaluation.tables:fine_tuning_tables"), **row},
    )


def _score(metric: str) -> Callable[[dict[str, Any]], float | None]:
    def read(result: dict[str, Any]) -> float | None:
        value: float | None = next(iter(result["scores"].values()))[metric]
        return value

    return read


def _headline(result: dict[str, Any]) -> float | None:
    return _score(result["headline"])(result)


_GLUE = {
    "cola": "CoLA",
    "mnli": "MNLI",
    "mrpc": "MRPC",
    "qnli": "QNLI",
    "qqp": "QQP",
    "rte": "RTE",
    "sst2": "SST-2",
    "stsb": "STS-B",
}
"""The tasks of the paper's mean, in its order."""

_INTERCHANGE = Kind(
    "interchange",
    InterchangeSettings,
    jobs=_later("evaluation.held_out.jobs:interchange_jobs"),
    identity=_later("evaluation.held_out.jobs:interchange_identity"),
    tables=_later("evaluation.tables:interchange_tables"),
    files=_later("evaluation.held_out.maps:map_files"),
    packages=lambda settings: ("scipy", "matplotlib") if settings.map else ("scipy",),
    figures=(
        _interchange_figure("iia", "IIA", 1),
        _interchange_figure("effective iia", "Effective IIA", 1),
        _interchange_figure("counterfactual kl", "Counterfactual KL, nats", -1),
    ),
    kept=_without_pairs,
    check_in_grid=_check_interchange,
)

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "perplexity",
            PerplexitySettings,
            jobs=_later("evaluation.held_out.jobs:perplexity_jobs"),
            identity=_later("evaluation.held_out.jobs:perplexity_identity"),
            tables=_later("evaluation.tables:perplexity_tables"),
            packages=lambda settings: ("scipy",),
            figures=(Figure("perplexity", "Perplexity", -1, read=lambda result: result["perplexity"]),),
            check_in_grid=_check_perplexity,
        ),
        _INTERCHANGE,
        dataclasses.replace(
            _INTERCHANGE,
            name="map",
            settings=MapSettings,
            figures=(),
            kept=_pairs_alone,
            check_in_grid=_accept,
            section=_INTERCHANGE.name,
        ),
        fine_tuning_kind(
            "glue",
            GlueSettings,
            lambda settings: _later("suites.glue:glue_tasks")(settings.data, settings.tasks),
            tables=_later("evaluation.tables:glue_tables"),
            packages=lambda settings: ("sklearn", "scipy"),
            figures=tuple(Figure(task, title, 1, task=task, read=_headline) for task, title in _GLUE.items()),
            check_in_grid=_check_glue,
            version=2,
        ),
        fine_tuning_kind(
            "ner",
            NerSettings,
            lambda settings: [functools.partial(_later("suites.ner:ner_task"), settings.data)],
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
            lambda settings: [functools.partial(_later("suites.squad:squad_task"), settings.data)],
            files=_later("evaluation.fine_tuning.jobs:prediction_files"),
            packages=lambda settings: ("torchmetrics",),
            figures=(
                Figure("squad em", "SQuAD EM", 1, read=_score("em")),
                Figure("squad f1", "SQuAD F1", 1, read=_score("f1")),
            ),
            version=2,
        ),
    )
}
"""The kinds of evaluation by name."""

PARTS = [field.name for field in dataclasses.fields(AllSettings) if field.name != "parts"]
"""The kinds that ``all`` is composed of, and that a grid measures its students on."""


def _parts_of_all(settings: AllSettings) -> dict[str, Any]:
    for name in settings.parts:
        if name not in PARTS:
            raise Refusal("parts", f"{name!r} is not one of {', '.join(PARTS)}")
    if not settings.parts:
        raise Refusal("parts", f"the list is empty; give some of {', '.join(PARTS)}")
    return {name: getattr(settings, name) for name in PARTS if name in settings.parts}


def _nothing_of_its_own(*arguments: Any, **keywords: Any) -> Any:
    raise AssertionError("a kind that is composed of others is measured part by part")


KINDS["all"] = Kind(
    "all",
    AllSettings,
    jobs=_nothing_of_its_own,
    identity=_nothing_of_its_own,
    tables=_nothing_of_its_own,
    parts=_parts_of_all,
)
