"""The figures of a report. A condition has one colour and one marker in all of them; colours are Okabe and Ito's, which
colour-blind readers can tell apart, and the marker tells apart what shares a colour.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from diito.evaluation.held_out.maps import heat_map
from diito.report.drawing import Figure, loss_title, save, smooth
from diito.report.metrics import INTERCHANGE, METRICS, TABLE_1, Measured, Row, is_low_resource
from diito.report.statistics import difference_of, summary

_STYLE = {
    "standard": ("#000000", "o"),
    "full": ("#D55E00", "s"),
    "full-cos": ("#CC79A7", "D"),
    "full-random": ("#E69F00", "v"),
    "full-masked": ("#E69F00", "^"),
    "middle": ("#0072B2", "P"),
    "late": ("#56B4E9", "X"),
    "equal-flops": ("#000000", "x"),
    "double-kl": ("#000000", "+"),
    "token-swap": ("#009E73", "<"),
    "shuffled": ("#009E73", ">"),
    "site": ("#D55E00", "o"),
    "other-site": ("#E69F00", "o"),
    "random-swap": ("#009E73", "^"),
    "hint": ("#0072B2", "d"),
    "other": ("#999999", "d"),
    "reference": ("#999999", "*"),
}
"""Colour and marker of each method."""


def figures(measured: Measured, folder: Path) -> list[Figure]:
    """Draw every figure of which there is something to show, as PNG files in ``folder``."""
    import matplotlib

    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    makers: list[Callable[[Measured, Path], Figure | None]] = [
        _perplexity,
        _differences,
        _over_rows,
        _low_resource,
        _depth,
        _curves,
    ]
    drawn = [figure for make in makers if (figure := make(measured, folder)) is not None]
    return drawn + [_map(measured, each, folder) for each in measured.maps()]


def _perplexity(measured: Measured, folder: Path) -> Figure | None:
    """Every run and the mean of every row, a panel a group."""
    rows = [row for row in measured.rows if row["method"] != "reference" and measured.values(row["name"], "perplexity")]
    return _dots(
        measured,
        rows,
        folder / "perplexity.png",
        "Perplexity",
        "Perplexity of held-out text, less is better: a large mark is the mean, small ones below are the distillation seeds.",
    )


def _low_resource(measured: Measured, folder: Path) -> Figure | None:
    """The paper's Figure 2."""
    rows = [row for row in measured.rows if is_low_resource(row) and measured.values(row["name"], "perplexity")]
    text = "Perplexity of students that were distilled on 15 % of the corpus, less is better (the paper's Figure 2)."
    return _dots(measured, rows, folder / "figure-2.png", "Low resource", text)


def _dots(measured: Measured, rows: Sequence[Row], path: Path, title: str, text: str) -> Figure | None:
    if not rows:
        return None
    import matplotlib.pyplot as plt

    groups = list(dict.fromkeys(row["group"] for row in rows))
    parts = [[row for row in rows if row["group"] == group] for group in groups]
    figure, axes = plt.subplots(
        len(groups),
        1,
        figsize=(7, 0.8 * len(groups) + 0.38 * len(rows) + 0.3),
        gridspec_kw={"height_ratios": [len(part) + 0.6 for part in parts]},
        layout="constrained",
        squeeze=False,
    )
    for axis, group, part in zip(axes[:, 0], groups, parts, strict=True):
        for height, row in enumerate(reversed(part)):
            colour, marker = _STYLE[row["method"]]
            values = list(measured.values(row["name"], "perplexity").values())
            axis.plot(values, [height - 0.28] * len(values), marker, color=colour, markersize=4, alpha=0.55, linestyle="none")
            axis.plot([statistics.fmean(values)], [height], marker, color=colour, markersize=9, linestyle="none")
        axis.set_yticks(range(len(part)), [row["title"] for row in reversed(part)])
        axis.set_ylim(-0.7, len(part) - 0.3)
        axis.grid(axis="x", alpha=0.3)
        axis.set_title(group, fontsize=10, loc="left")
    axes[-1, 0].set_xlabel("perplexity of masked words (less is better)")
    return save(figure, path, title, text)


_ROWS = re.compile(r"\bN = ([\d,]+)")
"""The number of examples in the name of a group."""


