"""Tiny models of each task, loaded as ``diito explore`` loads them."""

from __future__ import annotations

import functools
import json
from typing import Any

import classifiers
import decoders
import tiny

from diito.explorer.picture import Looking
from diito.explorer.settings import ExploreSettings
from diito.explorer.subjects import load_subjects
from diito.explorer.view import View
from diito.recipe.sections import SourceSection

TASKS = ("masked-lm", "causal-lm", "sequence-classification", "pairs", "token-classification", "cloze")
VIEWS = {
    "masked-lm": View("w1 w2 [MASK] w3 w4", "w1 w5 w6 [MASK] w7 w4"),
    "causal-lm": View("w1 w2 w3 w4", "w1 w5 w3 w9 w4"),
    "sequence-classification": View("w1 w2 w3 w4", "w1 w5 w6 w3"),
    "pairs": View("w1 w2 w3", "w1 w5 w3", "w4 w5", "w4 w8"),
    "token-classification": View("w1 w2 w3 w4", "w1 w5 w6 w3"),
    "cloze": View("w1 w2 [MASK] w3 w4", "w1 w5 [MASK] w7 w4"),
}
"""Two texts of each task; source and base may differ in length."""


def settings(task: str = "masked-lm", **changes: Any) -> ExploreSettings:
    """The settings for the tiny models of a task."""
    sources: list[Any] = [tiny.corpus()]
    if task in ("sequence-classification", "pairs"):
        sources = [SourceSection(**classifiers.source(classifiers.table(), pair=task == "pairs"))]
    elif task == "token-classification":
        sources = [classifiers.column_file()]
    elif task == "cloze":
        path = tiny.FOLDER / "explored-cloze.jsonl"
        rows = [{"text": f"w{number} w2 [MASK] w3", "word": "w4"} for number in range(9)]
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
        sources = [SourceSection(path=str(path), label="word")]
    given = {
        "sources": sources,
        "teacher": teacher(task),
        "task": "sequence-classification" if task == "pairs" else task,
        "length": 32,
        "workers": 1,
        "device": "cpu",
        "cache": str(tiny.FOLDER / "cache"),
    }
    return ExploreSettings(**{**given, **changes})


def teacher(task: str) -> str:
    """The folder of a teacher of a task, of 4 layers."""
    if task == "causal-lm":
        return decoders.teacher()
    if task in ("sequence-classification", "pairs", "token-classification"):
        return classifiers.teacher(labels=classifiers.TAGS, tags=True) if "token" in task else classifiers.teacher()
    return tiny.teacher()


def student(task: str) -> str:
    """A student of another depth where there is one: of 2 layers; else the teacher itself."""
    return tiny.teacher(layers=2) if task in ("masked-lm", "cloze") else teacher(task)


@functools.cache
def looking(task: str = "masked-lm", **changes: Any) -> Looking:
    """What the page would look at."""
    return Looking(load_subjects(student(task), settings(task, **changes)))
