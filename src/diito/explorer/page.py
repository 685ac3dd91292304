"""The page: text boxes, the board and the map, and what happens when one of them is used.

Gradio carries events to the server and HTML back. What is shown is a function of the view alone, which stands in the address.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import gradio as gr

from diito.explorer import markup
from diito.explorer.actions import acted
from diito.explorer.drawing import draw
from diito.explorer.examples import Example
from diito.explorer.picture import Looking
from diito.explorer.view import LONGEST_TEXT, View
from diito.refusal import Refusal, Refusals

_HERE = Path(__file__).parent
_MEANS = (5, 10, 20, 50, 100)
"""Over how many held-out pairs a mean map can be asked for."""
_EVENT: dict[str, Any] = {
    "concurrency_limit": 1,
    "concurrency_id": "models",
    "api_visibility": "private",
    "show_progress": "hidden",
    "trigger_mode": "multiple",
}
"""One at a time, whoever asks, none dropped because another is on its way, and no part of a public interface."""
_SAVE = (
    '<div class="save"><button type="button" data-save="link">copy link</button>'
    '<button type="button" data-save="png">PNG</button><button type="button" data-save="json">JSON</button>'
    '<span role="status"></span></div>'
)


class Answering:
    """What the events call: from a view, and what is to change in it, to what the page shows."""

    def __init__(self, looking: Looking, examples: list[Example]) -> None:
        self.looking, self.examples = looking, examples
        self.start = examples[0].view()

    def text(self, name: str) -> Callable[[View | None, str], list[Any]]:
        """What is called when the text ``name`` was typed. Each box tells its own: the others may be on their way."""

        def typed(now: View | None, text: str) -> list[Any]:
            return self._shown(now, lambda view: view.with_texts(**{name: text}), writes_texts=False)

        return typed

    def example(self, now: View | None, place: int) -> list[Any]:
        """An example was chosen."""
        return self._shown(now, lambda _: self.examples[place].view())

    def press(self, now: View | None, event: gr.EventData) -> list[Any]:
        """Something on the board or the map was pressed."""
        return self._shown(now, lambda view: acted(view, event._data, self.looking.subjects), writes_texts=False)

    def link(self, request: gr.Request) -> list[Any]:
        """The page was opened, by a link or without one."""
        query = dict(request.query_params)
        return self._shown(None, lambda _: View.of_link(query) if {"base", "source"} & query.keys() else self.start)

    def map(self, now: View | None, pairs: int, progress: gr.Progress) -> str:
        """The map of the view's texts, or, of ``pairs`` that are not 0, the mean over so many held-out pairs."""
        if now is None:
            return ""
        if pairs not in (0, *_MEANS):
            return markup.failure(f"the map is of these texts, or of {', '.join(map(str, _MEANS))} pairs")
        looking = self.looking
        made = looking.mean_map(pairs, lambda done, every: progress((done, every))) if pairs else looking.map(now)
        return markup.heat_map(made, now, looking.subjects)

    def save(self, asked: object) -> dict[str, str]:
        """A view as a file in a data ``address``, so that nothing is written here; or the ``sentence`` why not.

        ``asked``: a link and a kind, json or png.
        """
        if not (isinstance(asked, list) and len(asked) == 2 and all(isinstance(each, str) for each in asked)):
            return {"sentence": "give a link and a kind, json or png"}
        link, kind = asked
        try:
            picture = self.looking.picture(View.of_link(dict(parse_qsl(link, keep_blank_values=True))))
        except (Refusal, Refusals) as refusal:
            return {"sentence": str(refusal)}
        made = self.looking.map(picture.view)
        if kind == "json":
            content, form = json.dumps(picture.as_json(made), ensure_ascii=False, indent=1).encode(), "application/json"
        else:
            content, form = draw(picture, made), "image/png"
        return {"address": f"data:{form};base64,{base64.b64encode(content).decode()}"}

    def _shown(self, now: View | None, change: Callable[[View], View], *, writes_texts: bool = True) -> list[Any]:
        """The view after a change and its board; where it is refused, the view before it, and why.

        ``writes_texts``: with the four texts between the two; not where they may be typed in while the answer is on its way.
        """
        try:
            picture = self.looking.picture(change(now or self.start))
        except (Refusal, Refusals) as refusal:
            return [now, *([gr.skip()] * 4 if writes_texts else []), markup.failure(str(refusal))]
        view = picture.view
        texts = [view.base, view.source, view.base_pair, view.source_pair] if writes_texts else []
        return [view, *texts, markup.board(picture, self.looking.subjects)]