def _over_rows(measured: Measured, folder: Path) -> Figure | None:
    """Accuracy on held-out combinations over the number of examples, where groups of conditions differ in it."""
    metric = "held accuracy"
    panels: dict[str, dict[tuple[str, str], list[tuple[int, float]]]] = {}
    for row in measured.rows:
        rows, values = _ROWS.search(row["group"]), list(measured.values(row["name"], metric).values())
        if rows is not None and values:
            lines = panels.setdefault(_ROWS.sub("", row["group"]).strip(" ,"), {})
            point = (int(rows[1].replace(",", "")), statistics.fmean(values))
            lines.setdefault((row["title"], row["method"]), []).append(point)
    panels = {name: lines for name, lines in panels.items() if any(len(points) > 1 for points in lines.values())}
    if not panels:
        return None
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(panels), figsize=(6 * len(panels), 4.5), layout="constrained", squeeze=False)
    for axis, (name, lines) in zip(axes[0], panels.items(), strict=True):
        for (title, method), points in lines.items():
            colour, marker = _STYLE[method]
            axis.plot(*zip(*sorted(points), strict=True), marker=marker, color=colour, label=title)
        axis.set_xscale("log")
        axis.set_title(name, fontsize=10, loc="left")
        axis.set_xlabel("examples")
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel(METRICS[metric].name)
    axes[0, -1].legend(fontsize=8)
    text = "Accuracy on combinations that no example shows, over the number of examples: means over the seeds."
    return save(figure, folder / "over-rows.png", "Over the number of examples", text)


def _differences(measured: Measured, folder: Path) -> Figure | None:
    """Every condition minus standard distillation, with its interval, a panel a figure."""
    panels = []
    for metric in (*TABLE_1, *INTERCHANGE):
        results = []
        for row in measured.rows:
            standard = measured.standard_of(row)
            if standard is not None and (each := difference_of(measured, row, standard, metric)) is not None:
                results.append((row, each))
        if results:
            panels.append((metric, results))
    if not panels:
        return None
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    several = len({row["group"] for _, results in panels for row, _ in results}) > 1
    names = list(dict.fromkeys(row["name"] for _, results in panels for row, _ in results))
    columns = 2 if len(panels) in (2, 4) else min(3, len(panels))
    lines = -(-len(panels) // columns)
    size = (2.2 + 3.1 * columns, lines * (1.1 + 0.3 * len(names)))
    figure, axes = plt.subplots(lines, columns, figsize=size, layout="constrained", squeeze=False, sharey=True)
    texts = {
        row["name"]: row["title"] + (f", {row['group']}" if several else "") for _, results in panels for row, _ in results
    }
    for axis, (metric, results) in zip(axes.flat, panels, strict=False):
        axis.axvline(0, color="black", linewidth=0.8)
        for row, each in results:
            height = len(names) - 1 - names.index(row["name"])
            colour, marker = _STYLE[row["method"]]
            if each.interval is not None:
                axis.plot(each.interval, [height, height], color=colour, linewidth=1.4)
            axis.plot([each.mean], [height], marker, color=colour, markersize=7)
        axis.set_yticks(range(len(names)), [texts[name] for name in reversed(names)])
        axis.set_ylim(-0.7, len(names) - 0.3)
        axis.margins(x=0.08)
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.grid(axis="x", alpha=0.3)
        better = "more" if METRICS[metric].better > 0 else "less"
        axis.set_xlabel(f"{METRICS[metric].name}, difference\n({better} is better)")
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    text = "Every condition minus standard distillation, with the 95 % interval over distillation seeds (Student's t)."
    return save(figure, folder / "against-standard.png", "Against standard distillation", text)


def _depth(measured: Measured, folder: Path) -> Figure | None:
    """The paper's Figure 3: GLUE against the student's depth; perplexity where the grid asks for no GLUE."""
    metric = "glue" if measured.asks_for("glue") else "perplexity"
    lines: dict[str, list[tuple[int, float, float]]] = {}
    for row in measured.rows:
        results = summary(measured.values(row["name"], metric).values())
        if row["method"] in ("standard", "full") and not is_low_resource(row) and results is not None:
            lines.setdefault(row["method"], []).append((row["layers"], results.mean, results.deviation or 0.0))
    if not any(len({depth for depth, _, _ in points}) > 1 for points in lines.values()):
        return None
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5.5, 3.8), layout="constrained")
    for method, points in lines.items():
        depths, means, deviations = zip(*sorted(points), strict=True)
        colour, marker = _STYLE[method]
        name = "DIITO FULL" if method == "full" else "Standard"
        axis.errorbar(depths, means, deviations, color=colour, marker=marker, capsize=3, label=name)
    axis.set_xticks(sorted({depth for points in lines.values() for depth, _, _ in points}))
    axis.set_xlabel("layers of the student")
    axis.set_ylabel("GLUE mean (more is better)" if metric == "glue" else "perplexity (less is better)")
    axis.grid(alpha=0.3)
    axis.legend()
    text = f"{METRICS[metric].name} against the depth of the student; bars are a standard deviation over the runs"
    text += " (the paper's Figure 3)." if metric == "glue" else "; the paper's Figure 3 has GLUE."
    return save(figure, folder / "figure-3.png", "Depth", text)


