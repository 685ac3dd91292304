"""Measurements as the tables that are printed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from diito.evaluation.held_out.maps import SCORES, matrix
from diito.evaluation.results import Measurement
from diito.suites.glue import glue_mean


def fine_tuning_table(measurements: Sequence[Measurement], *, missing: Sequence[str] = ()) -> str:
    """A line for each task, split and metric: mean and standard deviation over the seeds, beside a constant answer.

    With GLUE's tasks a line for their mean; ``missing`` tasks are named.
    """
    rows: list[Sequence[str]] = [("task", "metric", "score", "s.d.", "seeds", "baseline", "trained on")]
    headlines: dict[str, float | None] = {}
    for task, runs in _by_task(measurements).items():
        first = runs[0].result
        for split, metrics in first["scores"].items():
            for metric in metrics:
                values = [run.result["scores"][split][metric] for run in runs]
                mean, deviation = mean_and_deviation(values)
                if metric == first["headline"] and split == next(iter(first["scores"])):
                    headlines[task] = mean
                name = task if len(first["scores"]) == 1 else f"{task} {split}"
                baseline = _number(first["baseline"][split][metric])
                rows.append(
                    (name, metric, _number(mean), _number(deviation), str(len(runs)), baseline, _trained_on(first, runs[0]))
                )
    lines = [table(rows)]
    if measurements and measurements[0].identity["kind"] == "glue":
        label, mean = glue_mean(headlines)
        lines.append(f"{label}: {_number(mean)}")
    lines += [
        f"{runs[0].identity['task']}: {note}" for runs in _by_task(measurements).values() for note in runs[0].result["notes"]
    ]
    if missing:
        lines.append(f"not in the folder: {', '.join(missing)}")
    return "\n".join(lines)


def perplexity_table(measurements: Sequence[Measurement]) -> str:
    """A line a model; below it the difference of two."""
    rows: list[Sequence[str]] = [("model", "perplexity", "95 % interval", "s.d. of draws", "tokens", "documents")]
    below = []
    for each in measurements:
        result = each.result
        if "difference" in result:
            interval = _interval(result["interval"], 2)
            below.append(f"{each.model} − {result['against']}: {result['difference']:+.2f} (95 % interval {interval}, paired)")
            continue
        rows.append(
            (
                each.model,
                f"{result['perplexity']:.2f}",
                _interval(result["interval"], 2),
                _number(result["draws_sd"]),
                f"{result['tokens']:,}",
                f"{result['documents']:,}",
            )
        )
    return "\n".join([table(rows), *below])


def interchange_table(measurement: Measurement) -> str:
    """Of an alignment a line for the student, each reference and each pair; of a map a matrix for each score."""
    models = measurement.result["models"]
    if measurement.result["map"]:
        return "\n\n".join(_map_table(models["student"]["pairs"], score) for score in SCORES)
    rows: list[Sequence[str]] = [("", "tokens × pairs", "IIA", "", "effective", "", "KL", "", "efficacy", "")]
    for where in ("unswapped", "swapped"):
        rows.append((f"{where} tokens", *[""] * 9))
        for name, numbers in models.items():
            cells = [f"{numbers[where]['tokens']:,}"]
            for score in ("iia", "effective_iia", "counterfactual_kl", "efficacy"):
                value = numbers[where].get(score)
                cells += ["–" if value is None else f"{value:.3f}", _interval(numbers[where].get(f"{score}_interval"), 3)]
            rows.append((f"  {name}", *cells))
    layers = measurement.result["undistilled_layers"]
    made = f"undistilled: the teacher's layers {layers}" if layers else "undistilled: none can be made of this teacher"
    return f"{table(rows)}\n{made}\n\n{_pair_table(models['student']['pairs'])}"


def _pair_table(pairs: Sequence[dict[str, Any]]) -> str:
    rows: list[Sequence[str]] = [("student → teacher, unswapped tokens", "IIA", "effective", "KL", "efficacy")]
    for pair in pairs:
        sides = (" ".join(map(str, pair[side])) for side in ("student", "teacher"))
        values = (pair["unswapped"].get(score) for score in ("iia", "effective_iia", "counterfactual_kl", "efficacy"))
        rows.append((" → ".join(sides), *("–" if value is None else f"{value:.3f}" for value in values)))
    return table(rows)


def _map_table(pairs: Sequence[dict[str, Any]], score: str) -> str:
    values = matrix(pairs, score)
    rows: list[Sequence[str]] = [(f"{SCORES[score]}, unswapped tokens", *(f"T{layer}" for layer in range(values.shape[1])))]
    rows += [
        (f"S{layer}", *("–" if math.isnan(value) else f"{value:.3f}" for value in row)) for layer, row in enumerate(values)
    ]
    return table(rows)


def mean_and_deviation(values: Iterable[float | None]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation; None where a value is missing, or for the deviation where there is one value."""
    numbers = list(values)
    known = [number for number in numbers if number is not None]
    if not known or len(known) < len(numbers):
        return None, None
    return statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of texts in columns, the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    texts = []
    for row in rows:
        cells = [
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        texts.append("  ".join(cells).rstrip())
    return "\n".join(texts)


def _by_task(measurements: Sequence[Measurement]) -> dict[str, list[Measurement]]:
    groups: dict[str, list[Measurement]] = {}
    for measurement in measurements:
        groups.setdefault(measurement.identity["task"], []).append(measurement)
    return groups


def _trained_on(result: dict[str, Any], run: Measurement) -> str:
    share = "" if result["train_rows"] == result["of_train_rows"] else f" of {result['of_train_rows']:,}"
    return f"{result['train_rows']:,}{share} rows × {run.identity['epochs']:g}"


def _interval(bounds: Sequence[float] | None, digits: int) -> str:
    return "" if bounds is None else f"[{bounds[0]:.{digits}f}, {bounds[1]:.{digits}f}]"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
