"""Measurements as the tables that are printed."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diito.evaluation.held_out.maps import SCORES, matrix
from diito.evaluation.results import Measurement
from diito.evaluation.settings import (
    ClassificationSettings,
    FineTuningSettings,
    GlueSettings,
    HarnessSettings,
    InterchangeSettings,
    PerplexitySettings,
)
from diito.suites.glue import glue_mean, missing_tasks
from diito.tables import MISSING, Table, interval, number

_INTERCHANGE = {"iia": "IIA", "effective_iia": "effective", "counterfactual_kl": "KL", "efficacy": "efficacy"}
_PREDICTED = {"sequence-classification": "examples", "token-classification": "words"}
"""What a prediction is about, of tasks whose predictions are no tokens."""


def fine_tuning_tables(settings: FineTuningSettings, measurements: Sequence[Measurement]) -> list[Table]:
    """A line for each task, split and metric: mean and standard deviation over the seeds, beside a constant answer.

    Below it what the tasks say about their data.
    """
    header = ("task", "metric", "score", "s.d.", "seeds", "baseline", "trained on")
    rows: list[Sequence[str]] = []
    notes: list[str] = []
    for task, runs in _by_task(measurements).items():
        first = runs[0].result
        for split, metrics in first["scores"].items():
            name = task if len(first["scores"]) == 1 else f"{task} {split}"
            for metric in metrics:
                mean, deviation = mean_and_deviation(run.result["scores"][split][metric] for run in runs)
                baseline = number(first["baseline"][split][metric])
                scores = (number(mean), number(deviation), str(len(runs)), baseline)
                rows.append((name, metric, *scores, _trained_on(first, runs[0])))
        notes += [f"{task}: {note}" for note in first["notes"]]
    return [Table("scores", "Fine-tuning", "\n".join(notes), header, [("", rows)])]


def glue_tables(settings: GlueSettings, measurements: Sequence[Measurement]) -> list[Table]:
    """The same for GLUE, with the mean of the headline metrics below it, and the tasks that its folder lacks."""
    means = {}
    for task, runs in _by_task(measurements).items():
        split, metric = next(iter(runs[0].result["scores"])), runs[0].result["headline"]
        means[task], _ = mean_and_deviation(run.result["scores"][split][metric] for run in runs)
    label, mean = glue_mean(means)
    (table,) = fine_tuning_tables(settings, measurements)
    notes = [f"{label}: {number(mean)}", *table.note.splitlines()]
    if settings.tasks is None and (missing := missing_tasks(settings.data)):
        notes.append(f"not in the folder: {', '.join(missing)}")
    return [dataclasses.replace(table, note="\n".join(notes))]


def classification_tables(settings: ClassificationSettings, measurements: Sequence[Measurement]) -> list[Table]:
    """A line a model, for each task that was measured."""
    tables = []
    for each in measurements:
        columns = list(dict.fromkeys(name for numbers in each.result["models"].values() for name in numbers))
        rows: list[Sequence[str]] = [
            (model, *(number(numbers.get(name), 3) for name in columns)) for model, numbers in each.result["models"].items()
        ]
        note = f"{each.result['examples']:,} examples"
        header = ("model", *(name.replace("_", " ") for name in columns))
        tables.append(Table("classification", each.result["task"].capitalize(), note, header, [("", rows)]))
    return tables


def harness_tables(settings: HarnessSettings, measurements: Sequence[Measurement]) -> list[Table]:
    """A line for each task and metric, with lm-eval's standard error."""
    rows: list[Sequence[str]] = []
    for each in measurements:
        for task, numbers in each.result["tasks"].items():
            counts = (str(each.result["shots"].get(task, MISSING)), str(each.result["examples"].get(task, MISSING)))
            for name, value in numbers.items():
                metric, _, kind = name.partition(",")
                if not metric.endswith("_stderr"):
                    spread = numbers.get(f"{metric}_stderr,{kind}")
                    label = metric if kind == "none" else f"{metric} ({kind})"
                    rows.append((task, label, number(value, 4), number(spread, 4), *counts))
    header = ("task", "metric", "value", "s.e.", "shots", "examples")
    return [Table("harness", "lm-evaluation-harness", "", header, [("", rows)], texts=(0, 1))]


