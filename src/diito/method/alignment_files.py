"""Π as a recipe describes it: by name, by its pairs, or in a file of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from diito.method.alignment import AlignedPair, Alignment
from diito.method.draws import host_random
from diito.recipe import AlignmentSection
from diito.recipe.checks import check_alignment
from diito.recipe.file import read_section
from diito.refusal import Refusal


def build_alignment(section: AlignmentSection, *, teacher_layers: int, student_layers: int, seed: int) -> Alignment:
    """Π as the section ``alignment`` describes it; of a learned one that with which it begins.

    Raises ValueError where the models are too shallow for it.
    """
    alignment = _named_alignment(section, teacher_layers, student_layers)
    if not section.top:
        alignment = alignment.without_top(student_layers)
    if section.shuffled:
        alignment = alignment.shuffled(teacher_layers, host_random("shuffled alignment", seed))
    return alignment


def _named_alignment(section: AlignmentSection, teacher_layers: int, student_layers: int) -> Alignment:
    if section.kind != "custom":
        kind = "full" if section.kind == "learned" else section.kind
        make = getattr(Alignment, kind.replace("-", "_"))
        return make(teacher_layers=teacher_layers, student_layers=student_layers)
    if section.file is not None:
        if section.file.endswith(".nm"):
            return Alignment.from_nm(section.file)
        content = read_section(AlignmentSection, section.file)
        if content.kind != "custom" or content.file is not None:
            raise Refusal("alignment.file", f"{section.file} must hold the pairs of an alignment of kind custom")
        _check_pairs_alone(content, section.file)
        check_alignment(content, student_layers)
        section = content
    pairs: Sequence[Any] = section.pairs or ()
    return Alignment(
        AlignedPair(pair.student, pair.teacher, pair.student_dimensions, pair.teacher_dimensions) for pair in pairs
    )


def _check_pairs_alone(content: AlignmentSection, file: str) -> None:
    """Refuse what a file says beside its pairs: it would be read by nobody."""
    without = dataclasses.replace(AlignmentSection(), kind=content.kind, pairs=content.pairs)
    for field in dataclasses.fields(content):
        if getattr(content, field.name) != getattr(without, field.name):
            sentence = f"{file} sets {field.name}, and only its pairs are read; set alignment.{field.name} in the recipe"
            raise Refusal("alignment.file", sentence)
