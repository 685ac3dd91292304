"""The command ``diito report``: JSON to tables, figures, verdicts, and one page that holds them all.

Of a grid:

1. the measurements (``experiments/gather.py``) are kept as ``measurements.json``, from which all of this can be made again;
2. tables (``tables.py``) are written as Markdown, LaTeX and CSV, figures (``figures.py``) as PNG;
3. the paper's claims get their verdicts (``claims.py``);
4. ``report.md`` and ``report.html`` hold it all (``page.py``); the page needs no other file.

Of single runs (``runs.py``): their tables (``run_tables.py``) and figures (``run_figures.py``), on the same page.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diito.files import check_writable, write_text
from diito.report.claims import verdicts
from diito.report.drawing import Figure, write_pdfs
from diito.report.figures import figures
from diito.report.metrics import Measured
from diito.report.page import write_report
from diito.report.run_figures import run_figures
from diito.report.run_tables import run_tables
from diito.report.runs import Run
from diito.report.tables import tables
from diito.tables import Table


def report(measured: dict[str, Any], folder: Path, *, pdf: bool = False) -> int:
    """Make the report of what a grid has measured; the exit code. Raises ValueError for a folder that cannot be made.

    ``pdf``: the figures as PDF, too.
    """
    check_writable(folder / "report.md", "--output")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "measurements.json", _compact(measured))
    asked = Measured(measured)
    shown = [_claims(asked), *tables(asked)]
    drawn = figures(asked, folder)
    write_report(folder, f"{asked.name}: what was measured", _summary(asked), shown, drawn)
    _finish(folder, shown, drawn, pdf=pdf, more=", measurements.json")
    return 0


def report_runs(runs: Sequence[Run], folder: Path, *, pdf: bool = False) -> int:
    """The same of single runs, side by side."""
    check_writable(folder / "report.md", "--output")
    folder.mkdir(parents=True, exist_ok=True)
    shown, drawn = run_tables(runs), run_figures(runs, folder)
    recipes = [(f"The recipe of {run.name}", run.recipe_text) for run in runs]
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    write_report(folder, f"{title}: pictures", _summary_of_runs(runs), shown, drawn, recipes)
    _finish(folder, shown, drawn, pdf=pdf)
    return 0


def _finish(folder: Path, shown: Sequence[Table], drawn: Sequence[Figure], *, pdf: bool, more: str = "") -> None:
    if pdf:
        write_pdfs(drawn)
    print("\n".join(table.markdown() for table in shown))
    kinds = " (.png, .pdf)" if pdf else ""
    print(f"written    {folder}: report.html, report.md, {len(shown)} tables (.tex, .csv), {len(drawn)} figures{kinds}{more}")


def _summary_of_runs(runs: Sequence[Run]) -> str:
    return "; ".join(
        f"{run.name}: {run.state}, step {run.step:,}" + (f" of {run.steps:,}" if run.steps else "") for run in runs
    )


def _claims(measured: Measured) -> Table:
    header = ["claim", "verdict", "evidence"]
    note = (
        "Confirmed: every comparison's 95 % interval is on the claimed side of 0; refuted: one is on the other side; "
        "undecided: an interval holds 0, or there is one seed; untested: runs are missing. At the scale of this grid, not the "
        "paper's."
    )
    rows: list[Sequence[str]] = [(each.claim, each.verdict, each.evidence) for each in verdicts(measured)]
    return Table("claims", "The claims, at this scale", note, header, [("", rows)], texts=(0, 1, 2))


def _summary(measured: Measured) -> str:
    parts = [
        f"{sum(each['done'] for each in measured.content[name])} of {len(measured.content[name])} {text}"
        for name, text in (("students", "distillations"), ("evaluations", "evaluations"))
    ]
    commits = {each["environment"].get("commit") for each in measured.content["students"] if each["done"]}
    by = (
        f"; students made with diito at {', '.join(sorted(commit[:10] for commit in commits if commit))}"
        if any(commits)
        else ""
    )
    return f"The grid {measured.name}: {' and '.join(parts)} are done{by}."


def _compact(measured: dict[str, Any]) -> str:
    """JSON with a line for each student and evaluation."""
    lists = {name: measured[name] for name in ("rows", "students", "evaluations")}
    head = json.dumps({name: value for name, value in measured.items() if name not in lists})[:-1]
    parts = [
        f' "{name}": [\n' + ",\n".join(json.dumps(each, ensure_ascii=False) for each in entries) + "\n]"
        for name, entries in lists.items()
    ]
    return head + ",\n" + ",\n".join(parts) + "\n}\n"
