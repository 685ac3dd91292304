"""One HTML page that needs no other file: tables, figures as data, texts as they are. All that it is given is escaped."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from diito.files import write_text
from diito.report.drawing import Figure
from diito.tables import Table, markdown_code, markdown_text

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; }
body { background: #fff; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: 0.875rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.75rem; text-align: right; white-space: nowrap; } tbody th, .text { text-align: left; }
#claims .text, #claims th, #recipe td, #resumes td { white-space: normal; overflow-wrap: anywhere; }
thead th { border-bottom: 2px solid #333; border-top: 2px solid #333; }
tbody tr:last-child > * { border-bottom: 2px solid #333; }
tr.group th { padding-top: 0.75rem; } tbody th { font-weight: normal; } tr.group th, thead th { font-weight: 600; }
.note, figcaption { color: #555; font-size: 0.875rem; } figure { margin: 1.5rem 0; }
summary { cursor: pointer; }
pre { background: #f5f5f5; padding: 0.75rem; overflow-x: auto; font-size: 0.875rem; }
img { max-width: 100%; height: auto; }
"""


def write_report(
    folder: Path,
    title: str,
    summary: str,
    tables: Sequence[Table],
    figures: Sequence[Figure],
    codes: Sequence[tuple[str, str]] = (),
) -> None:
    """``report.md``, ``report.html`` and every table as ``.tex`` and ``.csv`` in ``folder``; ``codes``: titles with YAML."""
    for table in tables:
        write_text(folder / f"{table.name}.tex", table.latex())
        write_text(folder / f"{table.name}.csv", table.csv())
    write_text(folder / "report.md", _markdown(title, summary, tables, figures, codes))
    write_text(folder / "report.html", _page(title, summary, tables, figures, codes))


def _markdown(
    title: str, summary: str, tables: Sequence[Table], figures: Sequence[Figure], codes: Sequence[tuple[str, str]]
) -> str:
    lines = [f"# {markdown_text(title)}", "", markdown_text(summary), ""]
    lines += [table.markdown() for table in tables]
    for figure in figures:
        heading, text = markdown_text(figure.title), markdown_text(figure.text)
        lines += [f"### {heading}", "", f"![{text}]({figure.path.name})", "", text, ""]
    for heading, code in codes:
        lines += [f"### {markdown_text(heading)}", "", markdown_code(code, "yaml"), ""]
    return "\n".join(lines)


def _page(
    title: str, summary: str, tables: Sequence[Table], figures: Sequence[Figure], codes: Sequence[tuple[str, str]]
) -> str:
    body = "\n".join([*(table.html() for table in tables), *map(_picture, figures), *(_code(*each) for each in codes)])
    return (
        f"<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>{html.escape(title)}</title>\n"
        f"<meta name='viewport' content='width=device-width, initial-scale=1'><style>{_STYLE}</style></head>\n"
        f"<body><h1>{html.escape(title)}</h1><p>{html.escape(summary)}</p>\n{body}\n</body></html>\n"
    )


def _picture(figure: Figure) -> str:
    data, text = base64.b64encode(figure.path.read_bytes()).decode(), html.escape(figure.text)
    return (
        f"<section><h2>{html.escape(figure.title)}</h2><figure><img src='data:image/png;base64,{data}' alt='{text}'>"
        f"<figcaption>{text}</figcaption></figure></section>"
    )


def _code(title: str, code: str) -> str:
    return f"<details><summary>{html.escape(title)}</summary><pre>{html.escape(code)}</pre></details>"
