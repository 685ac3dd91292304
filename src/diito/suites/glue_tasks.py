"""The nine tasks of GLUE as data. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

_ENTAILMENT = ("entailment", "not_entailment")


@dataclass(frozen=True)
class GlueTask:
    """One task: where its columns stand, what is measured, how long it is trained."""

    folder: str
    """Its name, which is also its folder in GLUE's own layout."""
    labels: tuple[str, ...] | None = ("0", "1")
    """The classes as the files write them, in the order of the hub's label numbers; None: a number is predicted."""
    columns: tuple[str, ...] = ("sentence1", "sentence2", "label")
    """The sentences and, last, the label in the header of the files."""
    hub_columns: tuple[str, ...] | None = None
    """The sentences on the hub; None: they have the names of those in the files."""
    metrics: tuple[str, ...] = ("accuracy",)
    """What is measured; the first one is the paper's."""
    in_mean: bool = True
    """Whether it counts in the paper's mean."""
    epochs: float = 3
    header: tuple[str, ...] | None = None
    """The columns of files that have no header."""
    names: tuple[str, ...] | None = None
    """The classes' names where the files write only numbers."""
    scored: tuple[tuple[str, str, str], ...] = (("dev", "dev.tsv", "validation"),)
    """The scored splits: name, file, split on the hub."""
    incomplete: bool = False
    """Whether the official files have incomplete rows, which everybody leaves out."""


TASKS: dict[str, GlueTask] = {
    "cola": GlueTask(
        folder="CoLA",
        names=("unacceptable", "acceptable"),
        columns=("sentence", "label"),
        header=("source", "label", "star", "sentence"),
        metrics=("matthews", "accuracy"),
        epochs=25,
    ),
    "mnli": GlueTask(
        folder="MNLI",
        labels=("entailment", "neutral", "contradiction"),
        columns=("sentence1", "sentence2", "gold_label"),
        hub_columns=("premise", "hypothesis"),
        scored=(
            ("matched", "dev_matched.tsv", "validation_matched"),
            ("mismatched", "dev_mismatched.tsv", "validation_mismatched"),
        ),
    ),
    "mrpc": GlueTask(
        folder="MRPC",
        names=("not_equivalent", "equivalent"),
        columns=("#1 String", "#2 String", "Quality"),
        hub_columns=("sentence1", "sentence2"),
        metrics=("f1", "accuracy"),
    ),
    "qnli": GlueTask(
        folder="QNLI",
        labels=_ENTAILMENT,
        columns=("question", "sentence", "label"),
    ),
    "qqp": GlueTask(
        folder="QQP",
        names=("not_duplicate", "duplicate"),
        columns=("question1", "question2", "is_duplicate"),
        metrics=("f1", "accuracy"),
        incomplete=True,
    ),
    "rte": GlueTask(
        folder="RTE",
        labels=_ENTAILMENT,
        epochs=25,
    ),
    "sst2": GlueTask(
        folder="SST-2",
        names=("negative", "positive"),
        columns=("sentence", "label"),
    ),
    "stsb": GlueTask(
        folder="STS-B",
        labels=None,
        columns=("sentence1", "sentence2", "score"),
        metrics=("spearman", "pearson"),
    ),
    "wnli": GlueTask(
        folder="WNLI",
        in_mean=False,
        names=("not_entailment", "entailment"),
    ),
}
"""The tasks by name, as on the hub."""
