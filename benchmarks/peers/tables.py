"""Results as tables: on the screen, and in Markdown for documents."""

from __future__ import annotations

from typing import Any

from benchmarks.machine import print_columns
from benchmarks.peers.cases import CASES, SIDES

HEAD = ["", "CPU s", "wall s", "peak MB", "ours faster: CPU", "wall", "their memory / ours", "first values"]


def rows_of(measured: dict[str, Any]) -> list[list[str]]:
    """A row a side: what a step took, our ratio to it with the range over rounds, and what tells that its work is the same."""
    rows = []
    for name, side in measured["sides"].items():
        title = side["title"] + (f" ({side['note']})" if side["note"] else "")
        if "missing" in side:
            rows.append([title, side["missing"], *[""] * (len(HEAD) - 2)])
            continue
        ratio = measured["ratios"].get(name)
        compared = ["–"] * 3 if ratio is None else [_range(ratio["processor"]), _range(ratio["wall"]), f"{ratio['memory']:.2f}"]
        values = ", ".join(f"{each} {value:.4f}" for each, value in side["first_values"].items())
        differs = " DIFFERS" if side["agrees"] is False else ""
        figures = [f"{side['processor']:.3g}", f"{side['wall']:.3g}", f"{side['peak_bytes'] / 1e6:.0f}"]
        rows.append([title, *figures, *compared, values + differs])
    return rows


def goals_of(measured: dict[str, Any]) -> list[str]:
    """A sentence a goal."""
    said = []
    for goal in measured["goals"]:
        if goal["met"] is None:
            said.append(f"{goal['goal']}: nothing to hold it against")
        else:
            verdict = "met" if goal["met"] else "MISSED"
            said.append(f"{goal['goal']}: {goal['reached']:.2f} ({SIDES[goal['against']].title}), {verdict}")
    return said


def print_case(measured: dict[str, Any]) -> None:
    """One case on the screen."""
    print(f"{measured['title']}; {_conditions(measured)}")
    print_columns([HEAD, *([row[0], *row[1:]] for row in rows_of(measured))])
    print(*goals_of(measured), sep="\n", end="\n\n", flush=True)


def markdown(measured: dict[str, Any]) -> str:
    """One case for a document."""
    lines = [f"**{measured['title']}**; {_conditions(measured)}.", "", f"| {' | '.join(HEAD)} |", f"|---|{'--:|' * 6}---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows_of(measured)]
    return "\n".join([*lines, "", *(f"* {sentence}" for sentence in goals_of(measured)), ""])


def _conditions(measured: dict[str, Any]) -> str:
    options = measured["options"]
    threads = "1 thread" if options["threads"] == 1 else f"{options['threads']} threads"
    drops = options["dropout"] and CASES[measured["case"]].kind in ("masked-lm", "classifier")
    dropout = f"dropout {options['dropout']:g}" if drops else "no dropout"
    return f"{options['precision']}, {threads}, {dropout}, {measured['rounds']} rounds"


def _range(ratio: dict[str, float]) -> str:
    return f"{ratio['of_means']:.2f} [{ratio['lowest']:.2f}, {ratio['highest']:.2f}]"
