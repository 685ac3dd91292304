"""The figures of a report: which there are, and each run's value of them."""

from __future__ import annotations

import statistics
from typing import Any

from diito.evaluation.kinds import KINDS, Figure

METHODS = {
    "standard": "Standard",
    "middle": "DIITO MIDDLE",
    "late": "DIITO LATE",
    "full": "DIITO FULL",
    "full-random": "DIITO FULL+Random",
    "full-masked": "DIITO FULL+Masked",
    "full-cos": "DIITO FULL+Cos",
    "equal-flops": "Standard, FLOPs of FULL",
    "double-kl": "Standard, KL doubled",
    "token-swap": "Token swap",
    "shuffled": "Shuffled Π",
    "site": "DIITO at the site",
    "other-site": "DIITO at another site",
    "random-swap": "Token swap, random tokens",
    "hint": "Hint",
}
"""The methods that a grid compares, with their names; each has one colour in all figures."""

Row = dict[str, Any]
"""A condition, or a reference, as it stands in ``measurements.json``, with its title."""

Run = tuple[int | None, int | None]
"""Distillation seed (None of a reference), fine-tuning seed (None where nothing is fine-tuned)."""


_MEASURED_BY: dict[str, tuple[str, Figure]] = {
    figure.key: (kind.name, figure) for kind in KINDS.values() for figure in kind.figures
}
"""The kind of evaluation that gives a figure."""

GLUE = tuple(key for key, (_, figure) in _MEASURED_BY.items() if figure.task is not None)
"""The tasks of the paper's mean, in its order."""

METRICS: dict[str, Figure] = {key: figure for key, (_, figure) in _MEASURED_BY.items()} | {"glue": Figure("glue", "GLUE", 1)}
"""All figures, by key; ``glue`` is the mean of the tasks."""

HELD_OUT = ("held-out accuracy", "held-out f1", "held-out spearman", "held-out ece", "held-out agreement")
"""What classifiers and taggers are measured by; those that a task does not have are left out."""

STRUCTURE = tuple(figure.key for figure in KINDS["structure"].figures)
"""What students of generated data are measured by."""

TABLE_1 = ("perplexity", *HELD_OUT, *STRUCTURE, "glue", "ner accuracy", "ner f1", "squad em", "squad f1")
INTERCHANGE = ("iia", "effective iia", "counterfactual kl")


class Measured:
    """What ``measurements.json`` holds, asked by row and figure."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content
        self.name: str = content["name"]
        self.rows: list[Row] = _titled(content["rows"])
        self._evaluations: dict[str, list[dict[str, Any]]] = {}
        for each in content["evaluations"]:
            self._evaluations.setdefault(each["row"], []).append(each)

    def tasks(self) -> list[str]:
        """The GLUE tasks that the grid asks for, in the paper's order."""
        asked = {each["task"] for each in self.content["evaluations"]}
        return [task for task in GLUE if task in asked]

    def values(self, row: str, metric: str) -> dict[Run, float]:
        """The value of each run that has one. Of the GLUE mean those with all the tasks that the row is measured on."""
        if metric == "glue":
            asked = [task for task in self.tasks() if self.expected(row, task)]
            by_task = [self.values(row, task) for task in asked]
            runs = set.intersection(*(set(values) for values in by_task)) if by_task else set()
            return {run: statistics.fmean(values[run] for values in by_task) for run in sorted(runs, key=_order)}
        values = {_run(each): METRICS[metric].read(each["result"]) for each in self._of(row, metric) if each["done"]}
        return {run: value for run, value in values.items() if value is not None}

    def expected(self, row: str, metric: str) -> int:
        """How many runs the grid asks for."""
        if metric == "glue":
            return max((self.expected(row, task) for task in self.tasks()), default=0)
        return len(self._of(row, metric))

    def asks_for(self, metric: str) -> bool:
        """Whether the grid asks for it of any row, and it is defined for what was measured."""
        rows = [row["name"] for row in self.rows if self.expected(row["name"], metric)]
        done = any(each["done"] for row in rows for each in ([] if metric == "glue" else self._of(row, metric)))
        return any(self.values(row, metric) for row in rows) if done else bool(rows)

    @property
    def main(self) -> str:
        """The figure of held-out text by which conditions are told apart: perplexity, or that of classifiers and taggers."""
        return next((metric for metric in ("perplexity", *HELD_OUT) if self.asks_for(metric)), "perplexity")

    def students(self, row: str) -> list[dict[str, Any]]:
        """The distillations of a row that are done."""
        return [each for each in self.content["students"] if each["row"] == row and each["done"]]

    def maps(self) -> list[dict[str, Any]]:
        """The measured maps of all pairs of layers."""
        return [each for each in self.content["evaluations"] if each["done"] and "pairs" in each["result"]]

    def interchange(self, row: str) -> list[dict[str, Any]]:
        """The measured interchange results of a row, a seed each: ``{"student": {"unswapped": ...}, "no swap": ...}``."""
        return [each["result"]["models"] for each in self._of(row, "iia") if each["done"]]

    def standard_of(self, row: Row) -> Row | None:
        """The standard condition that a row is compared with: that of its group."""
        if row["method"] in ("standard", "reference"):
            return None
        return next((each for each in self.rows if each["method"] == "standard" and each["group"] == row["group"]), None)

    def _of(self, row: str, metric: str) -> list[dict[str, Any]]:
        kind, figure = _MEASURED_BY[metric]
        asked = self._evaluations.get(row, [])
        return [each for each in asked if each["kind"] == kind and figure.task in (None, each["task"])]


def is_low_resource(row: Row) -> bool:
    """Whether the condition was distilled on a part of the corpus."""
    return row["share"] is not None and row["share"] < 1


def _titled(rows: list[Row]) -> list[Row]:
    """The rows with their ``title`` in tables and figures, once in a group."""
    titles = [row["label"] or METHODS.get(row["method"]) or row["name"] for row in rows]
    places = [(row["group"], title) for row, title in zip(rows, titles, strict=True)]
    return [
        {**row, "title": title if places.count(place) == 1 else f"{title} ({row['name']})"}
        for row, title, place in zip(rows, titles, places, strict=True)
    ]


def _run(evaluation: dict[str, Any]) -> Run:
    return evaluation["seed"], evaluation["fine_tuning_seed"]


def _order(run: Run) -> tuple[int, int]:
    return tuple(-1 if seed is None else seed for seed in run)  # type: ignore[return-value]
