"""What all figures of reports share: what a figure is, how it is written, names of losses, moving averages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One figure, drawn."""

    path: Path
    title: str
    text: str
    """What is to be seen, for those who cannot see it and as the caption."""
    drawn: Any = field(repr=False, compare=False)
    """The figure of matplotlib, of which other formats can be written."""


_LOSSES = {
    "task": "the task's own",
    "mlm": "masked words",  # what diito 0.1.0 measured
    "ce": "smoothed, with the teacher",
    "cos": "cosine distance of states",
    "causal_ce": "smoothed, interventions",
    "causal_cos": "cosine distance, interventions",
}


def save(figure: Any, path: Path, title: str, text: str) -> Figure:
    """Write a figure of matplotlib as PNG."""
    import matplotlib.pyplot as plt

    figure.savefig(path, dpi=150)
    plt.close(figure)
    return Figure(path, title, text, figure)


def write_pdfs(figures: Iterable[Figure]) -> None:
    """Each figure as PDF beside its PNG."""
    for figure in figures:
        figure.drawn.savefig(figure.path.with_suffix(".pdf"))


def loss_title(loss: str) -> str:
    """A loss by its name, with what it is where it is one of the paper's."""
    return f"{loss}: {_LOSSES[loss]}" if loss in _LOSSES else loss


def smooth(values: Sequence[float]) -> list[float]:
    """Each value averaged with those before it, over a tenth of all."""
    width, sums = max(1, len(values) // 10), [0.0, *accumulate(values)]
    return [(sums[end] - sums[max(0, end - width)]) / min(end, width) for end in range(1, len(values) + 1)]
