"""A picture as a PNG, drawn by matplotlib in memory."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from diito.explorer import colours
from diito.explorer.markup import RUN_NAMES
from diito.explorer.picture import Answers, Map, Picture


def draw(picture: Picture, made: Map) -> bytes:
    """Texts, answers and map of a view."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    models = len(picture.models)
    figure = Figure(figsize=(13, 1.6 + 5.4 * models), layout="constrained")
    FigureCanvasAgg(figure)
    rows: Any = figure.subfigures(models + 1, 1, height_ratios=[1.1, *[5.4] * models])
    _texts(rows[0], picture)
    for model, row in zip(picture.models, rows[1:], strict=True):
        answers, grid = row.subfigures(1, 2, width_ratios=[3, 2])
        _answers(answers, model)
        _map(grid.subplots(), model, made)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100, metadata={"Software": "diito"})
    return content.getvalue()


def _texts(part: Any, picture: Picture) -> None:
    view = picture.view
    assert view.first is not None and view.last is not None and view.read is not None
    size = view.last - view.first + 1
    lines = [
        f"base: {_marked(picture.base.tokens, view.first, size)}   (answer at token {view.slot})",
        f"source: {_marked(picture.source.tokens, view.read, size)}",
        *picture.verdicts.values(),
    ]
    part.text(0.01, 0.95, "\n".join(lines), va="top", fontsize=10, wrap=True, parse_math=False)


def _marked(tokens: tuple[str, ...], first: int, size: int) -> str:
    """A text with its span in brackets."""
    return " ".join([*tokens[:first], "⟦", *tokens[first : first + size], "⟧", *tokens[first + size :]])


def _answers(part: Any, model: Answers) -> None:
    layers = "+".join(map(str, model.layers))
    part.suptitle(f"{model.title}: {model.name}, layers {layers} of {model.depth}", fontsize=10, parse_math=False)
    for axis, (run, answers) in zip(
        part.subplots(1, len(model.likeliest), squeeze=False)[0], model.likeliest.items(), strict=True
    ):
        places = range(len(answers))
        axis.barh(places, [answer.probability for answer in answers], color=colours.MODELS[model.role], alpha=0.4)
        for place, answer in enumerate(answers):
            axis.text(0.01, place, f"{answer.text}  {100 * answer.probability:.1f}", va="center", fontsize=8, parse_math=False)
        axis.set(xlim=(0, 1), xticks=[], yticks=[])
        axis.invert_yaxis()
        facts = [f"moved {model.moved[run]:.3f}"] if run in model.moved else []
        facts += [f"KL {model.divergence[run]:.3f}"] if run in model.divergence else []
        axis.set_title("\n".join([RUN_NAMES[run], ", ".join(facts)]), fontsize=8)


def _map(axis: Any, model: Answers, made: Map) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    shades = LinearSegmentedColormap.from_list("diito", [colours.fraction(step / 12) for step in range(13)])
    values = np.array([[np.nan if value is None else value for value in row] for row in made.values[model.role]])
    image = axis.imshow(values, origin="lower", aspect="auto", cmap=shades, vmin=0, vmax=made.most or 1)
    axis.set_xticks(range(len(made.columns)), made.columns, rotation=90, fontsize=7, parse_math=False)
    axis.set_yticks(range(len(values)))
    axis.set_ylabel("layer")
    axis.set_title("how far a swap moves the answer (nats)", fontsize=8)
    axis.figure.colorbar(image, ax=axis)
