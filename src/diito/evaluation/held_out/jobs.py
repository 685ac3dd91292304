"""Jobs that measure on held-out text: perplexity, and interchange-intervention accuracy."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from diito.corpus import check_sources, load_corpus
from diito.embedded import resolve
from diito.evaluation.fine_tuning.jobs import Job
from diito.evaluation.held_out.agreement import interchange_numbers
from diito.evaluation.held_out.interchange import interchange_counts
from diito.evaluation.held_out.maps import all_pairs
from diito.evaluation.held_out.perplexity import TokenLosses, perplexity_difference, perplexity_numbers, token_losses
from diito.evaluation.held_out.text import HeldOut, uniform_masking
from diito.evaluation.results import ResultsFile
from diito.evaluation.settings import HeldOutSettings, InterchangeSettings, PerplexitySettings
from diito.files import check_writable
from diito.method.alignment import AlignedPair
from diito.method.alignment_files import build_alignment
from diito.method.positions import RULES
from diito.models import load as models
from diito.models.learn import learn
from diito.models.load import ModelSource
from diito.models.student import build_student, student_layers
from diito.models.teacher import check_tokenizer, special_ids
from diito.recipe import CorpusSection
from diito.recipe.checks import check_alignment
from diito.recipe.file import read


def perplexity_jobs(
    settings: PerplexitySettings, source: ModelSource, *, device: str, results: ResultsFile | None = None
) -> list[Job]:
    """A job for the model; with ``against`` one for the other model and one for their difference, made from ``results``."""
    if settings.draws < 1:
        raise ValueError(f"--draws: {settings.draws} must be at least 1")
    first = _perplexity_job(settings, source, device)
    if settings.against is None:
        return [first]
    second = _perplexity_job(settings, ModelSource(settings.against, "--against"), device)
    if any(first.identity[name] != second.identity[name] for name in ("text", "vocabulary")):
        raise ValueError(
            f"--against: {settings.against!r} reads the text with another vocabulary than {source.name!r}, so that their "
            "perplexities do not compare; give a model with the same tokenizer"
        )

    def run() -> tuple[dict[str, Any], dict[str, Any]]:
        assert results is not None
        found = [results.find(job.identity) for job in (first, second)]
        ours, other = (TokenLosses.from_json(each.examples) for each in found if each is not None)
        return {"against": settings.against, **perplexity_difference(ours, other)}, {}

    identity = {**first.identity, "kind": "perplexity difference", "against": second.identity["model"]}
    return [first, second, Job(identity, first.settings, f"difference from {settings.against}", source.name, run)]


def _perplexity_job(settings: PerplexitySettings, source: ModelSource, device: str) -> Job:
    held_out, tokenizer = _held_out(settings, source)
    identity = {
        "kind": "perplexity",
        "model": models.digest(source),
        **_text_identity(settings, held_out, tokenizer, source),
        "draws": settings.draws,
    }

    def run() -> tuple[dict[str, Any], dict[str, Any]]:
        model = models.load_masked_language_model(source).to(_device(device))
        sums = token_losses(model, held_out, draws=settings.draws, progress=True)
        return perplexity_numbers(sums), sums.as_json()

    return Job(identity, dataclasses.asdict(settings), f"perplexity of {source.name}", source.name, run)


def interchange_job(settings: InterchangeSettings, source: ModelSource, *, device: str) -> Job:
    """The job of one alignment, or of the map of all pairs of layers."""
    if settings.teacher is None:
        raise ValueError("--teacher: interchange compares a student with its teacher; give the teacher's hub id or folder")
    _check_share(settings)
    if settings.figure is not None:
        check_writable(Path(settings.figure), "--figure")
        if Path(settings.figure).suffix not in (".png", ".pdf", ".svg"):
            raise ValueError(f"--figure: {settings.figure} must end in .png, .pdf or .svg")
    teacher = ModelSource(settings.teacher, "--teacher", settings.teacher_revision)
    held_out, tokenizer = _held_out(settings, source)
    _check_teacher(settings, source, tokenizer, teacher)
    _check_blocks(held_out)
    student_configuration, teacher_configuration = (models.load_configuration(each) for each in (source, teacher))
    configurations = (student_configuration, teacher_configuration)
    depths, widths = ([getattr(each, name) for each in configurations] for name in ("num_hidden_layers", "hidden_size"))
    pairs = _pairs(settings, *depths, *widths)
    undistilled = _undistilled_layers(settings, source, student_configuration, teacher_configuration)
    identity = {
        "kind": "interchange",
        "model": models.digest(source),
        "teacher": models.digest(teacher),
        **_text_identity(settings, held_out, tokenizer, source),
        "positions": settings.positions,
        "share": settings.share,
        "pairs": [dataclasses.asdict(pair) for pair in pairs],
        "undistilled": undistilled,
    }

    def run() -> tuple[dict[str, Any], dict[str, Any]]:
        place = _device(device)
        student_model, teacher_model = (models.load_masked_language_model(each).to(place) for each in (source, teacher))
        for model, each in ((student_model, source), (teacher_model, teacher)):
            learn(model, field=each.field)
        counts = interchange_counts(
            student_model,
            teacher_model,
            pairs,
            held_out,
            rule=RULES[settings.positions],
            share=settings.share,
            special_ids=special_ids(tokenizer),
            references=True,
            undistilled=None if undistilled is None else build_student(teacher_model, undistilled),
            progress=True,
        )
        result = {"teacher": teacher.name, "map": settings.map, "undistilled_layers": undistilled}
        return {**result, "models": interchange_numbers(counts)}, counts.as_json()

    title = f"interchange of {source.name} with {teacher.name}"
    return Job(identity, dataclasses.asdict(settings), title, source.name, run)


def planned_interchange(settings: InterchangeSettings, teacher: ModelSource, *, student_depth: int) -> dict[str, Any]:
    """What decides the result of :func:`interchange_job` for a student that is yet to be made of this teacher.

    Refuses (ValueError) text, share and alignment that the job would refuse.
    """
    _check_share(settings)
    held_out, tokenizer = _held_out(settings, teacher)
    _check_blocks(held_out)
    identity = _text_identity(settings, held_out, tokenizer, teacher)
    if settings.student_layers is not None:
        identity["undistilled"] = settings.student_layers
    configuration = models.load_configuration(teacher)
    depths = (student_depth, configuration.num_hidden_layers)
    pairs = _pairs(settings, *depths, *[configuration.hidden_size] * 2)
    return {
        **identity,
        "teacher": models.digest(teacher),
        "positions": settings.positions,
        "share": settings.share,
        "pairs": [dataclasses.asdict(pair) for pair in pairs],
    }


def _check_blocks(held_out: HeldOut) -> None:
    if len(held_out.examples) < 3:
        raise ValueError("--blocks: interchange needs at least 3, to swap between and for a random donor")


def _check_share(settings: InterchangeSettings) -> None:
    if not 0 < settings.share <= 1:
        raise ValueError(f"--share: {settings.share} must be above 0 and at most 1")


def _pairs(
    settings: InterchangeSettings, depth: int, teacher_depth: int, student_width: int, teacher_width: int
) -> list[AlignedPair]:
    if settings.map:
        return all_pairs(depth, teacher_depth)
    if depth > teacher_depth and settings.alignment.kind != "custom":
        raise ValueError(
            f"--alignment.kind: {settings.alignment.kind} needs a teacher as deep as the student, and they have "
            f"{teacher_depth} and {depth} layers; give custom pairs, or --map true"
        )
    try:
        check_alignment(settings.alignment, depth)
    except ValueError as error:
        raise ValueError("--" + str(error).replace("student.layers gives", "the student has")) from error
    alignment = build_alignment(settings.alignment, teacher_layers=teacher_depth, student_layers=depth, seed=settings.seed)
    alignment.check(
        teacher_layers=teacher_depth,
        student_layers=depth,
        teacher_width=teacher_width,
        student_width=student_width,
    )
    return list(alignment.pairs)


def _undistilled_layers(settings: InterchangeSettings, source: ModelSource, student: Any, teacher: Any) -> list[int] | None:
    """The teacher's layers that make the undistilled student; None where the student cannot have been made of this teacher.

    Of a run of diito its recipe, beside the student, says which.
    """
    depth, teacher_depth = student.num_hidden_layers, teacher.num_hidden_layers
    alike = student.model_type == teacher.model_type and student.hidden_size == teacher.hidden_size
    if settings.student_layers is None:
        recipe = Path(resolve(source.name)).parent / "recipe.yaml"
        chosen = student_layers(read(recipe).student.layers if recipe.is_file() else depth, teacher_depth) if alike else []
        return chosen if len(chosen) == depth < teacher_depth else None
    try:
        chosen = student_layers(settings.student_layers, teacher_depth)
    except ValueError as error:
        raise ValueError(str(error).replace("student.layers", "--student_layers", 1)) from error
    if not alike or len(chosen) != depth:
        raise ValueError(f"--student_layers: {chosen} of the teacher do not make a student of {depth} layers like this one")
    return chosen


def _held_out(settings: HeldOutSettings, source: ModelSource) -> tuple[HeldOut, PreTrainedTokenizerBase]:
    """The masked text, tokenised with the model's own tokenizer."""
    for name, least in (("length", 3), ("batch", 1), ("workers", 1), ("blocks", 1)):
        value = getattr(settings, name)
        if value is not None and value < least:
            raise ValueError(f"--{name}: {value} must be at least {least}")
    if not settings.sources:
        raise ValueError("--sources: the list is empty; name held-out text, such as '[my-text.txt]'")
    check_sources(settings.sources, field="--sources")
    models.check_files(source)
    models.check_masked_language_model(source)
    _check_length(settings, source)
    vocabulary = models.load_configuration(source).vocab_size
    tokenizer = models.load_tokenizer(source)
    check_tokenizer(tokenizer, source, vocabulary=vocabulary, field=source.field)
    section = CorpusSection(
        sources=settings.sources,
        layout=settings.layout,
        length=settings.length,
        minimum_tokens=min(12, settings.length),
        workers=settings.workers,
        cache=settings.cache,
    )
    try:
        corpus = load_corpus(section, tokenizer=tokenizer, seed=0, field="evaluation")
    except ValueError as error:  # a recipe's names of the fields are flags here
        raise ValueError(str(error).replace("evaluation.", "--", 1)) from error
    masking = uniform_masking(tokenizer, vocab_size=vocabulary)
    return HeldOut(corpus, masking, settings.seed, settings.blocks, settings.batch), tokenizer


