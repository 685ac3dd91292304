"""What can be refused from the recipe alone, before a model, a corpus or torch is loaded.

What a single field accepts stands in its type (``sections``). :func:`check` goes through what no model or corpus could make
right across fields, in the order of the recipe, and raises all of it at once. Fields that need more than the recipe (layers
the teacher does not have, a corpus that is not there) are checked where that is known.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Literal, get_args, get_origin

from diito.paths import expand
from diito.plugins import check_reference
from diito.recipe.arguments import argument_refusals
from diito.recipe.file import read_again
from diito.recipe.keys import bare, hints, members
from diito.recipe.loss_checks import is_causal, objective_refusals
from diito.recipe.sections import (
    LAYERS,
    RELEASED_LAYERS,
    AlignmentSection,
    CorpusSection,
    EvaluationSection,
    InterventionSection,
    PositionsSection,
    Recipe,
    SourceSection,
    StudentSection,
)
from diito.refusal import Refusal, refuse


def check(recipe: Recipe) -> None:
    """Raise ValueError, a sentence for each field, if something in the recipe can never be right."""
    read_again(recipe)
    refuse(_refusals(recipe))


def check_alignment(alignment: AlignmentSection, depth: int | None) -> None:
    """The same for the section ``alignment`` alone, with a student of ``depth`` layers (None: not known yet)."""
    read_again(alignment)
    refuse(_alignment(alignment, depth))


def student_depth(student: StudentSection) -> int | None:
    """The number of layers of the student, as far as the recipe alone says it."""
    if student.model is not None:
        return None
    if student.config is not None:
        depth = student.config.get("num_hidden_layers")
        return depth if isinstance(depth, int) else None
    layers = LAYERS if student.layers is None else student.layers
    if isinstance(layers, str):
        return len(RELEASED_LAYERS[layers]) if layers in RELEASED_LAYERS else None
    return layers if isinstance(layers, int) else len(layers)


def in_full(section: StudentSection) -> StudentSection:
    """The section with the layers that are meant where it says nothing."""
    says_nothing = section.layers is None and section.model is None and section.config is None
    return dataclasses.replace(section, layers=LAYERS) if says_nothing else section


def too_few_rows(recipe: Recipe) -> Iterator[Refusal]:
    """Of a recipe with a loss that reads swapped runs: in-batch pairing without enough rows for a row and its sources."""
    sources = recipe.intervention.sources_per_row
    if recipe.intervention.pairing == "in-batch" and recipe.training.batch <= sources:
        has = "a row has another as its source" if sources == 1 else f"a row has {sources} others as its sources"
        yield Refusal(
            "training.per_device_train_batch_size",
            f"in-batch pairing needs at least {sources + 1} rows, so that {has}; "
            "raise it, or set intervention.pairing to independent",
        )


def _refusals(recipe: Recipe) -> Iterator[Refusal]:
    yield from _student(recipe.student)
    yield from _corpus(recipe.corpus)
    yield from _alignment(recipe.alignment, student_depth(recipe.student))
    yield from _intervention(recipe)
    yield from objective_refusals(recipe)
    if is_causal(recipe):
        yield from too_few_rows(recipe)
    yield from argument_refusals(recipe.training)
    yield from _evaluation(recipe.evaluation)
    yield from _learned(recipe)


def student_form(student: StudentSection) -> Iterator[Refusal]:
    """What does not go together of the ways to make a student."""
    given = [name for name in ("layers", "model", "config") if getattr(student, name) is not None]
    if len(given) > 1:
        other = f"is another way to make a student than student.{given[1]}; give one of them, and null for the other"
        yield Refusal(f"student.{given[0]}", other)
        return
    form, initial = given[0] if given else "layers", student.initial
    if form != "model" and student.revision is not None:
        yield Refusal("student.revision", "belongs to student.model; leave it out, or give that")
    if form == "model" and initial is not None:
        yield Refusal("student.initial", "leave it out with student.model, which brings its weights")
    if form == "layers" and initial == "cut":
        yield Refusal(
            "student.initial", "cut makes a student narrower: say how in student.config, or take teacher, which copies"
        )
    if form == "config" and initial == "teacher":
        yield Refusal(
            "student.initial", "teacher copies whole layers: give student.layers, or take cut, which keeps parts of them"
        )
    if student.calibration is not None and initial != "cut":
        yield Refusal("student.calibration", "belongs to student.initial: cut; leave it out")
    if student.lora is not None and student.freeze is not None:
        yield Refusal("student.freeze", "leave it out with student.lora, which trains nothing but the adapter")
    if student.lora is not None and student.lora.get("merge") is False and form != "model":
        yield Refusal(
            "student.lora",
            "an adapter alone needs the model that it was trained on, and one that is made from the teacher is saved nowhere; "
            "set merge to true, or save that student and give it as student.model",
        )


def _student(student: StudentSection) -> Iterator[Refusal]:
    layers = student.layers
    if isinstance(layers, str) and layers not in RELEASED_LAYERS:
        near = difflib.get_close_matches(layers, RELEASED_LAYERS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        known = ", ".join(RELEASED_LAYERS)
        sentence = f"{layers!r} is not a number of layers, a list of teacher layers or one of {known}{hint}"
        yield Refusal("student.layers", sentence)
    yield from student_form(student)


def _references(fields: dict[str, tuple[str, str, Collection[str]]]) -> Iterator[Refusal]:
    """Names that are not diito's own, of no installed package and no import path."""
    for field, (reference, group, known) in fields.items():
        try:
            check_reference(reference, field=field, group=group, known=known)
        except Refusal as refusal:
            yield refusal


