"""A table as Markdown, LaTeX, CSV and HTML."""

from __future__ import annotations

import csv
import html
import io

from diito.report.tables import Table


def markdown(table: Table) -> str:
    """With its title as a heading and its note below."""
    lines = [
        f"### {table.title}",
        "",
        _line(table.header),
        "|" + "|".join("---" if column in table.texts else "--:" for column in range(len(table.header))) + "|",
    ]
    for group, rows in table.groups:
        if rows and group:
            lines.append(_line([f"**{group}**", *[""] * (len(table.header) - 1)]))
        lines += [_line(row) for row in rows]
    return "\n".join([*lines, "", table.note, ""])


def latex(table: Table) -> str:
    """A ``table`` environment with the rules of booktabs."""
    columns = len(table.header)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_tex(table.title)}. {_tex(table.note)}}}",
        rf"\label{{tab:{table.name}}}",
    ]
    kinds = "".join("l" if column in table.texts else "r" for column in range(columns))
    if len(table.texts) == columns:  # sentences, which have to break
        kinds = rf"p{{{0.9 / columns:.2f}\linewidth}}" * columns
    lines += [rf"\begin{{tabular}}{{{kinds}}}", r"\toprule", _tex_line(table.header), r"\midrule"]
    shown = [(group, rows) for group, rows in table.groups if rows]
    for number, (group, rows) in enumerate(shown):
        if number:
            lines.append(r"\midrule")
        if group:
            lines.append(rf"\multicolumn{{{columns}}}{{l}}{{\emph{{{_tex(group)}}}}} \\")
        lines += [_tex_line(row) for row in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def comma_separated(table: Table) -> str:
    """With the group as the first column."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["group", table.header[0] or "condition", *table.header[1:]])
    for group, rows in table.groups:
        writer.writerows([group, *row] for row in rows)
    return stream.getvalue()


def hypertext(table: Table) -> str:
    """A ``section`` with heading, table and note."""
    kinds = [" class='text'" if column in table.texts else "" for column in range(len(table.header))]
    head = "".join(f"<th scope='col'{kind}>{html.escape(cell)}</th>" for cell, kind in zip(table.header, kinds, strict=True))
    body = []
    for group, rows in table.groups:
        if rows and group:
            body.append(f"<tr class='group'><th scope='rowgroup' colspan='{len(table.header)}'>{html.escape(group)}</th></tr>")
        for first, *cells in rows:
            texts = "".join(f"<td{kind}>{html.escape(cell)}</td>" for cell, kind in zip(cells, kinds[1:], strict=True))
            body.append(f"<tr><th scope='row'>{html.escape(first)}</th>{texts}</tr>")
    return (
        f"<section id='{table.name}'><h2>{html.escape(table.title)}</h2>\n"
        f"<div class='scroll'><table><thead><tr>{head}</tr></thead>\n"
        f"<tbody>{''.join(body)}</tbody></table></div>\n<p class='note'>{html.escape(table.note)}</p></section>"
    )


def _line(cells: object) -> str:
    return "| " + " | ".join(str(cell).replace("|", r"\|") for cell in cells) + " |"  # type: ignore[attr-defined]


def _tex_line(cells: object) -> str:
    return " & ".join(_tex(cell) for cell in cells) + r" \\"  # type: ignore[attr-defined]


_TEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "–": r"--",
    "×": r"$\times$",
    "→": r"$\rightarrow$",
    "Π": r"$\Pi$",
    "÷": r"$\div$",
}


def _tex(text: str) -> str:
    return "".join(_TEX.get(letter, letter) for letter in text)
