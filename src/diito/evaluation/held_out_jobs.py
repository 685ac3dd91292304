"""Jobs that measure on held-out text: perplexity, and interchange-intervention accuracy."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from diito import models
from diito.alignment import AlignedPair
from diito.alignments import build_alignment
from diito.corpus import check_sources, load_corpus
from diito.evaluation.agreement import interchange_numbers
from diito.evaluation.held_out import HeldOut, uniform_masking
from diito.evaluation.interchange import interchange_counts
from diito.evaluation.jobs import Job
from diito.evaluation.maps import all_pairs
from diito.evaluation.perplexity import TokenLosses, perplexity_difference, perplexity_numbers, token_losses
from diito.evaluation.results import ResultsFile
from diito.evaluation.settings import HeldOutSettings, InterchangeSettings, PerplexitySettings
from diito.layered import family_of
from diito.models import ModelSource
from diito.positions import RULES
from diito.recipe import CorpusSection
from diito.recipe.checks import check_alignment
from diito.student import build_student, student_layers
from diito.teacher import check_tokenizer, special_ids


def perplexity_jobs(settings: PerplexitySettings, source: ModelSource, *, device: str, results: ResultsFile) -> list[Job]:
    """A job for the model; with ``against`` one for the other model and one for their difference."""
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
        found = [results.find(job.identity) for job in (first, second)]
        ours, other = (TokenLosses.from_json(each.examples) for each in found if each is not None)
        return {"against": settings.against, **perplexity_difference(ours, other)}, {}

    identity = {**first.identity, "kind": "perplexity difference", "against": second.identity["model"]}
    return [first, second, Job(identity, f"difference from {settings.against}", source.name, run)]


def _perplexity_job(settings: PerplexitySettings, source: ModelSource, device: str) -> Job:
    held_out, _ = _held_out(settings, source)
    identity = {
        "kind": "perplexity",
        "model": models.digest(source),
        "text": held_out.digest(),
        "vocabulary": models.load_configuration(source).vocab_size,
        "seed": settings.seed,
        "draws": settings.draws,
        "layout": settings.layout,
        "length": settings.length,
    }

    def run() -> tuple[dict[str, Any], dict[str, Any]]:
        model = models.load_masked_language_model(source).to(_device(device))
        sums = token_losses(model, held_out, draws=settings.draws, progress=True)
        return perplexity_numbers(sums), sums.as_json()

    return Job(identity, f"perplexity of {source.name}", source.name, run)


def interchange_job(settings: InterchangeSettings, source: ModelSource, *, device: str) -> Job:
    """The job of one alignment, or of the map of all pairs of layers."""
    if settings.teacher is None:
        raise ValueError("--teacher: interchange compares a student with its teacher; give the teacher's hub id or folder")
    if not 0 < settings.share <= 1:
        raise ValueError(f"--share: {settings.share} must be above 0 and at most 1")
    if settings.figure is not None and Path(settings.figure).suffix not in (".png", ".pdf", ".svg"):
        raise ValueError(f"--figure: {settings.figure} must end in .png, .pdf or .svg")
    teacher = ModelSource(settings.teacher, "--teacher")
    held_out, tokenizer = _held_out(settings, source)
    _check_vocabularies(source, tokenizer, teacher)
    if len(held_out.examples) < 3:
        raise ValueError("--blocks: interchange needs at least 3, to swap between and for a random donor")
    depths = {side: models.load_configuration(each) for side, each in (("student", source), ("teacher", teacher))}
    pairs = _pairs(settings, depths["student"], depths["teacher"])
    undistilled = _undistilled_layers(settings, depths["student"], depths["teacher"])
    identity = {
        "kind": "interchange",
        "model": models.digest(source),
        "teacher": models.digest(teacher),
        "text": held_out.digest(),
        "seed": settings.seed,
        "length": settings.length,
        "positions": settings.positions,
        "share": settings.share,
        "pairs": [dataclasses.asdict(pair) for pair in pairs],
        "undistilled": undistilled,
    }

    def run() -> tuple[dict[str, Any], dict[str, Any]]:
        place = _device(device)
        student_model, teacher_model = (models.load_masked_language_model(each).to(place) for each in (source, teacher))
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
        return {"teacher": teacher.name, "map": settings.map, **interchange_numbers(counts)}, counts.as_json()

    return Job(identity, f"interchange of {source.name} with {teacher.name}", source.name, run)


def _pairs(settings: InterchangeSettings, student: Any, teacher: Any) -> list[AlignedPair]:
    depth, teacher_depth = student.num_hidden_layers, teacher.num_hidden_layers
    if settings.map:
        return all_pairs(depth, teacher_depth)
    check_alignment(settings.alignment, depth)
    alignment = build_alignment(settings.alignment, teacher_layers=teacher_depth, student_layers=depth, seed=settings.seed)
    alignment.check(
        teacher_layers=teacher_depth,
        student_layers=depth,
        teacher_width=teacher.hidden_size,
        student_width=student.hidden_size,
    )
    return list(alignment.pairs)


def _undistilled_layers(settings: InterchangeSettings, student: Any, teacher: Any) -> list[int] | None:
    """The teacher's layers that make the undistilled student; None where the student cannot have been made of this teacher."""
    depth = student.num_hidden_layers
    alike = student.model_type == teacher.model_type and student.hidden_size == teacher.hidden_size
    if settings.student_layers is None:
        fits = alike and depth < teacher.num_hidden_layers
        return student_layers(depth, teacher.num_hidden_layers) if fits else None
    chosen = student_layers(settings.student_layers, teacher.num_hidden_layers)
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
    configuration = models.load_configuration(source)
    family_of(configuration.model_type, field=source.field)
    longest = models.longest_sequence(source)
    if longest is not None and settings.length > longest:
        raise ValueError(f"--length: {settings.length} tokens, but {source.name} has positions for {longest}; give fewer")
    tokenizer = models.load_tokenizer(source)
    check_tokenizer(tokenizer, source, vocabulary=configuration.vocab_size, field=source.field)
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
    masking = uniform_masking(tokenizer, vocab_size=configuration.vocab_size)
    return HeldOut(corpus, masking, settings.seed, settings.blocks, settings.batch), tokenizer


def _check_vocabularies(source: ModelSource, tokenizer: PreTrainedTokenizerBase, teacher: ModelSource) -> None:
    models.check_files(teacher)
    ours, theirs = models.load_configuration(source), models.load_configuration(teacher)
    family_of(theirs.model_type, field=teacher.field)
    if ours.vocab_size != theirs.vocab_size or tokenizer.get_vocab() != models.load_tokenizer(teacher).get_vocab():
        raise ValueError(
            f"--teacher: {teacher.name!r} has another vocabulary than {source.name!r}; interchange needs "
            "a student and a teacher that read and predict the same words"
        )


def _device(wanted: str) -> torch.device:
    if wanted == "cpu" or not torch.accelerator.is_available():
        return torch.device("cpu")
    return torch.accelerator.current_accelerator()  # type: ignore[return-value]
