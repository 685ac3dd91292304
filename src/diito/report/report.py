"""The command ``diito report``: JSON to tables, figures, verdicts, and one page that holds them all.

1. the measurements (``experiments/gather.py``) are kept as ``measurements.json``, from which all of this can be made again;
2. tables (``tables.py``) are written as Markdown, LaTeX and CSV, figures (``figures.py``) as PNG;
3. the paper's claims get their verdicts (``claims.py``);
4. ``report.md`` and ``report.html`` hold it all; the page needs no other file.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diito.files import check_writable, write_text
from diito.report.claims import verdicts
from diito.report.figures import Figure, figures
from diito.report.metrics import Measured
from diito.report.tables import tables
from diito.tables import Table, markdown_text

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; }
body { background: #fff; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: 0.875rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.75rem; text-align: right; white-space: nowrap; } tbody th, .text { text-align: left; }
#claims .text, #claims th { white-space: normal; }
thead th { border-bottom: 2px solid #333; border-top: 2px solid #333; }
tbody tr:last-child > * { border-bottom: 2px solid #333; }
tr.group th { padding-top: 0.75rem; } tbody th { font-weight: normal; } tr.group th, thead th { font-weight: 600; }
.note, figcaption { color: #555; font-size: 0.875rem; } figure { margin: 1.5rem 0; } img { max-width: 100%; height: auto; }
"""


def report(measured: dict[str, Any], folder: Path) -> int:
    """Make the report of what was measured; the exit code. Raises ValueError for a folder that cannot be made."""
    check_writable(folder / "report.md", "--output")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "measurements.json", _compact(measured))
    asked = Measured(measured)
    shown = [_claims(asked), *tables(asked)]
    drawn = figures(asked, folder)
    for table in shown:
        write_text(folder / f"{table.name}.tex", table.latex())
        write_text(folder / f"{table.name}.csv", table.csv())
    text = _markdown(asked, shown, drawn)
    write_text(folder / "report.md", text)
    write_text(folder / "report.html", _page(asked, shown, drawn))
    print("\n".join(table.markdown() for table in shown))
    print(
        f"written    {folder}: report.html, report.md, {len(shown)} tables (.tex, .csv), {len(drawn)} figures, "
        "measurements.json"
    )
    return 0


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


def _markdown(measured: Measured, shown: Sequence[Table], drawn: Sequence[Figure]) -> str:
    lines = [f"# {markdown_text(measured.name)}: what was measured", "", markdown_text(_summary(measured)), ""]
    lines += [table.markdown() for table in shown]
    for figure in drawn:
        title, text = markdown_text(figure.title), markdown_text(figure.text)
        lines += [f"### {title}", "", f"![{text}]({figure.path.name})", "", text, ""]
    return "\n".join(lines)


def _page(measured: Measured, shown: Sequence[Table], drawn: Sequence[Figure]) -> str:
    title = f"{html.escape(measured.name)}: what was measured"
    pictures = []
    for figure in drawn:
        data = base64.b64encode(figure.path.read_bytes()).decode()
        pictures.append(
            f"<section><h2>{html.escape(figure.title)}</h2><figure><img src='data:image/png;base64,{data}' "
            f"alt='{html.escape(figure.text)}'><figcaption>{html.escape(figure.text)}</figcaption></figure></section>"
        )
    body = "\n".join([*(table.html() for table in shown), *pictures])
    return (
        f"<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>{title}</title>\n"
        f"<meta name='viewport' content='width=device-width, initial-scale=1'><style>{_STYLE}</style></head>\n"
        f"<body><h1>{title}</h1><p>{html.escape(_summary(measured))}</p>\n{body}\n</body></html>\n"
    )


def _compact(measured: dict[str, Any]) -> str:
    """JSON with a line for each student and evaluation."""
    lists = {name: measured[name] for name in ("rows", "students", "evaluations")}
    head = json.dumps({name: value for name, value in measured.items() if name not in lists})[:-1]
    parts = [
        f' "{name}": [\n' + ",\n".join(json.dumps(each, ensure_ascii=False) for each in entries) + "\n]"
        for name, entries in lists.items()
    ]
    return head + ",\n" + ",\n".join(parts) + "\n}\n"
