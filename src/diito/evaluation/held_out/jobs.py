"""Jobs that measure on held-out text: perplexity, and interchange-intervention accuracy."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diito.corpus import Corpus
from diito.corpus.examples import Examples
from diito.embedded import resolve
from diito.evaluation.held_out.agreement import agreement_numbers, interchange_numbers
from diito.evaluation.held_out.classification import predicted_once
from diito.evaluation.held_out.interchange import interchange_counts
from diito.evaluation.held_out.maps import all_pairs
from diito.evaluation.held_out.metrics import find_metric
from diito.evaluation.held_out.perplexity import TokenLosses, perplexity_difference, perplexity_numbers, token_losses
from diito.evaluation.held_out.planning import (
    PlannedText,
    check_teacher,
    device_of,
    load_model,
    names_of,
    plan_text,
    task_to_measure,
)
from diito.evaluation.held_out.text import HeldOut
from diito.evaluation.held_out.windows import Windows
from diito.evaluation.kind import Job, Result
from diito.evaluation.results import ResultsFile
from diito.evaluation.settings import ClassificationSettings, InterchangeSettings, PerplexitySettings
from diito.files import check_writable
from diito.method.alignment import AlignedPair
from diito.method.alignment_files import build_alignment
from diito.models import load as models
from diito.models.answers import label_names
from diito.models.learn import learn
from diito.models.load import ModelSource
from diito.models.student import build_student, student_layers
from diito.paths import expand
from diito.recipe import StudentSection
from diito.recipe.checks import check_alignment, in_full, positions_refusals
from diito.recipe.file import read
from diito.refusal import Refusal, refuse
from diito.tasks.examples import NO_LABELS
from diito.tasks.rules import find_rule


def perplexity_jobs(
    settings: PerplexitySettings, source: ModelSource, *, device: str, results: ResultsFile | None = None
) -> list[Job]:
    """A job for the model; with ``against`` one for the other model and one for their difference, made from ``results``."""
    if settings.against is None:
        return [_perplexity_job(settings, source, device=device)]
    against = ModelSource(settings.against, "against")
    first, second = (_perplexity_job(settings, *both, device=device) for both in ((source, against), (against, source)))
    if any(first.identity[name] != second.identity[name] for name in ("text", "vocabulary")):
        raise Refusal(
            "against",
            f"{settings.against!r} reads the text with another vocabulary than {source.name!r}, so that their perplexities do "
            "not compare; give a model with the same tokenizer (bits per byte, of decoders, compare: measure each alone)",
        )

    load_model(against, task_to_measure(settings, source))  # refused now, not after the first measurement

    def run() -> Result:
        assert results is not None
        measured = [results.find(job.identity) for job in (first, second)]
        ours, other = (TokenLosses.from_json(each.examples) for each in measured if each is not None)
        return {"against": settings.against, **perplexity_difference(ours, other)}, {}

    identity = {**first.identity, "kind": "perplexity difference", "against": second.identity["model"]}
    return [first, second, Job(identity, first.settings, f"difference from {settings.against}", source.name, run)]


def perplexity_identity(settings: PerplexitySettings, source: ModelSource, *, depth: int | None = None) -> dict[str, Any]:
    """What decides the perplexity of the model."""
    return _perplexity_identity(settings, source, _text_of_words(settings, source))


def _text_of_words(settings: PerplexitySettings, source: ModelSource, *beside: ModelSource) -> PlannedText:
    """Text of a language model. What the model is comes first: a classifier would be asked for labels of the text."""
    task = task_to_measure(settings, source)
    if task.of_examples:
        raise Refusal("MODEL", f"{source.name!r} is a {task.noun}; measure it with: diito evaluate classification")
    return plan_text(settings, source, *beside)


def _perplexity_identity(settings: PerplexitySettings, source: ModelSource, text: PlannedText) -> dict[str, Any]:
    if settings.stride is not None and (text.task.is_drawn or text.identity["layout"] == "lines"):
        raise Refusal("stride", "belongs to blocks of causal-lm, and conversations are lines; leave it out")
    strided = {} if settings.stride is None else {"stride": settings.stride}
    return {"kind": "perplexity", "model": models.digest(source), **text.identity, "draws": _draws(settings, text), **strided}


def _draws(settings: PerplexitySettings, text: PlannedText) -> int:
    return settings.draws if text.task.is_drawn else 1


def _perplexity_job(settings: PerplexitySettings, source: ModelSource, *beside: ModelSource, device: str) -> Job:
    text = _text_of_words(settings, source, *beside)
    identity = _perplexity_identity(settings, source, text)

    def run() -> Result:
        model = load_model(source, text.task).to(device_of(device))
        sums = token_losses(model, _windows(settings, text), draws=_draws(settings, text))
        return perplexity_numbers(sums), sums.as_json()

    return Job(identity, dataclasses.asdict(settings), f"perplexity of {source.name}", source.name, run)


def interchange_jobs(
    settings: InterchangeSettings, source: ModelSource, *, device: str, results: ResultsFile | None = None
) -> list[Job]:
    """The job of one alignment, or of the map of all pairs of layers."""
    plan = plan_interchange(settings, source)

    def run() -> Result:
        place = device_of(device)
        task = plan.text.task
        student, teacher = (load_model(each, task).to(place) for each in (source, plan.teacher))
        for model, each in ((student, source), (teacher, plan.teacher)):
            learn(model, field=each.field)
        counts = interchange_counts(
            student,
            teacher,
            plan.pairs,
            plan.text.examples,
            rule=find_rule(settings.positions, task, plan.text.tokenizer, field="positions"),
            share=settings.share,
            special_ids=task.special_ids(plan.text.tokenizer),
            references=True,
            undistilled=None if plan.undistilled is None else build_student(teacher, plan.undistilled),
        )
        result = {"teacher": plan.teacher.name, "map": settings.map, "undistilled_layers": plan.undistilled}
        return {**result, "unswapped": agreement_numbers(counts), "models": interchange_numbers(counts)}, counts.as_json()

    title = f"interchange of {source.name} with {plan.teacher.name}" + (", every pair of layers" if settings.map else "")
    return [Job(plan.identity, dataclasses.asdict(settings), title, source.name, run)]


def interchange_identity(settings: InterchangeSettings, source: ModelSource, *, depth: int | None = None) -> dict[str, Any]:
    """What decides the result, also for a student of ``depth`` layers that is yet to be made of ``source``."""
    if depth is None:
        return plan_interchange(settings, source).identity
    text = interchange_text(settings, source)
    teacher = models.load_configuration(source)
    theirs = models.sizes_of(teacher, field=source.field)
    pairs = _pairs(settings, depth, theirs.depth, theirs.width, theirs.width)
    identity = _interchange_identity(settings, text, source, pairs)
    return identity if settings.student_layers is None else {**identity, "undistilled": settings.student_layers}


def classification_jobs(
    settings: ClassificationSettings, source: ModelSource, *, device: str, results: ResultsFile | None = None
) -> list[Job]:
    """The job of one classifier or tagger; with ``teacher`` both are measured, and how often they agree."""
    text, identity = _planned_classification(settings, source)
    metric = find_metric(text.task.metric)

    def run() -> Result:
        model = load_model(source, text.task).to(device_of(device))
        result: dict[str, Any] = {"task": text.task.name, "examples": len(text.examples.examples)}
        if settings.teacher is None:
            return {**result, "models": {source.name: metric(model, text.examples)}}, {}
        teacher = load_model(_teacher_of(settings), text.task).to(device_of(device))
        with predicted_once():
            ours = {**metric(model, text.examples), **metric.with_teacher(model, teacher, text.examples)}
            measured = (ours, metric(teacher, text.examples))
        return {**result, "models": dict(zip(names_of(source, _teacher_of(settings)), measured, strict=True))}, {}

    return [Job(identity, dataclasses.asdict(settings), f"classification of {source.name}", source.name, run)]


def classification_identity(
    settings: ClassificationSettings, source: ModelSource, *, depth: int | None = None
) -> dict[str, Any]:
    """What decides the result."""
    return _planned_classification(settings, source)[1]


def _planned_classification(settings: ClassificationSettings, source: ModelSource) -> tuple[PlannedText, dict[str, Any]]:
    if not settings.sources:
        raise Refusal("sources", "name labelled examples, such as '[{path: dev.tsv, column: sentence, label: label}]'")
    task = task_to_measure(settings, source)
    if not task.of_examples:
        raise Refusal("MODEL", f"{source.name!r} is a {task.noun}; give a sequence or token classifier")
    text = plan_text(settings, source, *([] if settings.teacher is None else [_teacher_of(settings)]))
    rows = text.examples.corpus
    if settings.teacher is None and isinstance(rows, Examples) and NO_LABELS in rows.remarks:
        raise Refusal("sources", f"{NO_LABELS}; without labels only agreement is measured, with --teacher")
    identity = {"kind": "classification", "model": models.digest(source), **text.identity}
    if settings.teacher is not None:
        teacher = _teacher_of(settings)
        check_teacher(source, text, teacher)
        ours, theirs = (label_names(models.load_configuration(each)) for each in (source, teacher))
        if ours != theirs:
            raise Refusal("teacher", f"its classes ({', '.join(theirs)}) are not those of {source.name!r} ({', '.join(ours)})")
        identity["teacher"] = models.digest(teacher)
    return text, identity


def _teacher_of(settings: ClassificationSettings) -> ModelSource:
    assert settings.teacher is not None
    return ModelSource(settings.teacher, "teacher", settings.teacher_revision)


@dataclass(frozen=True)
class InterchangePlan:
    """What is going to be compared."""

    text: PlannedText
    teacher: ModelSource
    pairs: list[AlignedPair]
    undistilled: list[int] | None
    identity: dict[str, Any]


def plan_interchange(settings: InterchangeSettings, source: ModelSource) -> InterchangePlan:
    """What is compared of a student with its teacher. Raises Refusal for what cannot be."""
    if settings.teacher is None:
        raise Refusal("teacher", "interchange compares a student with its teacher; give the teacher's hub id or folder")
    if settings.figure is not None:
        check_writable(expand(settings.figure, field="figure"), "figure")
        if Path(settings.figure).suffix not in (".png", ".pdf", ".svg"):
            raise Refusal("figure", f"{settings.figure} must end in .png, .pdf or .svg")
    teacher = ModelSource(settings.teacher, "teacher", settings.teacher_revision)
    text = interchange_text(settings, source, teacher)
    check_teacher(source, text, teacher)
    ours, theirs = (models.load_configuration(each) for each in (source, teacher))
    (depth, width, _), (teacher_depth, teacher_width, _) = (
        models.sizes_of(configuration, field=each.field) for configuration, each in ((ours, source), (theirs, teacher))
    )
    pairs = _pairs(settings, depth, teacher_depth, width, teacher_width)
    undistilled = _undistilled_layers(settings, source, ours, theirs)
    identity = {
        "kind": "interchange",
        "model": models.digest(source),
        **_interchange_identity(settings, text, teacher, pairs),
        "undistilled": undistilled,
    }
    return InterchangePlan(text, teacher, pairs, undistilled, identity)


def interchange_text(settings: InterchangeSettings, source: ModelSource, *beside: ModelSource) -> PlannedText:
    """The text on which interventions are measured. Raises Refusal for what cannot be."""
    text = plan_text(settings, source, *beside)
    refuse(positions_refusals(settings.positions, field="positions"))
    find_rule(settings.positions, text.task, text.tokenizer, field="positions")
    if isinstance(settings.positions, str):
        text.task.check_rule(settings.positions, field="positions", corpus=settings)
    if not find_metric(text.task.metric).is_of_classes:
        raise Refusal(
            "MODEL", f"{source.name!r} answers with no single class, and agreement is counted in classes; give another"
        )
    if len(text.examples.examples) < 3:
        raise Refusal("limit", "interchange needs at least 3, to swap between and for a random donor")
    return text


def _interchange_identity(
    settings: InterchangeSettings, text: PlannedText, teacher: ModelSource, pairs: Sequence[AlignedPair]
) -> dict[str, Any]:
    return {
        "teacher": models.digest(teacher),
        **text.identity,
        "positions": positions_as_data(settings),
        "share": settings.share,
        "pairs": [dataclasses.asdict(pair) for pair in pairs],
    }


def positions_as_data(settings: InterchangeSettings) -> Any:
    """What of an identity says which positions are swapped."""
    return settings.positions if isinstance(settings.positions, str) else dataclasses.asdict(settings.positions)


def _pairs(
    settings: InterchangeSettings, depth: int, teacher_depth: int, student_width: int, teacher_width: int
) -> list[AlignedPair]:
    if settings.map:
        return all_pairs(depth, teacher_depth)
    check_alignment(settings.alignment, depth)
    if settings.alignment.kind == "learned":
        raise Refusal("alignment.kind", "learned is chosen while a student is trained; give another kind")
    if settings.alignment.rotation.path is not None:
        sentence = "has a student's side that is trained with the student, so that its run alone measures it; leave it out"
        raise Refusal("alignment.rotation.path", sentence)
    layers = {"teacher_layers": teacher_depth, "student_layers": depth}
    alignment = build_alignment(settings.alignment, **layers, seed=settings.seed)
    alignment.check(**layers, teacher_width=teacher_width, student_width=student_width)
    return list(alignment.pairs)


def _undistilled_layers(settings: InterchangeSettings, source: ModelSource, student: Any, teacher: Any) -> list[int] | None:
    """The teacher's layers that make the undistilled student; None where the student cannot have been made of this teacher.

    Of a run of diito its recipe, beside the student, says which.
    """
    (depth, width, _), (teacher_depth, teacher_width, _) = (models.sizes_of(each, field="MODEL") for each in (student, teacher))
    alike = student.model_type == teacher.model_type and width == teacher_width
    if settings.student_layers is None and depth >= teacher_depth:
        return None
    if settings.student_layers is None:
        recipe = Path(resolve(source.name)).parent / "recipe.yaml"
        given = _copied_layers(read(recipe).student) if recipe.is_file() else depth
        chosen = student_layers(given, teacher_depth) if alike and given is not None else []
        return chosen if len(chosen) == depth else None
    try:
        chosen = student_layers(settings.student_layers, teacher_depth)
    except Refusal as refusal:
        raise refusal.at("student_layers") from refusal
    if not alike or len(chosen) != depth:
        raise Refusal("student_layers", f"{chosen} of the teacher do not make a student of {depth} layers like this one")
    return chosen


def _copied_layers(section: StudentSection) -> int | list[int] | str | None:
    """The layers that a recipe copies from the teacher; None where its student begins as something else."""
    return None if section.initial == "random" or section.model or section.config else in_full(section).layers


def _windows(settings: PerplexitySettings, text: PlannedText) -> HeldOut:
    """The text, in overlapping windows where the settings have a stride."""
    if settings.stride is None:
        return text.examples
    corpus = text.examples.corpus
    assert isinstance(corpus, Corpus)
    windows = Windows(corpus, settings.stride, text.task.framing(text.tokenizer))
    return dataclasses.replace(text.examples, corpus=windows)