def perplexity_tables(settings: PerplexitySettings, measurements: Sequence[Measurement]) -> list[Table]:
    """A line a model; below it the difference of two."""
    by_byte = any("bits_per_byte" in each.result for each in measurements)
    header = (
        "model",
        "perplexity",
        "95 % interval",
        "s.d. of draws",
        *(["bits/byte"] if by_byte else []),
        "tokens",
        "texts",
    )
    rows: list[Sequence[str]] = []
    below = [_rows_in_words(measurements[0].identity)]
    for each in measurements:
        result = each.result
        bounds = interval(result["interval"])
        if "difference" in result:
            text = f"{result['difference']:+.2f} (95 % interval {bounds}, paired)"
            below.append(f"{each.model} − {result['against']}: {text}")
            continue
        spread = number(result["draws_sd"])
        counts = (f"{result['tokens']:,}", f"{result['documents']:,}")
        of_bytes = [number(result.get("bits_per_byte"), 3)] if by_byte else []
        rows.append((each.model, number(result["perplexity"]), bounds, spread, *of_bytes, *counts))
    predicted = "next tokens" if by_byte else "masked words"
    return [Table("perplexity", f"Perplexity of {predicted}", "\n".join(below), header, [("", rows)])]


def _rows_in_words(identity: Mapping[str, Any]) -> str:
    """What was measured at a time, and what the interval is over."""
    size = f"blocks of {identity['length']}" if identity["layout"] == "blocks" else f"lines of at most {identity['length']}"
    return f"{size} tokens; the interval is over texts: articles where the text has headings, else lines, rows or chats"


def interchange_tables(settings: InterchangeSettings, measurements: Sequence[Measurement]) -> list[Table]:
    """Of an alignment a table of the student and its references, and one of its pairs; of a map a matrix for each score."""
    (measurement,) = measurements
    models = measurement.result["models"]
    if measurement.result["map"]:
        return [_map_table(models["student"]["pairs"], score) for score in SCORES]
    predicted = _PREDICTED.get(measurement.identity.get("task", ""), "tokens")
    header = ["", f"{predicted} × pairs"]
    for title in _INTERCHANGE.values():
        header += [title, ""]
    groups: list[tuple[str, list[Sequence[str]]]] = []
    for place in ("unswapped", "swapped"):
        if not any(numbers[place]["tokens"] for numbers in models.values()):  # no prediction is read at such a token
            continue
        rows: list[Sequence[str]] = []
        for name, numbers in models.items():
            cells = [f"{numbers[place]['tokens']:,}"]
            for score in _INTERCHANGE:
                cells += [number(numbers[place].get(score), 3), interval(numbers[place].get(f"{score}_interval"), 3)]
            rows.append((name, *cells))
        groups.append((f"{place} {predicted}" if predicted != "examples" else f"read at {place} tokens", rows))
    layers = measurement.result["undistilled_layers"]
    note = f"undistilled: the teacher's layers {layers}" if layers else "undistilled: none can be made of this teacher"
    if agreement := measurement.result.get("unswapped"):  # measurements of diito 0.1.0 lack it
        share, bounds = number(agreement["agreement"], 3), interval(agreement["interval"], 3)
        note += f"\nnothing swapped in either model: the same answer at {share} of the {predicted} {bounds}"
    title = "Interchange interventions"
    return [Table("interchange", title, note, header, groups), _pair_table(models["student"]["pairs"])]


def _pair_table(pairs: Sequence[dict[str, Any]]) -> Table:
    rows: list[Sequence[str]] = []
    for pair in pairs:
        sides = (" ".join(map(str, pair[side])) for side in ("student", "teacher"))
        rows.append((" → ".join(sides), *(number(pair["unswapped"].get(score), 3) for score in _INTERCHANGE)))
    header = ("student → teacher, unswapped tokens", *_INTERCHANGE.values())
    return Table("pairs", "Interchange interventions, pair by pair", "", header, [("", rows)])


def _map_table(pairs: Sequence[dict[str, Any]], score: str) -> Table:
    values = matrix(pairs, score)
    header = (f"{SCORES[score]}, unswapped tokens", *(f"T{layer}" for layer in range(values.shape[1])))
    rows: list[Sequence[str]] = [
        (f"S{layer}", *(number(None if math.isnan(value) else value, 3) for value in row)) for layer, row in enumerate(values)
    ]
    return Table(f"map-{score.replace('_', '-')}", SCORES[score], "", header, [("", rows)])


def mean_and_deviation(values: Iterable[float | None]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation; None where a value is missing, or for the deviation where there is one value."""
    numbers = list(values)
    known = [value for value in numbers if value is not None]
    if not known or len(known) < len(numbers):
        return None, None
    return statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None


def _by_task(measurements: Sequence[Measurement]) -> dict[str, list[Measurement]]:
    groups: dict[str, list[Measurement]] = {}
    for measurement in measurements:
        groups.setdefault(measurement.identity["task"], []).append(measurement)
    return groups


def _trained_on(result: dict[str, Any], run: Measurement) -> str:
    share = "" if result["train_rows"] == result["of_train_rows"] else f" of {result['of_train_rows']:,}"
    return f"{result['train_rows']:,}{share} rows × {run.identity['epochs']:g}"
