"""The figures of a report of runs. A run has one colour and one marker in all of them; the colours are Okabe and Ito's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from diito.evaluation.held_out.maps import heat_map
from diito.report.drawing import Figure, loss_title, save, smooth
from diito.report.run_tables import figures_of
from diito.report.runs import OTHERS, Run

_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000")
_MARKERS = "osD^vPX*"
_SMOOTHED = 20
"""Curves of more points get a moving average, and stand pale behind it."""

Draw = Callable[[Any, Run, str, str], bool]
"""Draws one run into a panel in its colour and marker; whether there was anything to draw."""


def run_figures(runs: Sequence[Run], folder: Path) -> list[Figure]:
    """Draw every figure of which there is something to show, as PNG files in ``folder``."""
    import matplotlib

    matplotlib.use("Agg")
    every = [_losses(runs, folder), _losses_by_flops(runs, folder), _others(runs, folder), _held_out(runs, folder)]
    return [figure for figure in every if figure is not None] + list(_maps(runs, folder))


def _losses(runs: Sequence[Run], folder: Path) -> Figure | None:
    panels = {loss: _curve(loss) for run in runs for loss in run.losses()}
    text = "Every named loss on the training batches, over the steps, with a moving average over a tenth of the run."
    return _panels(runs, panels, folder / "losses.png", "Losses", text, titles=loss_title)


def _losses_by_flops(runs: Sequence[Run], folder: Path) -> Figure | None:
    known = [run for run in runs if run.flops_per_step is not None]
    panels = {loss: _curve(loss, by_flops=True) for run in known for loss in run.losses()}
    text = "The same losses over the FLOPs of training (matrix products of teacher and student, estimated)."
    path = folder / "losses-by-flops.png"
    return _panels(runs, panels, path, "Losses over FLOPs", text, titles=loss_title, across="FLOP", resumed=False)


def _others(runs: Sequence[Run], folder: Path) -> Figure | None:
    panels = {name: _curve(name) for run in runs for name in run.others()}
    text = "Learning rate, gradient norm before it is clipped, and tokens a second, over the steps."
    return _panels(runs, panels, folder / "training.png", "Training", text, titles=lambda name: OTHERS.get(name, name))


def _held_out(runs: Sequence[Run], folder: Path) -> Figure | None:
    figures = figures_of(runs)
    text = "Held-out figures of the student before, during and after training; a dashed line is its teacher."
    titles = {name: title for name, (title, _) in figures.items()}
    path = folder / "held-out.png"
    return _panels(runs, {name: _measured(name) for name in figures}, path, "On held-out text", text, titles=titles.__getitem__)


def _curve(name: str, *, by_flops: bool = False) -> Draw:
    def draw(axis: Any, run: Run, colour: str, marker: str) -> bool:
        steps, values = run.curve(name)
        factor = run.flops_per_step if by_flops else 1
        if not steps or factor is None:
            return False
        places = [step * factor for step in steps]
        style = {"color": colour, "marker": marker, "markersize": 4, "markevery": max(1, len(steps) // 6), "linewidth": 1.2}
        if len(steps) > _SMOOTHED:
            axis.plot(places, values, color=colour, alpha=0.25, linewidth=0.8)
            values = smooth(values)
        axis.plot(places, values, label=run.name, **style)
        return True

    return draw


def _measured(name: str) -> Draw:
    def draw(axis: Any, run: Run, colour: str, marker: str) -> bool:
        steps, values = run.held_out(name)
        teacher = (run.results.get("teacher") or {}).get(name)
        if teacher is not None:
            axis.axhline(teacher, color=colour, linestyle="--", linewidth=0.9)
        if steps:
            axis.plot(steps, values, color=colour, marker=marker, markersize=5, linewidth=1.2, label=run.name)
            if name == "perplexity" and max(values) > 20 * min(values):
                axis.set_yscale("log")
        return bool(steps)

    return draw


def _panels(
    runs: Sequence[Run],
    panels: dict[str, Draw],
    path: Path,
    title: str,
    text: str,
    *,
    titles: Callable[[str], str],
    across: str = "step",
    resumed: bool = True,
) -> Figure | None:
    """A panel for each name, with every run in it; None where there is nothing to draw."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import EngFormatter, MaxNLocator

    if not panels:
        return None
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    size = (4.2 * columns, 2.9 * rows + 0.5)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    drawn = 0
    for axis, (name, draw) in zip(axes.flat, panels.items(), strict=False):
        for number, run in enumerate(runs):
            colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]
            drawn += draw(axis, run, colour, marker)
            for line in run.resumes if resumed else ():
                axis.axvline(line["step"], color=colour, linestyle=":", linewidth=1)
        axis.set_title(_plain(titles(name)), fontsize=10)
        axis.set_xlabel(across)
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=across == "step"))
        if across != "step":
            axis.xaxis.set_major_formatter(EngFormatter(sep=" "))
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    if not drawn:
        plt.close(figure)
        return None
    handles = {label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    shown = [run.name for run in runs if run.name in handles]
    labels = [_plain(name) for name in shown]
    figure.legend([handles[name] for name in shown], labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    if resumed and any(run.resumes for run in runs):
        text += " A dotted line is where a run was resumed."
    return save(figure, path, title, text)


def _maps(runs: Sequence[Run], folder: Path) -> Iterator[Figure]:
    for number, run in enumerate(runs, start=1):
        for count, each in enumerate(run.maps(), start=1):
            name = re.sub(r"[^\w.+-]", "-", run.name)
            path = folder / f"map-{number}-{name}{'' if count == 1 else f'-{count}'}.png"
            drawn = heat_map(each["result"]["models"]["student"]["pairs"], title=_plain(run.name))
            text = f"Interchange interventions on every pair of layers, at unswapped tokens, as {each['file'].name} has them."
            yield save(drawn, path, f"All pairs of layers: {run.name}", text)


def _plain(text: str) -> str:
    """A text that matplotlib shows as it is: a dollar begins no formula."""
    return text.replace("$", r"\$")
