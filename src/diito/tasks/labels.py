"""The labels of data in the teacher's terms: by the names of its classes, or by their numbers."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from diito.refusal import Refusal
from diito.tasks.task import IGNORED

_SHOWN = 12  # labels named in a sentence
_GENERIC = re.compile(r"LABEL_\d+")


def class_numbers(
    values: Sequence[Any], names: Sequence[str], *, given: Sequence[str] | None = None, field: str, each: str = "classes"
) -> list[int]:
    """The number of each label among ``names``, the teacher's classes; -100 where it is None (or -1, as GLUE's test sets have).

    Labels are names, upper or lower case where that is no matter, or numbers of classes, as numbers or as text. ``given``: the
    names that the data gives its numbers; they go before the numbers where the teacher's classes have names too.
    Raises Refusal, naming both lists, where they do not fit.
    """
    known = {name: index for index, name in enumerate(names)}
    folded = {name.casefold(): index for name, index in known.items()}
    if len(folded) == len(known):
        known = folded | known
    present = [value for value in values if value is not None and _whole(value) != -1]
    # A dictionary's keys: 1, 1.0 and True would be one.
    words = {repr(value): _named(value, given) for value in present}
    if all(word in known or word.casefold() in known for word in words.values()):
        numbers = {key: known.get(word, known.get(word.casefold(), IGNORED)) for key, word in words.items()}
    else:
        whole = {repr(value): _whole(value) for value in present}
        has_names = given is not None and not all(map(_GENERIC.fullmatch, names))
        if has_names or not all(number is not None and 0 <= number < len(names) for number in whole.values()):
            raise Refusal(
                field,
                f"the {each} of the data ({_listed(words.values())}) are neither the teacher's ({_listed(names)}) nor their "
                f"numbers, 0 to {len(names) - 1}; give labels by these names, or a teacher that has the data's",
            )
        numbers = {key: number for key, number in whole.items() if number is not None}
    return [numbers.get(repr(value), IGNORED) for value in values]


def plain_numbers(values: Sequence[Any], places: Sequence[str], *, field: str) -> list[float]:
    """The labels of a regression; NaN where one is None. Raises Refusal for one that is no finite number."""
    numbers = []
    for value, place in zip(values, places, strict=True):
        try:
            number = math.nan if value is None else float(value)
        except (TypeError, ValueError):
            number = math.inf
        if math.isinf(number):
            raise Refusal(field, f"{place}: the label {value!r} is no number, and the teacher predicts one")
        numbers.append(number)
    return numbers


def counted(numbers: Sequence[int], names: Sequence[str]) -> str:
    """How many there are of each class, in words."""
    counts = Counter(numbers)
    parts = [f"{counts[index]:,} {name}" for index, name in enumerate(names) if counts[index]]
    if counts[IGNORED]:
        parts.append(f"{counts[IGNORED]:,} without one")
    return ", ".join(parts[:_SHOWN]) + (" …" if len(parts) > _SHOWN else "")


def _named(value: Any, given: Sequence[str] | None) -> str:
    number = _whole(value)
    return given[number] if given is not None and number is not None and 0 <= number < len(given) else str(value)


def _whole(value: Any) -> int | None:
    """The whole number that a label is; None where it is none."""
    try:
        return int(value) if float(value) == int(float(value)) else None
    except (TypeError, ValueError, OverflowError):
        return None


def _listed(words: Any) -> str:
    distinct = list(dict.fromkeys(words))
    return ", ".join(distinct[:_SHOWN]) + (f" and {len(distinct) - _SHOWN} more" if len(distinct) > _SHOWN else "")


__all__ = ["class_numbers", "counted", "plain_numbers"]
