"""The alignment Π: which sets of student neurons answer to which sets of teacher neurons.

An :class:`Alignment` is a list of :class:`AlignedPair`; each names layers (0-based; a layer's value is its output) and,
optionally, ranges of the hidden state on either side. Columns (token positions) correspond one to one and are chosen
elsewhere. One pair is drawn for each micro-batch.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from diito.paths import expand
from diito.refusal import Refusal

DimensionRange = tuple[int, int]
Dimensions = Sequence[Sequence[int]] | Sequence[int] | slice | range | None


def dimension_ranges(dimensions: Dimensions) -> tuple[DimensionRange, ...] | None:
    """Ranges of a hidden state in one form: a tuple of ``(start, stop)``, or None for all of it.

    Takes None, a slice or range of step 1, one ``(start, stop)``, or a sequence of them.
    Raises ValueError where a range is empty, negative or has a step, where two overlap, and where there is none.
    """
    if dimensions is None:
        return None
    if isinstance(dimensions, slice | range):
        if dimensions.step not in (None, 1) or dimensions.stop is None:
            raise Refusal("dimensions", f"{dimensions} must have a stop and step 1")
        dimensions = (dimensions.start or 0, dimensions.stop)
    if len(dimensions) == 2 and all(isinstance(bound, int) for bound in dimensions):
        dimensions = (dimensions,)  # type: ignore[assignment]
    ranges = tuple((int(start), int(stop)) for start, stop in dimensions)  # type: ignore[misc]
    for start, stop in ranges:
        if not 0 <= start < stop:
            raise Refusal("dimensions", f"[{start}, {stop}) is empty or negative; give 0 <= start < stop")
    if not ranges:
        raise Refusal("dimensions", "no range is given; give at least one, or None for all of the hidden state")
    for (start, stop), (following, end) in pairwise(sorted(ranges)):
        if following < stop:
            raise Refusal("dimensions", f"[{start}, {stop}) and [{following}, {end}) overlap")
    return ranges


def other_dimensions(ranges: Sequence[DimensionRange] | None, width: int) -> tuple[DimensionRange, ...]:
    """The ranges of a hidden state of ``width`` that ``ranges`` (None: all of it) leave out."""
    if ranges is None:
        return ()
    bounds = [0, *(bound for each in sorted(ranges) for bound in each), width]
    return tuple((start, stop) for start, stop in zip(bounds[::2], bounds[1::2], strict=True) if start < stop)


@dataclass(frozen=True)
class AlignedPair:
    """One element of Π: student layers (and ranges of their states) and the teacher's that answer to them."""

    student: tuple[int, ...]
    teacher: tuple[int, ...]
    student_dimensions: tuple[DimensionRange, ...] | None = None
    teacher_dimensions: tuple[DimensionRange, ...] | None = None

    def __init__(
        self,
        student: Iterable[int],
        teacher: Iterable[int],
        student_dimensions: Dimensions = None,
        teacher_dimensions: Dimensions = None,
    ) -> None:
        object.__setattr__(self, "student", tuple(student))
        object.__setattr__(self, "teacher", tuple(teacher))
        object.__setattr__(self, "student_dimensions", dimension_ranges(student_dimensions))
        object.__setattr__(self, "teacher_dimensions", dimension_ranges(teacher_dimensions))
        for side, layers in (("student", self.student), ("teacher", self.teacher)):
            if not layers or list(layers) != sorted(set(layers)) or layers[0] < 0:
                raise Refusal("alignment.pairs", f"{side} layers {list(layers)} must be increasing and start at 0 or above")

    def __str__(self) -> str:
        student = _said(self.student, self.student_dimensions)
        return f"{student} → {_said(self.teacher, self.teacher_dimensions)}"