def _text_identity(
    settings: HeldOutSettings, held_out: HeldOut, tokenizer: PreTrainedTokenizerBase, source: ModelSource
) -> dict[str, Any]:
    """All that decides which words are masked, by what, and in which documents they stand."""
    words = [
        sorted(tokenizer.get_vocab().items()),
        sorted(tokenizer.all_special_ids),
        models.load_configuration(source).vocab_size,
    ]
    return {
        "text": held_out.digest(),
        "vocabulary": hashlib.sha256(json.dumps(words).encode()).hexdigest()[:32],
        "seed": settings.seed,
        "layout": settings.layout,
        "length": settings.length,
    }


def _check_length(settings: HeldOutSettings, source: ModelSource) -> None:
    longest = models.longest_sequence(source)
    if longest is not None and settings.length > longest:
        raise ValueError(f"--length: {settings.length} tokens, but {source.name} has positions for {longest}; give fewer")


def _check_teacher(
    settings: InterchangeSettings, source: ModelSource, tokenizer: PreTrainedTokenizerBase, teacher: ModelSource
) -> None:
    models.check_files(teacher)
    models.check_masked_language_model(teacher)
    _check_length(settings, teacher)
    ours, theirs = (models.load_configuration(each).vocab_size for each in (source, teacher))
    if ours != theirs or tokenizer.get_vocab() != models.load_tokenizer(teacher).get_vocab():
        raise ValueError(
            f"--teacher: {teacher.name!r} has another vocabulary than {source.name!r}; interchange needs "
            "a student and a teacher that read and predict the same words"
        )


def _device(wanted: str) -> torch.device:
    if wanted == "cpu" or not torch.accelerator.is_available():
        return torch.device("cpu")
    return torch.accelerator.current_accelerator()  # type: ignore[return-value]
