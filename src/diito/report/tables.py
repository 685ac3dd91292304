"""The tables of a report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diito.report.metrics import GLUE, HELD_OUT, INTERCHANGE, METRICS, TABLE_1, Measured, Row
from diito.report.paper import PAPER
from diito.report.statistics import Difference, Summary, difference_of, summary
from diito.tables import MISSING, Table, interval, number


def tables(measured: Measured) -> list[Table]:
    """Every table of which the grid asks for something."""
    every = [table_1(measured), table_2(measured), against_standard(measured), interchange(measured), cost(measured)]
    return [table for table in every if table]


def table_1(measured: Measured) -> Table:
    """Perplexity, GLUE, CoNLL, SQuAD of every row."""
    metrics = [metric for metric in TABLE_1 if measured.asks_for(metric)]
    glue = _glue_name(measured)
    header = ["", *(glue if metric == "glue" else METRICS[metric].name for metric in metrics)]
    note = "Mean ± standard deviation over the runs. "
    if any(row["paper"] in PAPER for row in measured.rows):
        note += "In brackets the paper's figure, where there is one for the row. "
    if set(HELD_OUT) & set(metrics):
        note += "Figures of classifiers and taggers are × 100. "
    note += f"{MISSING}: no finished run, or a figure that the row does not have; a count such as (2/3): runs are missing."
    of_the_paper = " (the paper's Table 1)" if measured.main == "perplexity" else ""
    return Table("table-1", f"All conditions{of_the_paper}", note, header, _grouped(measured, metrics))


def table_2(measured: Measured) -> Table:
    """The GLUE tasks one by one."""
    tasks = measured.tasks()
    metrics = [*tasks, "glue"] if tasks else []
    header = ["", *(METRICS[task].name for task in tasks), f"{_glue_name(measured)}"]
    note = "CoLA: Matthews correlation; MRPC, QQP: F1; STS-B: Spearman correlation; the others: accuracy; all × 100. "
    note += "Mean ± standard deviation over all fine-tunings of all students. In brackets the paper's figure."
    return Table("table-2", "GLUE by task (the paper's Table 2)", note, header, _grouped(measured, metrics))


def against_standard(measured: Measured) -> Table:
    """The difference of every condition from the standard one of its group."""
    header = ["", "figure", "standard", "this", "difference", "relative", "95 % interval", "seeds"]
    note = (
        "Differences are taken within each distillation seed, over the fine-tuning seeds that both conditions have; the "
        "interval is Student's t over distillation seeds."
    )
    keys = [*TABLE_1, *(task for task in GLUE if len(measured.tasks()) > 1), *INTERCHANGE]
    defined = {metric for metric in keys if measured.asks_for(metric)}
    if less := [METRICS[metric].name for metric in keys if metric in defined and METRICS[metric].better < 0]:
        note += f" Less is better: {'; '.join(less)}."
    table = Table("against-standard", "Against standard distillation", note, header, texts=(0, 1))
    for group in _groups(measured):
        rows: list[Sequence[str]] = []
        for row in measured.rows:
            standard = measured.standard_of(row)
            if row["group"] != group or standard is None:
                continue
            asked = [metric for metric in keys if metric in defined and measured.expected(row["name"], metric)]
            cells = {metric: _compared(measured, row, standard, metric) for metric in asked}
            if not any(cells.values()):  # one line for all that is missing
                rows.append((row["title"], *[MISSING] * 7))
                continue
            rows += [(row["title"], METRICS[metric].name, *(cells[metric] or [MISSING] * 6)) for metric in asked]
        table.groups.append((group, rows))
    return table


def _compared(measured: Measured, row: Row, standard: Row, metric: str) -> tuple[str, ...] | None:
    """Both means over the runs that both have, and the difference; None where there are no such runs."""
    result = difference_of(measured, row, standard, metric)
    if result is None:
        return None
    ours, theirs = (measured.values(each["name"], metric) for each in (row, standard))
    shared = [run for run in ours if run in theirs]
    means = (_number(summary(values[run] for run in shared), metric) for values in (theirs, ours))
    return (*means, *_difference_cells(result, metric))


def interchange(measured: Measured) -> Table:
    """Interchange-intervention accuracy beside its references, at unswapped tokens."""
    header = ["", *(METRICS[metric].name for metric in INTERCHANGE)]
    note = (
        "At unswapped tokens of held-out text; mean ± standard deviation over the distillation seeds. In parentheses the "
        "references: the same student without the swap, with a random donor's states, and the undistilled student. An "
        "intervention is followed where the student is better than all of them."
    )
    table = Table("interchange", "Interchange interventions", note, header)
    for group in _groups(measured):
        rows: list[Sequence[str]] = [
            (row["title"], *(_beside_references(measured, row["name"], metric) for metric in INTERCHANGE))
            for row in measured.rows
            if row["group"] == group and measured.expected(row["name"], "iia")
        ]
        table.groups.append((group, rows))
    return table


def _beside_references(measured: Measured, row: str, metric: str) -> str:
    """``0.494 ± 0.002 (0.493, 0.489, 0.386)``."""
    result = measured.interchange(row)
    if not result:
        return MISSING
    known = {
        model: [
            value
            for each in result
            if model in each and (value := each[model]["unswapped"].get(metric.replace(" ", "_"))) is not None
        ]
        for model in ("student", "no swap", "random donor", "undistilled")
    }
    references = ", ".join(_number(summary(values), metric) for model, values in known.items() if model != "student")
    count = "" if len(result) == measured.expected(row, metric) else f", {len(result)}/{measured.expected(row, metric)} seeds"
    return f"{_cell(summary(known['student']), METRICS[metric].digits)} ({references}{count})"


def cost(measured: Measured) -> Table:
    """What the distillations took."""
    header = ["", "students", "steps", "tokens, M", "PFLOP", "tokens/s", "hours", "on"]
    note = "A student each; tokens/s and hours of training alone, means over the students. Other work may have run beside it."
    table = Table("cost", "Cost", note, header, texts=(0, 7))
    for group in _groups(measured):
        rows: list[Sequence[str]] = []
        for row in measured.rows:
            asked = [each for each in measured.content["students"] if each["row"] == row["name"]]
            if row["group"] != group or not asked:
                continue
            done = measured.students(row["name"])
            numbers = (f"{asked[0]['steps']:,}", _amount(asked[0]["tokens"] / 1e6), f"{asked[0]['flops'] / 1e15:.3g}")
            rows.append((row["title"], f"{len(done)}/{len(asked)}", *numbers, *_speed(done)))
        table.groups.append((group, rows))
    return table


def _speed(done: Sequence[dict[str, Any]]) -> tuple[str, str, str]:
    if not done:
        return MISSING, MISSING, MISSING
    seconds = sum(each["training_seconds"] for each in done)
    tokens = sum(each["trained_tokens"] for each in done)
    machines = {each["environment"]["accelerator"] or f"CPU, {each['environment']['threads']} thread(s)" for each in done}
    if not seconds:  # too few steps for a line of metrics
        return MISSING, MISSING, ", ".join(sorted(machines))
    return f"{tokens / seconds:,.0f}", _amount(seconds / len(done) / 3600), ", ".join(sorted(machines))


def _amount(value: float) -> str:
    """Two decimals; two digits of what would be 0.0 otherwise."""
    return f"{value:,.2f}" if value >= 0.1 else f"{value:.2g}"


def _grouped(measured: Measured, metrics: Sequence[str]) -> list[tuple[str, list[Sequence[str]]]]:
    """A row for each condition that is measured on one of these figures."""
    groups = []
    for group in _groups(measured):
        rows: list[Sequence[str]] = []
        for row in measured.rows:
            if row["group"] == group and any(measured.expected(row["name"], metric) for metric in metrics):
                rows.append((row["title"], *(_measured_cell(measured, row, metric) for metric in metrics)))
        groups.append((group, rows))
    return groups


def _measured_cell(measured: Measured, row: Row, metric: str) -> str:
    """``13.6 ± 0.2 [13.59]``."""
    values, expected = measured.values(row["name"], metric), measured.expected(row["name"], metric)
    text = _cell(summary(values.values()), METRICS[metric].digits) if expected else ""
    if values and len(values) < expected:
        text += f" ({len(values)}/{expected})"
    theirs = PAPER.get(row["paper"] or "", {}).get(metric)
    if theirs is not None and (metric != "glue" or len(measured.tasks()) == len(GLUE)):
        text += f" [{theirs[0]:.2f}" + ("" if theirs[1] is None else f" ± {theirs[1]:.2f}") + "]"
    return text.strip()


def _difference_cells(result: Difference, metric: str) -> tuple[str, ...]:
    digits = METRICS[metric].digits
    relative = MISSING if result.relative is None else f"{result.relative:+.2%}"
    bounds = interval(result.interval, digits, sign="+") or MISSING
    return f"{result.mean:+.{digits}f}", relative, bounds, str(len(result.by_seed))


def _cell(result: Summary | None, digits: int) -> str:
    if result is None:
        return MISSING
    return f"{result.mean:.{digits}f}" + ("" if result.deviation is None else f" ± {result.deviation:.{digits}f}")


def _number(result: Summary | None, metric: str) -> str:
    return number(None if result is None else result.mean, METRICS[metric].digits)


def _glue_name(measured: Measured) -> str:
    """GLUE, or which part of it was measured."""
    count = len(measured.tasks())
    return "GLUE" if count == len(GLUE) else f"GLUE ({count} of {len(GLUE)} tasks)"


def _groups(measured: Measured) -> list[str]:
    """The groups of rows, in the grid's order."""
    return list(dict.fromkeys(row["group"] for row in measured.rows))
