"""A picture as HTML. All text from models, texts and links goes through :func:`escape`, and nothing else makes text of it.

Whatever can be pressed is a button with a ``data-act``, the action as JSON that ``actions.py`` reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diito.explorer.colours import readable, scale
from diito.explorer.picture import Answers, Map, Picture
from diito.explorer.subjects import Subjects
from diito.explorer.texts import Text
from diito.explorer.view import View

RUN_NAMES = {"base": "base", "source": "source", "counterfactual": "swapped", "donor": "donor"}
_SHOWN_PAIRS = 64
_ESCAPES = {"&": "amp", "<": "lt", ">": "gt", '"': "quot", "'": "#39", "`": "#96", "{": "#123", "}": "#125", "$": "#36"}
"""Also what a template would take for its own."""


def escape(text: object) -> str:
    """Text that stands for itself in HTML, in attributes, and in the templates of the page."""
    return "".join(f"&{_ESCAPES[each]};" if each in _ESCAPES else each for each in str(text))


def board(picture: Picture, subjects: Subjects) -> str:
    """Tokens, layers and answers."""
    link = escape(picture.view.link())
    parts = [
        f'<div class="board" data-link="{link}">',
        _tokens(picture),
        _layers(picture, subjects),
        _verdicts(picture),
        '<div class="models">',
        *(_answers(model, picture) for model in picture.models),
        "</div></div>",
    ]
    return "".join(parts)


def failure(sentence: str) -> str:
    """What is shown in place of answers."""
    return f'<p class="failure" role="alert">{escape(sentence)}</p>'


def _tokens(picture: Picture) -> str:
    view = picture.view
    assert view.first is not None and view.last is not None and view.read is not None
    size = view.last - view.first
    strips = [
        _strip("base", picture.base, (view.first, view.last), "swap", slot=view.slot, note="drag over the tokens to swap"),
        _strip(
            "source",
            picture.source,
            (view.read, view.read + size),
            "read",
            slot=picture.source_slot,
            note="click where to read",
        ),
    ]
    if picture.donor is not None:
        strips.append(
            _strip("donor", picture.donor, (view.first, view.last), None, note="a random text in place of the source")
        )
    return f'<div class="strips">{"".join(strips)}</div>'


def _strip(name: str, text: Text, span: tuple[int, int], kind: str | None, *, slot: int | None = None, note: str = "") -> str:
    """One text in tokens: those of the span marked, each to be pressed where ``kind`` says what that does."""
    cells = []
    for place, token in enumerate(text.tokens):
        chosen = span[0] <= place <= span[1]
        classes = ["token", *(["special"] if text.special[place] else []), *(["swapped"] if chosen else [])]
        if place == slot:
            classes.append("asked")
        label = f"{place}<span>{escape(token)}</span>"
        if kind is None:
            button = f'<span class="{" ".join(classes)}">{label}</span>'
        else:
            act = {"kind": kind, "first": place, "last": place} if kind == "swap" else {"kind": kind, "at": place}
            button = _button(act, label, classes=classes, pressed=chosen, key=f"{name}{place}", place=place)
        asks = ""
        if kind == "swap" and len(text.slots) > 1 and place in text.slots:
            asks = _button(
                {"kind": "slot", "at": place},
                "?",
                classes=["ask"],
                pressed=place == slot,
                key=f"slot{place}",
                label=f"read the answer at token {place}",
            )
        cells.append(f"<li>{button}{asks}</li>")
    hint = f" <small>{escape(note)}</small>" if note else ""
    again = _button({"kind": "donor"}, "another", classes=["plain"], key="donor") if name == "donor" else ""
    return (
        f'<div class="strip" data-strip="{name}">'
        f'<div class="head"><b>{escape(RUN_NAMES.get(name, name))}</b>{hint} {again}</div>'
        f'<ol class="tokens">{"".join(cells)}</ol></div>'
    )


def _layers(picture: Picture, subjects: Subjects) -> str:
    """The aligned pairs, and the switch that lets any layers be chosen."""
    options, chosen = [], False
    for pair in subjects.pairs["student"][:_SHOWN_PAIRS]:
        together = subjects.aligned("student", pair.student[0]) or {}
        is_chosen = all(getattr(picture.view, role) == layers for role, layers in together.items())
        chosen = chosen or is_chosen
        act = escape(json.dumps({"kind": "layer", "model": "student", "layer": pair.student[0]}))
        name = f"student {_list(pair.student)} ← teacher {_list(pair.teacher)}"
        options.append(f'<option value="{act}"{" selected" if is_chosen else ""}>{escape(name)}</option>')
    if not chosen:
        now = ", ".join(f"{model.title} {_list(model.layers)}" for model in picture.models)
        options.insert(0, f"<option selected>any: {escape(now)}</option>")
    aligned = picture.view.aligned
    act = escape(json.dumps({"kind": "aligned", "on": not aligned}))
    return (
        '<div class="controls"><label>layers swapped <select data-key="pair">'
        f"{''.join(options)}</select></label>"
        f'<label><input type="checkbox" data-key="aligned" data-act="{act}"{" checked" if aligned else ""}> '
        "a cell of the map chooses aligned layers</label></div>"
    )


def _verdicts(picture: Picture) -> str:
    lines = [f"<p>{escape(sentence)}</p>" for sentence in picture.verdicts.values()]
    if not picture.reached:
        lines.append("<p>The swap stands behind the answer, which it cannot change: these models read from left to right.</p>")
    return f'<div class="verdict" aria-live="polite">{"".join(lines)}</div>'


def _answers(model: Answers, picture: Picture) -> str:
    columns = "".join(_column(model, run) for run in model.likeliest)
    layers = f"layer{'s' if len(model.layers) > 1 else ''} {_list(model.layers)} of {model.depth}"
    return (
        f'<section class="model {model.role}"><h3>{escape(model.title)} <small title="{escape(model.name)}">'
        f"{escape(_short(model.name))} · {layers}</small></h3>"
        f'<div class="runs">{columns}</div></section>'
    )


def _column(model: Answers, run: str) -> str:
    items = "".join(
        f'<li style="--p:{100 * each.probability:.1f}%">'
        f"<span>{escape(each.text)}</span><i>{_percent(each.probability)}</i></li>"
        for each in model.likeliest[run]
    )
    facts = []
    if run in model.moved:
        facts.append(f'<span title="KL(base ‖ this run), nats">moved {model.moved[run]:.3f}</span>')
    if run in model.divergence:
        facts.append(f'<span title="KL(teacher ‖ this model), nats">KL {model.divergence[run]:.3f}</span>')
    changed = " changed" if run in model.moved and model.said(run) != model.said("base") else ""
    note = f"<small>{' · '.join(facts) or '&nbsp;'}</small>"
    return f'<div class="run{changed}"><h4>{escape(RUN_NAMES[run])}</h4>{note}<ol>{items}</ol></div>'


def heat_map(made: Map, view: View, subjects: Subjects) -> str:
    """Layers upwards, tokens to the right, a grid a model, all on one scale."""
    assert view.first is not None and view.last is not None and view.slot is not None
    by = view.slot if made.is_mean else 0
    span = range(view.first - by, view.last + 1 - by)
    grids = "".join(
        _grid(role, subjects.title(role), rows, made, getattr(view, role), span) for role, rows in made.values.items()
    )
    title = (
        f"the same, mean of {made.pairs} held-out pairs, by distance from the answer"
        if made.is_mean
        else "where a swap moves the answer"
    )
    legend = "".join(f'<i style="background:{scale(step / 20)}"></i>' for step in range(21))
    return (
        f'<div class="maps"><div class="head"><b>{escape(title)}</b> <small>nats; a cell is a swap of one token in one layer; '
        f'press it to swap there</small><span class="legend">0 {legend} {made.most:.2f}</span></div>'
        f'<div class="grids">{grids}</div></div>'
    )


def _grid(role: str, title: str, rows: Sequence[Sequence[float | None]], made: Map, layers: Iterable[int], span: range) -> str:
    chosen = set(layers)
    head = "".join(f'<span class="name">{escape(name)}</span>' for name in made.columns)
    lines = []
    for layer in reversed(range(len(rows))):
        cells = []
        for column, value in enumerate(rows[layer]):
            place = made.first + column
            swapped = layer in chosen and place in span
            cells.append(_cell(role, layer, place, value, made, name=made.columns[column], swapped=swapped))
        lines.append(f'<span class="layer">{layer}</span>{"".join(cells)}')
    return (
        f'<div class="map {role}"><h4>{escape(title)}</h4>'
        f'<div class="grid" role="group" aria-label="map of the {escape(title)}" style="--columns:{len(made.columns)}">'
        f"{''.join(lines)}"
        f'<span class="layer"></span>{head}</div></div>'
    )


def _cell(role: str, layer: int, place: int, value: float | None, made: Map, *, name: str, swapped: bool) -> str:
    if value is None:
        return '<span class="cell none"></span>'
    share = value / made.most if made.most else 0.0
    act = {"kind": "cell", "model": role, "layer": layer, "at": place, "mean": made.is_mean}
    return _button(
        act,
        _short_number(value),
        classes=["cell", *(["swapped"] if swapped else [])],
        key=f"{role}-{layer}-{place}",
        label=f"{role} layer {layer}, {name}: {value:.3f} nats",
        style=f"background:{scale(share)};color:{readable(share)}",
        pressed=swapped,
    )


def _button(
    act: Mapping[str, Any],
    inner: str,
    *,
    classes: Sequence[str],
    key: str,
    pressed: bool | None = None,
    label: str | None = None,
    style: str | None = None,
    place: int | None = None,
) -> str:
    """``inner`` is HTML."""
    parts = [f'type="button" class="{" ".join(classes)}" data-key="{key}" data-act="{escape(json.dumps(act))}"']
    if pressed is not None:
        parts.append(f'aria-pressed="{str(pressed).lower()}"')
    if label is not None:
        parts.append(f'aria-label="{escape(label)}" title="{escape(label)}"')
    if style is not None:
        parts.append(f'style="{style}"')
    if place is not None:
        parts.append(f'data-place="{place}"')
    return f"<button {' '.join(parts)}>{inner}</button>"


def _short_number(value: float) -> str:
    """What fits into a cell; nothing where nothing moves."""
    if value < 0.005:
        return ""
    return f"{value:.1f}" if value >= 0.95 else f"{value:.2f}".removeprefix("0")


def _percent(probability: float) -> str:
    return f"{100 * probability:.1f}" if probability < 0.9995 else "100"


def _list(layers: Sequence[int]) -> str:
    return "+".join(map(str, layers))


def _short(name: str) -> str:
    """The end of a long path."""
    return name if len(name) <= 32 else f"…{name[-31:]}"