def _curves(measured: Measured, folder: Path) -> Figure | None:
    """The losses of training, smoothed, mean over the seeds."""
    students = {row["name"]: measured.students(row["name"]) for row in measured.rows}
    seeds = [{each["seed"] for each in results} for results in students.values() if results]
    shared = set.intersection(*seeds) if seeds else set()  # curves of other seeds would differ by their rows and masks
    curves = {name: _mean_curves([each for each in results if each["seed"] in shared]) for name, results in students.items()}
    losses = list(dict.fromkeys(loss for each in curves.values() for loss in each))
    if not losses:
        return None
    import matplotlib.pyplot as plt
    from matplotlib.ticker import EngFormatter, MaxNLocator

    several = len({row["group"] for row in measured.rows if curves[row["name"]]}) > 1
    columns = min(3, len(losses))
    lines = -(-len(losses) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(4 * columns, 3.1 * lines + 0.9), layout="constrained", squeeze=False)
    for axis, loss in zip(axes.flat, losses, strict=False):
        for row in measured.rows:
            if loss in curves[row["name"]]:
                tokens, values = curves[row["name"]][loss]
                colour, marker = _STYLE[row["method"]]
                name = row["title"] + (f", {row['group']}" if several else "")
                every = max(1, len(tokens) // 6)
                axis.plot(tokens, values, color=colour, marker=marker, markevery=every, markersize=5, linewidth=1.1, label=name)
        axis.set_title(loss_title(loss), fontsize=10)
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.xaxis.set_major_formatter(EngFormatter(sep=" "))
        axis.set_xlabel("tokens")
        axis.set_ylabel("loss, nats" if "cos" not in loss else "loss")
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(losses) :]:
        axis.set_axis_off()
    handles = {text: handle for axis in axes.flat for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    text = "The losses on the training batches against tokens, a moving average over a tenth of the run, mean over the seeds "
    text += "that all have."
    return save(figure, folder / "training-curves.png", "Training curves", text)


def _mean_curves(students: Sequence[dict[str, Any]]) -> dict[str, tuple[list[float], list[float]]]:
    """Loss -> (tokens, values), over the steps that all students have."""
    if not students:
        return {}
    by_step = [{line["step"]: line for line in each["curve"]} for each in students]
    steps = sorted(set.intersection(*(set(lines) for lines in by_step)))
    tokens = [by_step[0][step]["tokens"] for step in steps]
    losses = [name for name in by_step[0][steps[0]] if name not in ("step", "tokens", "loss")] if steps else []
    return {
        loss: (tokens, smooth([statistics.fmean(lines[step][loss] for lines in by_step) for step in steps])) for loss in losses
    }


def _map(measured: Measured, results: dict[str, Any], folder: Path) -> Figure:
    row = next(each for each in measured.rows if each["name"] == results["row"])
    title = f"{row['title']}, seed {results['seed']}"
    name = re.sub(r"[^\w.+-]", "-", results["row"])  # measurements from elsewhere may hold any
    path = folder / f"map-{name}.png"
    drawn = heat_map(results["result"]["pairs"], title=title)
    return save(
        drawn, path, f"All pairs of layers: {title}", "Interchange interventions on every pair of layers, at unswapped tokens."
    )
