"""A map of all (student layer, teacher layer) pairs: as an alignment to measure, as a heat map, and its best path.

The best alignment is the monotone one (a deeper student layer never answers to a shallower teacher layer, and each to one
of its own where the teacher is deep enough) with the highest sum of scores.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diito.evaluation.results import Measurement, slug
from diito.evaluation.settings import InterchangeSettings
from diito.method.alignment import AlignedPair
from diito.paths import expand
from diito.refusal import Refusal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCORES = {"iia": "IIA", "effective_iia": "effective IIA", "counterfactual_kl": "counterfactual KL"}
"""What an alignment can be chosen by: more of the accuracies is better, less of the divergence."""


def all_pairs(student_layers: int, teacher_layers: int) -> list[AlignedPair]:
    """Every student layer with every teacher layer."""
    return [AlignedPair([ours], [theirs]) for ours in range(student_layers) for theirs in range(teacher_layers)]


def matrix(pairs: Sequence[dict[str, Any]], score: str) -> NDArray[np.float64]:
    """One score of a map's pairs at unswapped tokens as [student layer, teacher layer]; nan where it is not defined."""
    shape = tuple(1 + max(pair[side][0] for pair in pairs) for side in ("student", "teacher"))
    values = np.full(shape, math.nan)
    for pair in pairs:
        values[pair["student"][0], pair["teacher"][0]] = pair["unswapped"].get(score, math.nan)
    return values


def goodness(pairs: Sequence[dict[str, Any]], score: str) -> NDArray[np.float64]:
    """One of :data:`SCORES` as [student layer, teacher layer], with the sign by which more is better."""
    values = matrix(pairs, score)
    return -values if score == "counterfactual_kl" else values


def best_monotone(scores: NDArray[np.float64]) -> list[int]:
    """The teacher layer of each student layer with the highest sum of ``scores`` [student layer, teacher layer].

    Layers increase strictly where the teacher has as many as the student, else they never decrease. Of equal sums the one with
    the lower layers is taken. A pair whose score is not a number is not taken; raises Refusal where nothing else is left.
    """
    scores = np.where(np.isnan(scores), -np.inf, scores)
    students, teachers = scores.shape
    step = 1 if teachers >= students else 0
    best = np.full((students, teachers), -np.inf)
    best[0] = scores[0]
    for layer in range(1, students):
        for teacher in range(layer * step, teachers):
            best[layer, teacher] = scores[layer, teacher] + best[layer - 1, : teacher + 1 - step].max()
    if best[-1].max() == -np.inf:
        raise Refusal("score", "undefined for so many pairs of layers that no alignment is left; choose counterfactual_kl")
    path = [int(best[-1].argmax())]
    for layer in range(students - 2, -1, -1):
        path.append(int(best[layer, : path[-1] + 1 - step].argmax()))
    return path[::-1]


def map_files(settings: InterchangeSettings, measurements: Sequence[Measurement], results: Path) -> Iterator[Path]:
    """Draw the heat map of a measured map; the path of the figure. None where an alignment was measured."""
    for measurement in measurements:
        if measurement.result["map"]:
            path = expand(settings.figure or results.with_name(f"{slug(measurement.model)}-map.png"), field="figure")
            path.parent.mkdir(parents=True, exist_ok=True)
            title = f"{measurement.model} under the interventions of {settings.teacher}"
            draw_heat_map(measurement.result["models"]["student"]["pairs"], path, title=title)
            yield path


def draw_heat_map(pairs: Sequence[dict[str, Any]], path: str | Path, *, title: str) -> None:
    """Write the figure of a map."""
    heat_map(pairs, title=title).savefig(path, dpi=150)


def heat_map(pairs: Sequence[dict[str, Any]], *, title: str) -> Figure:
    """The figure of a map: IIA, effective IIA, counterfactual KL and efficacy at the unswapped tokens."""
    from matplotlib.figure import Figure

    panels = (
        ("iia", "IIA (share of tokens)", "viridis"),
        ("effective_iia", "effective IIA (share of tokens)", "viridis"),
        ("counterfactual_kl", "counterfactual KL (nats)", "viridis_r"),
        ("efficacy", "efficacy (share of tokens)", "viridis"),
    )
    students, teachers = matrix(pairs, "iia").shape
    figure = Figure(figsize=(3.5 + 1.1 * teachers, 3.0 + 1.0 * students), layout="constrained")
    axes = figure.subplots(2, 2)
    for axis, (score, label, colours) in zip(axes.flat, panels, strict=True):
        values = matrix(pairs, score)
        image = axis.imshow(values, cmap=colours, aspect="auto", origin="lower")
        for (ours, theirs), value in np.ndenumerate(values):
            text = "–" if math.isnan(value) else f"{value:.3f}"
            axis.text(theirs, ours, text, ha="center", va="center", fontsize=8, color=_readable(image, value))
        axis.set_xticks(range(teachers))
        axis.set_yticks(range(students))
        axis.set_xlabel("teacher layer")
        axis.set_ylabel("student layer")
        axis.set_title(label, fontsize=10)
        figure.colorbar(image, ax=axis, shrink=0.9)
    figure.suptitle(title, fontsize=11)
    return figure


def _readable(image: Any, value: float) -> str:
    """Black on light cells, white on dark ones."""
    if math.isnan(value):
        return "black"
    red, green, blue, _ = image.cmap(image.norm(value))
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"