def _corpus(corpus: CorpusSection) -> Iterator[Refusal]:
    yield from _sources("corpus.sources", corpus.sources)
    longest = corpus.length or 512
    if corpus.layout == "lines" and corpus.minimum_tokens > longest:
        yield Refusal("corpus.minimum_tokens", f"{corpus.minimum_tokens} must be at most corpus.length, {longest}")


def _sources(field: str, sources: Sequence[SourceSection | str]) -> Iterator[Refusal]:
    for index, source in enumerate(sources):
        place = f"{field}[{index}]"
        if isinstance(source, str):
            continue
        if bool(source.path) == bool(source.dataset):
            yield Refusal(place, "give exactly one of path (local text) and dataset (a hub id)")
        elif source.path and (source.config or source.revision):
            given = "config" if source.config else "revision"
            yield Refusal(f"{place}.{given}", "belongs to a hub dataset; leave it out where path is given")


def _alignment(alignment: AlignmentSection, depth: int | None) -> Iterator[Refusal]:
    kind = alignment.kind
    if alignment.every is not None and kind != "learned":
        yield Refusal("alignment.every", f"belongs to alignment.kind learned, and the kind is {kind}")
    if alignment.shuffled and kind == "learned":
        yield Refusal("alignment.shuffled", "must be false with alignment.kind learned, which would choose layers anew")
    yield from _rotation(alignment)
    if kind == "custom":
        yield from _custom(alignment, depth)
        return
    for given in ("pairs", "file"):
        if getattr(alignment, given) is not None:
            yield Refusal(f"alignment.{given}", f"belongs to alignment.kind custom, and the kind is {kind}")
    if depth is None:
        return
    needed = {"late": 2, "late-released": 3}.get(kind, 1)
    if depth < needed:
        yield Refusal("alignment.kind", f"{kind} needs at least {needed} student layers; student.layers gives {depth}")
    if not alignment.top and (depth == 1 or (kind == "middle" and depth == 2)):
        yield Refusal("alignment.top", f"must be true; {kind} has no pair below the top of {depth} layers")


def _rotation(alignment: AlignmentSection) -> Iterator[Refusal]:
    field, path = "alignment.rotation.path", alignment.rotation.path
    if path is None:
        return
    if not expand(path, field=field).is_file():
        yield Refusal(field, f"{path!r} is not a file; give one that diito align --rotation.dimensions wrote")
    if alignment.kind == "learned":
        yield Refusal(field, "belongs to layers that stay; leave it out with alignment.kind learned")
    pairs: Sequence[Any] = alignment.pairs or []
    if any(pair.student_dimensions or pair.teacher_dimensions for pair in pairs):
        sentence = "says itself which dimensions are swapped; leave student_dimensions and teacher_dimensions out"
        yield Refusal(field, sentence)