def build_page(looking: Looking, examples: list[Example], *, title: str) -> gr.Blocks:
    """The page that looks at these models."""
    answering = Answering(looking, examples)

    def save(asked: object) -> dict[str, str]:
        return answering.save(asked)

    script = (_HERE / "page.js").read_text(encoding="utf-8")
    has_pairs = any(example.base_pair for example in examples)
    with gr.Blocks(title="diito explore", analytics_enabled=False, fill_width=True) as page:
        view = gr.State(None)
        gr.HTML(f'<h1 class="title">diito explore <small>{markup.escape(title)}</small></h1>', js_on_load=None)
        with gr.Row(equal_height=True):
            base, base_pair = _text_boxes("base: what is asked", has_pairs)
            source, source_pair = _text_boxes("source: whose states are swapped in", has_pairs)
            named = [(example.name, place) for place, example in enumerate(examples)]
            chosen = gr.Dropdown(named, label="examples", value=0, min_width=280)
        board = gr.HTML(js_on_load=script, elem_id="board")
        with gr.Row(equal_height=True):
            kinds = [("of these texts", 0), *((f"mean of {pairs} held-out pairs", pairs) for pairs in _MEANS)]
            means = gr.Dropdown(kinds, value=0, label="map", min_width=240)
            gr.HTML(_SAVE, js_on_load=script, server_functions=[save], elem_id="save")
        heat_map = gr.HTML(js_on_load=script, elem_id="map")

        def draw_map(now: View | None, pairs: int, progress: gr.Progress = gr.Progress()) -> str:  # noqa: B008 - gradio's way
            return answering.map(now, pairs, progress)

        texts = [base, source, base_pair, source_pair]
        everything, answers = [view, *texts, board], [view, board]
        names = ("base", "source", "base_pair", "source_pair")
        typed = [
            gr.on([box.submit, box.blur], answering.text(name), [view, box], answers, **_EVENT)
            for name, box in zip(names, texts, strict=True)
        ]
        for event in (
            *typed,
            page.load(answering.link, None, everything, **_EVENT),
            chosen.input(answering.example, [view, chosen], everything, **_EVENT),
            board.act(answering.press, [view], answers, **_EVENT),
            heat_map.act(answering.press, [view], answers, **_EVENT),
        ):
            event.then(draw_map, [view, means], heat_map, **_EVENT)
        means.input(draw_map, [view, means], heat_map, **{**_EVENT, "show_progress": "full"})
    return page


def _text_boxes(label: str, has_pairs: bool) -> tuple[gr.Textbox, gr.Textbox]:
    with gr.Column(min_width=280, scale=2):
        return (
            gr.Textbox(label=label, max_length=LONGEST_TEXT, lines=1, max_lines=4),
            gr.Textbox(label="second text", max_length=LONGEST_TEXT, lines=1, max_lines=4, visible=has_pairs),
        )


def launch_options() -> dict[str, Any]:
    """How the page is served: no code of others, no fonts and no statistics from elsewhere, no uploads, no named interface."""
    return {
        "css_paths": [_HERE / "page.css"],
        "theme": gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        "footer_links": [],
        "quiet": True,
        "show_error": False,
        "ssr_mode": False,
        "max_file_size": 1,
        "enable_monitoring": False,
        "mcp_server": False,
        "pwa": False,
        "run_history": False,
    }