@dataclass(frozen=True)
class Alignment:
    """Π as a sequence of pairs. Make one with ``full``, ``middle``, ``late``, ``late_released``, ``from_nm`` or from pairs."""

    pairs: tuple[AlignedPair, ...]

    def __init__(self, pairs: Iterable[AlignedPair]) -> None:
        object.__setattr__(self, "pairs", tuple(pairs))
        if not self.pairs:
            raise Refusal("alignment.pairs", "no pair is left; an alignment needs at least one")

    @classmethod
    def full(cls, teacher_layers: int, student_layers: int) -> Alignment:
        """FULL: the teacher's layers cut into one contiguous group a student layer, the first ones larger by one.

        Of a student with more layers than its teacher it is the other way round: a group of student layers a teacher layer.
        """
        _check_depths(teacher_layers, student_layers)
        if student_layers <= teacher_layers:
            return cls(AlignedPair([layer], group) for layer, group in enumerate(_groups(teacher_layers, student_layers)))
        return cls(AlignedPair(group, [layer]) for layer, group in enumerate(_groups(student_layers, teacher_layers)))

    @classmethod
    def middle(cls, teacher_layers: int, student_layers: int) -> Alignment:
        """MIDDLE: the row L_S // 2 of the student answers to the row L_T // 2 of the teacher (rows counted from 0)."""
        _check_depths(teacher_layers, student_layers)
        return cls([AlignedPair([student_layers // 2], [teacher_layers // 2])])

    @classmethod
    def late(cls, teacher_layers: int, student_layers: int) -> Alignment:
        """LATE, as the paper's text: the student's first two rows answer to the teacher's T_{L_T-3} and T_{L_T-2}."""
        _check_depths(teacher_layers, student_layers)
        if student_layers < 2 or teacher_layers < 3:
            raise Refusal("alignment.kind", "late needs at least 2 student layers and 3 teacher layers")
        return cls([AlignedPair([0], [teacher_layers - 3]), AlignedPair([1], [teacher_layers - 2])])

    @classmethod
    def late_released(cls, teacher_layers: int, student_layers: int) -> Alignment:
        """LATE, as the authors' released files: S_{L_S-3} and S_{L_S-2} answer to T_{L_T-3} and T_{L_T-2}."""
        _check_depths(teacher_layers, student_layers)
        if min(student_layers, teacher_layers) < 3:
            depths = f"not {student_layers} and {teacher_layers}"
            raise Refusal("alignment.kind", f"late-released needs at least 3 student layers and 3 teacher layers, {depths}")
        return cls(AlignedPair([student_layers - row], [teacher_layers - row]) for row in (3, 2))

    @classmethod
    def from_nm(cls, path: str | os.PathLike[str], *, head_size: int = 64) -> Alignment:
        """The alignment in a neuron-mapping (``.nm``) file of the authors' released code.

        ``head_size``: width of an attention head, in which the file counts dimensions. Variables that cover whole heads
        become one range; a set that starts at head 0 and covers 12 whole heads stays a range too (0 to 12 * head_size).
        Raises ValueError naming ``alignment.file`` where the file is not such a mapping.
        """
        try:
            with expand(os.fspath(path), field="alignment.file").open(encoding="utf-8") as file:
                mappings = json.load(file)["interchange_variable_mappings"]
            return cls(
                _pair_of_variables(each["student_variable_names"], each["teacher_variable_names"], head_size)
                for each in mappings
            )
        except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, RecursionError) as error:
            raise Refusal("alignment.file", f"{path} is not a neuron mapping (.nm) file: {error}") from error

    def __str__(self) -> str:
        return ", ".join(map(str, self.pairs))

    def as_dict(self) -> dict[int, list[int]]:
        """``{student layer: [teacher layers]}``; a pair of several student layers appears under each of them."""
        table: dict[int, set[int]] = {}
        for pair in self.pairs:
            for layer in pair.student:
                table.setdefault(layer, set()).update(pair.teacher)
        return {layer: sorted(table[layer]) for layer in sorted(table)}

    def without_top(self, student_layers: int) -> Alignment:
        """The pairs that do not reach the student's last layer. Raises ValueError when none is left."""
        kept = [pair for pair in self.pairs if pair.student[-1] < student_layers - 1]
        if not kept:
            raise Refusal("alignment.top", "every pair reaches the student's last layer; set it to true")
        return Alignment(kept)

    def shuffled(self, teacher_layers: int, generator: random.Random) -> Alignment:
        """The control: the same pairs with the teacher's layers permuted, never by the identity (where there are two)."""
        layers = list(range(teacher_layers))
        while layers == sorted(layers) and teacher_layers > 1:
            generator.shuffle(layers)
        return Alignment(replace_teacher(pair, sorted(layers[layer] for layer in pair.teacher)) for pair in self.pairs)

    def check(self, *, teacher_layers: int, student_layers: int, teacher_width: int, student_width: int) -> None:
        """Raise ValueError, naming ``alignment``, where a layer or a dimension is not in the models."""
        for side, layers, width in (
            ("student", student_layers, student_width),
            ("teacher", teacher_layers, teacher_width),
        ):
            for pair in self.pairs:
                if (top := getattr(pair, side)[-1]) >= layers:
                    raise Refusal("alignment", f"the {side} has no layer {top}; its layers are 0 to {layers - 1}")
                for start, stop in getattr(pair, f"{side}_dimensions") or ():
                    if stop > width:
                        raise Refusal(
                            "alignment", f"{side}_dimensions [{start}, {stop}) do not lie in the {side}'s width of {width}"
                        )

    def draw(self, generator: random.Random) -> AlignedPair:
        """One pair, uniformly (Algorithm 1, lines 7 and 8)."""
        return self.pairs[generator.randrange(len(self.pairs))]

    def draw_others(self, drawn: AlignedPair, generator: random.Random, count: int) -> list[AlignedPair]:
        """``count`` pairs beside one that is drawn, uniformly and without replacement; all others where there are fewer."""
        others = [pair for pair in self.pairs if pair is not drawn]
        return generator.sample(others, min(count, len(others)))


def replace_teacher(pair: AlignedPair, teacher: Iterable[int]) -> AlignedPair:
    """``pair`` with other teacher layers."""
    return AlignedPair(pair.student, teacher, pair.student_dimensions, pair.teacher_dimensions)


def _said(layers: Sequence[int], ranges: Sequence[DimensionRange] | None) -> str:
    """One side of a pair in words, such as ``2+3 [0:192]``."""
    dimensions = "" if ranges is None else " " + "".join(f"[{start}:{stop}]" for start, stop in ranges)
    return "+".join(map(str, layers)) + dimensions


def _check_depths(teacher_layers: int, student_layers: int) -> None:
    if min(student_layers, teacher_layers) < 1:
        raise Refusal("student.layers", f"{student_layers} layers for a teacher of {teacher_layers}; give at least 1 of each")


def _groups(layers: int, count: int) -> list[range]:
    """The layers in ``count`` contiguous groups, the first ones larger by one where they do not divide."""
    size, larger = divmod(layers, count)
    starts = [group * size + min(group, larger) for group in range(count + 1)]
    return [range(start, stop) for start, stop in pairwise(starts)]


_VARIABLE = re.compile(r"\$L:(?:(\d+)|\[(\d+):(\d+)\])\$H:(?:(\d+)|\[(\d+):(\d+)\])\$\[(\d+):(\d+)\]")


def _pair_of_variables(student: list[Any], teacher: list[Any], head_size: int) -> AlignedPair:
    student_layers, student_dimensions = _parse_variables(student, head_size)
    teacher_layers, teacher_dimensions = _parse_variables(teacher, head_size)
    return AlignedPair(student_layers, teacher_layers, student_dimensions, teacher_dimensions)


def _parse_variables(names: list[Any], head_size: int) -> tuple[list[int], list[DimensionRange]]:
    """``$L:layers$H:heads$[start:stop]`` names, which must share their heads and dimensions, as layers and ranges."""
    layers: set[int] = set()
    spans: set[tuple[int, int, int, int]] = set()
    for name in names:
        match = _VARIABLE.fullmatch(name)
        if match is None:
            raise Refusal("alignment.file", f"{name!r} is not of the form $L:layers$H:heads$[start:stop]")
        layer, layer_start, layer_stop, head, head_start, head_stop, start, stop = match.groups()
        layers.update([int(layer)] if layer else range(int(layer_start), int(layer_stop)))
        heads = (int(head), int(head) + 1) if head else (int(head_start), int(head_stop))
        spans.add((*heads, int(start), int(stop)))
    if len(spans) != 1:
        raise Refusal("alignment.file", f"{names} name different dimensions, which one pair cannot hold")
    first, last, start, stop = spans.pop()
    if stop > head_size:
        raise Refusal("alignment.file", f"dimensions [{start}:{stop}] do not lie in a head of {head_size}")
    if (start, stop) == (0, head_size):
        return sorted(layers), [(first * head_size, last * head_size)]
    return sorted(layers), [(head * head_size + start, head * head_size + stop) for head in range(first, last)]