def _learned(recipe: Recipe) -> Iterator[Refusal]:
    """What an alignment needs that is chosen while training."""
    if recipe.alignment.kind != "learned":
        return
    if recipe.evaluation.sources == []:
        yield Refusal("alignment.kind", "learned needs held-out text to choose on; name some in evaluation.sources")
    if recipe.intervention.share == 1:
        sentence = "1 leaves no token unswapped, and a learned alignment is chosen at unswapped tokens; give less"
        yield Refusal("intervention.share", sentence)
    if recipe.intervention.control == "token-swap":
        yield Refusal("alignment.kind", "must not be learned with the control token-swap, which needs no alignment")


def _custom(alignment: AlignmentSection, depth: int | None) -> Iterator[Refusal]:
    if (alignment.pairs is None) == (alignment.file is None):
        yield Refusal("alignment.kind", "custom needs exactly one of alignment.pairs and alignment.file")
    elif alignment.file is not None and not os.path.isfile(alignment.file):
        yield Refusal("alignment.file", f"{alignment.file!r} is not a file; give the path of a .nm or .yaml file")
    pairs: Sequence[Any] = alignment.pairs or []
    for index, pair in enumerate(pairs):
        if depth is not None and pair.student[-1] >= depth:
            within = f"{pair.student} must stay within the student's layers, 0 to {depth - 1}"
            yield Refusal(f"alignment.pairs[{index}].student", within)


def _intervention(recipe: Recipe) -> Iterator[Refusal]:
    intervention = recipe.intervention
    yield from _references(
        {
            f"intervention.{name}": (getattr(intervention, name), f"diito.{group}", _literals(name))
            for name, group in (("positions", "positions"), ("pairing", "pairings"))
            if isinstance(getattr(intervention, name), str)
        }
    )
    yield from positions_refusals(intervention.positions, field="intervention.positions")
    has_own = any(recipe.objective.weights.further.values()) or recipe.objective.losses  # their rows decide, once loaded
    if intervention.control != "none" and not is_causal(recipe) and not has_own:
        yield Refusal(
            "intervention.control",
            f"{intervention.control} needs objective.weights.causal_ce or causal_cos above 0, the weights of the losses on the "
            "swapped text",
        )
    several = intervention.sources_per_row
    if several > 1 and intervention.pairing not in _literals("pairing"):
        sentence = f"must be 1 with the pairing {intervention.pairing}, which gives a row one source"
        yield Refusal("intervention.sources_per_row", sentence)
    if several > 1 and not isinstance(intervention.positions, str) and len(intervention.positions.segments or []) > 1:
        sentence = "must be 1 with positions.segments, of which one is drawn for each row and not for each of its sources"
        yield Refusal("intervention.sources_per_row", sentence)
    if intervention.control == "token-swap" and recipe.alignment.pairs_per_batch > 1:
        yield Refusal("alignment.pairs_per_batch", "must be 1 with the control token-swap, which needs no alignment")
    if intervention.control == "token-swap" and recipe.alignment.rotation.path is not None:
        yield Refusal("alignment.rotation.path", "must be null with the control token-swap, which swaps words, not states")
    if intervention.control == "token-swap" and recipe.alignment.shuffled:
        yield Refusal("alignment.shuffled", "must be false with the control token-swap, which needs no alignment")


def _literals(name: str) -> tuple[str, ...]:
    """The values that a field of the section ``intervention`` names."""
    kinds = map(bare, members(hints(InterventionSection)[name]))
    return next(get_args(kind) for kind in kinds if get_origin(kind) is Literal)


def positions_refusals(positions: PositionsSection | str, *, field: str) -> Iterator[Refusal]:
    """What does not go together of positions that are named."""
    if isinstance(positions, str):
        return
    given = [name for name, value in vars(positions).items() if value is not None]
    if len(given) != 1:
        yield Refusal(field, f"give exactly one of {', '.join(vars(positions))}, and not {' and '.join(given) or 'none'}")


def _evaluation(evaluation: EvaluationSection) -> Iterator[Refusal]:
    yield from _sources("evaluation.sources", evaluation.sources or [])
    if evaluation.interchange_every and evaluation.sources == []:
        yield Refusal("evaluation.interchange_every", "needs held-out text; name some in evaluation.sources")
