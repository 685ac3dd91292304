"""The tables of a report of runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diito.recipe.file import write_value
from diito.recipe.values import fields_of, given_fields
from diito.report.runs import Run
from diito.tables import MISSING, Table, number

_FIGURES = {
    "perplexity": ("perplexity", 2),
    "bits_per_byte": ("bits/byte", 3),
    "accuracy": ("accuracy", 3),
    "f1": ("F1", 3),
    "f1_macro": ("macro F1", 3),
    "f1_micro": ("micro F1", 3),
    "matthews": ("Matthews", 3),
    "pearson": ("Pearson", 3),
    "spearman": ("Spearman", 3),
    "squared_error": ("squared error", 3),
    "ece": ("calibration error", 3),
    "agreement": ("agreement", 3),
    "iia": ("IIA", 3),
    "effective_iia": ("effective IIA", 3),
    "counterfactual_kl": ("counterfactual KL", 3),
}
"""Held-out figures in the order of a table, with title and decimals."""
_SHOWN_ON_THE_WAY = 20
_UNSAID = ("name", "output")
"""Fields by which every run differs, and that say nothing of it."""


def run_tables(runs: Sequence[Run]) -> list[Table]:
    """Every table of which there is something to show."""
    every = [overview(runs), held_out(runs), references(runs), fields(runs), resumes(runs), alignments(runs)]
    return [table for table in every if table]


def figures_of(runs: Sequence[Run]) -> dict[str, tuple[str, int]]:
    """The held-out figures that one of the runs has, with title and decimals."""
    known = {name for run in runs for part in (*run.results.values(), *run.measured) if isinstance(part, dict) for name in part}
    own = {name: None for run in runs for name in run.results.get("teacher") or {} if name not in _FIGURES}
    return {name: said for name, said in _FIGURES.items() if name in known} | {name: (name, 3) for name in own}


def overview(runs: Sequence[Run]) -> Table:
    """What became of each run, and what it took."""
    header = ["", "state", "task", "steps", "tokens", "PFLOP", "tokens/s", "resumed", "made with"]
    note = "Tokens/s: the median of the log lines. PFLOP: matrix products, estimated (a run of diito 0.1 does not say)."
    table = Table("runs", "The runs", note, header, texts=(0, 1, 2, 8))
    table.groups.append(("", [_overview_row(run) for run in runs]))
    return table


def _overview_row(run: Run) -> Sequence[str]:
    rates = sorted(run.curve("tokens_per_second")[1])
    tokens = run.lines[-1].get("tokens") if run.lines else None
    flops = run.flops_per_step
    version, commit = (run.environment.get(name) or "" for name in ("diito", "commit"))
    return (
        run.name,
        run.state,
        run.recipe.task,
        f"{run.step:,} of {run.steps:,}" if run.steps else f"{run.step:,}",
        MISSING if tokens is None else f"{tokens:,}",
        MISSING if flops is None else f"{flops * run.step / 1e15:.3g}",
        f"{rates[len(rates) // 2]:,.0f}" if rates else MISSING,
        str(len(run.resumes)),
        " ".join(part for part in (version, commit[:10]) if part) or MISSING,
    )


def held_out(runs: Sequence[Run]) -> Table:
    """Teacher, student before, on the way, after."""
    columns = figures_of(runs)
    note = (
        "Measured by the run itself on its held-out text. The references of a student after training are its teacher and the "
        "same student before training."
    )
    table = Table("held-out", "On held-out text", note, ["", *(title for title, _ in columns.values())])
    for run in runs:
        on_the_way = run.measured[:: -(-len(run.measured) // _SHOWN_ON_THE_WAY) or 1]
        parts = [
            ("teacher", run.results.get("teacher")),
            ("student before", run.results.get("before")),
            *((f"step {line['step']:,}", line) for line in on_the_way),
            ("student after", run.results.get("after")),
        ]
        rows: list[Sequence[str]] = [
            (name, *(number(part.get(figure), digits) for figure, (_, digits) in columns.items()))
            for name, part in parts
            if part and not columns.keys().isdisjoint(part)
        ]
        table.groups.append((run.name, rows))
    return table


def references(runs: Sequence[Run]) -> Table:
    """What ``diito evaluate interchange`` has found of the students: IIA beside its references."""
    columns = {name: _FIGURES[name] for name in ("iia", "effective_iia", "counterfactual_kl")}
    note = (
        "Of diito evaluate interchange, at unswapped tokens of its own text. An intervention is followed where the student is "
        "better than the same student without the swap, with a random donor's states, and undistilled."
    )
    table = Table("interchange", "Interchange interventions", note, ["", *(title for title, _ in columns.values())])
    for run in runs:
        for each in run.interchange():
            rows: list[Sequence[str]] = [
                (model, *(number(numbers["unswapped"].get(name), digits) for name, (_, digits) in columns.items()))
                for model, numbers in each["result"]["models"].items()
            ]
            table.groups.append((f"{run.name}, alignment {each['settings']['alignment']['kind']}", rows))
    return table


def fields(runs: Sequence[Run]) -> Table:
    """How the recipes differ; of one run alone, how its recipe differs from the defaults."""
    if len(runs) == 1:
        note = "Every other field has its default. The whole recipe stands below."
        table = Table("recipe", "The recipe: what is not its default", note, ["field", "value"], texts=(0, 1))
        values = given_fields(runs[0].recipe)
        table.groups.append(("", [(key, _cell(value)) for key, value in values.items() if key not in _UNSAID]))
        return table
    note = "The fields in which the runs differ; all others are alike. The whole recipes stand below."
    header = ["field", *(run.name for run in runs)]
    table = Table("recipe", "How the recipes differ", note, header, texts=range(len(header)))
    every = [{key: _cell(value) for key, value, _ in fields_of(run.recipe)} for run in runs]
    keys = {key: None for values in every for key in values if key not in _UNSAID}
    rows = [(key, *(values.get(key, MISSING) for values in every)) for key in keys]
    table.groups.append(("", [row for row in rows if len(set(row[1:])) > 1]))
    return table


def _cell(value: Any) -> str:
    """A value as YAML, without the nulls of the sections in it."""
    return write_value(_without_nulls(value))


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


def resumes(runs: Sequence[Run]) -> Table:
    """When a run was resumed, and what was different then."""
    header = ["", "from step", "at", "changed", "damaged checkpoints"]
    table = Table("resumes", "Resumed", "A dotted line in the figures.", header, texts=(0, 2, 3, 4))
    rows: list[Sequence[str]] = []
    for run in runs:
        for line in run.resumes:
            changed = [f"{key}: {_cell(old)} → {_cell(new)}" for key, (old, new) in line["changed"].items()]
            damaged = [f"{name} ({fault})" for name, fault in line["damaged"].items()]
            texts = ("; ".join(part) or "nothing" for part in (changed, damaged))
            rows.append((run.name, str(line["step"]), line["time"], *texts))
    table.groups.append(("", rows))
    return table


def alignments(runs: Sequence[Run]) -> Table:
    """Which alignments were chosen while training."""
    header = ["", "step", "alignment", "counterfactual KL", "gain"]
    note = "Chosen by the map of all pairs of layers at that step; a gain of 0 keeps the alignment."
    table = Table("alignments", "Alignments chosen in training", note, header, texts=(0, 2))
    for run in runs:
        rows: list[Sequence[str]] = [
            (run.name, str(line["step"]), line["alignment"], *_choice(line)) for line in run.measured if "alignment" in line
        ]
        table.groups.append(("", rows))
    return table


def _choice(line: dict[str, Any]) -> list[str]:
    return [number(line.get(f"alignment_{name}"), 3) for name in ("counterfactual_kl", "gain")]
