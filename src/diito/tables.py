"""One table of texts, and its forms: columns for the screen, Markdown, LaTeX, CSV and HTML. No torch here."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

MISSING = "–"
"""A cell for which there is no value."""


@dataclass(frozen=True)
class Table:
    """Rows of texts under a header."""

    name: str
    """The name of its files, and what LaTeX and HTML refer to it by."""
    title: str
    note: str
    """What stands below it."""
    header: Sequence[str]
    groups: list[tuple[str, list[Sequence[str]]]] = field(default_factory=list)
    """Rows under a heading each; an empty heading is left out."""
    texts: Collection[int] = (0,)
    """Columns of words, which stand to the left; figures stand to the right."""

    def __bool__(self) -> bool:
        return any(rows for _, rows in self.groups)

    def text(self) -> str:
        """Columns for the screen, without the title; rows under a heading are indented."""
        lines = [list(self.header)]
        for group, rows in self._filled():
            if group:
                lines.append([group, *[""] * (len(self.header) - 1)])
            lines += [[f"  {first}" if group else first, *cells] for first, *cells in rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.header))]
        texts = [
            "  ".join(
                cell.ljust(width) if column in self.texts else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        return "\n".join([*texts, self.note] if self.note else texts)

    def markdown(self) -> str:
        """With the title as a heading and the note below."""
        lines = [
            f"### {markdown_text(self.title)}",
            "",
            _markdown_row(self.header),
            "|" + "|".join("---" if column in self.texts else "--:" for column in range(len(self.header))) + "|",
        ]
        for group, rows in self._filled():
            if group:
                lines.append(_markdown_row([group, *[""] * (len(self.header) - 1)], bold=True))
            lines += [_markdown_row(row) for row in rows]
        note = "\n".join(markdown_text(line) for line in self.note.splitlines())
        return "\n".join([*lines, "", note, ""])

    def latex(self) -> str:
        """A ``table`` environment with the rules of booktabs."""
        columns = len(self.header)
        kinds = "".join("l" if column in self.texts else "r" for column in range(columns))
        if len(self.texts) == columns:  # sentences, which have to break
            kinds = rf"p{{{0.9 / columns:.2f}\linewidth}}" * columns
        body: list[str] = []
        for number, (group, rows) in enumerate(self._filled()):
            if number:
                body.append(r"\midrule")
            if group:
                body.append(rf"\multicolumn{{{columns}}}{{l}}{{\emph{{{_latex_text(group)}}}}} \\")
            body += [_latex_row(row) for row in rows]
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex_text(self.title)}. {_latex_text(self.note)}}}",
            rf"\label{{tab:{self.name}}}",
            rf"\begin{{tabular}}{{{kinds}}}",
            r"\toprule",
            _latex_row(self.header),
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
        return "\n".join([*lines, ""])

    def csv(self) -> str:
        """With the group as the first column."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["group", self.header[0] or "condition", *self.header[1:]])
        for group, rows in self.groups:
            writer.writerows([group, *row] for row in rows)
        return stream.getvalue()

    def html(self) -> str:
        """A ``section`` with heading, table and note."""
        kinds = [" class='text'" if column in self.texts else "" for column in range(len(self.header))]
        header = zip(self.header, kinds, strict=True)
        head = "".join(f"<th scope='col'{kind}>{html.escape(cell)}</th>" for cell, kind in header)
        body = []
        for group, rows in self._filled():
            if group:
                heading = f"<th scope='rowgroup' colspan='{len(self.header)}'>{html.escape(group)}</th>"
                body.append(f"<tr class='group'>{heading}</tr>")
            for first, *cells in rows:
                texts = "".join(f"<td{kind}>{html.escape(cell)}</td>" for cell, kind in zip(cells, kinds[1:], strict=True))
                body.append(f"<tr><th scope='row'>{html.escape(first)}</th>{texts}</tr>")
        return (
            f"<section id='{html.escape(self.name)}'><h2>{html.escape(self.title)}</h2>\n"
            f"<div class='scroll'><table><thead><tr>{head}</tr></thead>\n"
            f"<tbody>{''.join(body)}</tbody></table></div>\n<p class='note'>{html.escape(self.note)}</p></section>"
        )

    def _filled(self) -> list[tuple[str, list[Sequence[str]]]]:
        """The groups that have rows."""
        return [(group, rows) for group, rows in self.groups if rows]


def number(value: float | None, digits: int = 2) -> str:
    """A figure as a cell."""
    return MISSING if value is None else f"{value:.{digits}f}"


def duration(seconds: float) -> str:
    """Seconds as ``1:02`` or ``1:02:03``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def interval(bounds: Sequence[float] | None, digits: int = 2, *, sign: str = "") -> str:
    """Bounds as a cell, empty where there are none. ``sign``: ``+`` writes the sign of positive ones too."""
    return "" if bounds is None else f"[{bounds[0]:{sign}.{digits}f}, {bounds[1]:{sign}.{digits}f}]"


def markdown_text(text: str) -> str:
    """A text that Markdown shows as it is, in one line: no tag, link, code or cell of a table begins or ends in it."""
    for mark, shown in _MARKDOWN.items():
        text = text.replace(mark, shown)
    return " ".join(text.split())


def markdown_code(text: str, language: str) -> str:
    """A block of code, within a fence that nothing in it closes."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


_MARKDOWN = {"\\": r"\\", "|": r"\|", "`": r"\`", "&": "&amp;", "<": "&lt;", "](": r"]\("}


def _markdown_row(cells: Iterable[str], *, bold: bool = False) -> str:
    texts = map(markdown_text, cells)
    return "| " + " | ".join(f"**{text}**" if bold and text else text for text in texts) + " |"


_LATEX = {
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


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(_latex_text(cell) for cell in cells) + r" \\"


def _latex_text(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)
