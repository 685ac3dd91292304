"""The page: text boxes, the board and the map, and what happens when one of them is used.

Gradio carries events to the server and HTML back; what is shown is a function of the view alone, which is in the address too.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from diito.explorer import markup
from diito.explorer.actions import acted
from diito.explorer.drawing import draw
from diito.explorer.examples import Example
from diito.explorer.picture import Looking, Map
from diito.explorer.view import LONGEST_TEXT, View
from diito.refusal import Refusal, Refusals

_HERE = Path(__file__).parent
_MEANS = (5, 10, 20, 50, 100)
_ONE_AT_A_TIME: dict[str, Any] = {
    "concurrency_limit": 1,
    "concurrency_id": "models",
    "api_visibility": "private",
    "show_progress": "hidden",
}


def build_page(looking: Looking, examples: list[Example], *, title: str) -> gr.Blocks:
    """The page that looks at these models."""
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    has_pairs = any(example.base_pair for example in examples)
    start = examples[0].view()

    def shown(view: View) -> tuple[View, str]:
        picture = looking.picture(view)
        return picture.view, markup.board(picture, looking.subjects)

    def answering(change: Callable[..., View]) -> Callable[..., list[Any]]:
        """From what changes a view to what is shown: the view, the four texts and the board."""

        def answer(view: View | None, *given: Any) -> list[Any]:
            try:
                view, board = shown(change(view or start, *given))
            except (Refusal, Refusals) as refusal:
                return [view, *[gr.skip()] * 4, markup.failure(str(refusal))]
            return [view, view.base, view.source, view.base_pair, view.source_pair, board]

        return answer

    with gr.Blocks(title=title, analytics_enabled=False, fill_width=True) as page:
        view = gr.State(None)
        gr.HTML(f'<h1 class="title">diito explore <small>{markup.escape(title)}</small></h1>')
        with gr.Row():
            base, base_pair = _text_boxes("base: what is asked", has_pairs)
            source, source_pair = _text_boxes("source: whose states are swapped in", has_pairs)
        chosen = gr.Dropdown([(example.name, place) for place, example in enumerate(examples)], label="examples", value=0)
        board = gr.HTML(js_on_load=script, elem_id="board")
        with gr.Row():
            means = gr.Dropdown(
                [("of these texts", 0), *((f"mean of {n} held-out pairs", n) for n in _MEANS)], value=0, label="map"
            )
        map_ = gr.HTML(js_on_load=script, elem_id="map")
        save = gr.HTML(
            '<div class="save"><button type="button" data-save="link">copy link</button> '
            '<button type="button" data-save="png">PNG</button> <button type="button" data-save="json">JSON</button>'
            '<span role="status"></span></div>',
            js_on_load=script,
            server_functions=[_saving(looking)],
            elem_id="save",
        )
        texts = [base, source, base_pair, source_pair]
        outputs = [view, *texts, board]

        def of_texts(now: View, base: str, source: str, base_pair: str, source_pair: str) -> View:
            return now.with_texts(base=base, source=source, base_pair=base_pair, source_pair=source_pair)

        def of_example(now: View, place: int) -> View:
            return examples[int(place)].view()

        def of_act(now: View, event: gr.EventData) -> View:
            return acted(now, event._data, looking.subjects)

        def of_link(request: gr.Request) -> list[Any]:
            query = dict(request.query_params)
            return answering(lambda _: View.of_link(query) if "base" in query else start)(None)

        def drawn(now: View | None, pairs: int, progress: gr.Progress = gr.Progress()) -> str:
            if now is None:
                return ""
            made = made_map(looking, now, pairs, lambda done, all: progress((done, all), desc="pairs"))
            return markup.heat_map(
                made,
                chosen={role: getattr(now, role) for role in looking.subjects.models},
                span=_span(now, made),
                title="where a swap moves the answer"
                if pairs == 0
                else f"mean over {made.pairs} held-out pairs, by distance from the answer",
            )

        def of_press(now: View | None, event: gr.EventData) -> list[Any]:
            return answering(lambda view: of_act(view, event))(now)

        events = [
            page.load(of_link, None, outputs, **_ONE_AT_A_TIME),
            gr.on(
                [each.submit for each in texts] + [each.blur for each in texts],
                answering(of_texts),
                [view, *texts],
                outputs,
                **_ONE_AT_A_TIME,
            ),
            chosen.input(answering(of_example), [view, chosen], outputs, **_ONE_AT_A_TIME),
            board.act(of_press, [view], outputs, **_ONE_AT_A_TIME),
            map_.act(of_press, [view], outputs, **_ONE_AT_A_TIME),
        ]
        for event in events:
            event.then(drawn, [view, means], map_, **_ONE_AT_A_TIME)
        means.input(drawn, [view, means], map_, **{**_ONE_AT_A_TIME, "show_progress": "full"})
    return page


def _text_boxes(label: str, has_pairs: bool) -> tuple[gr.Textbox, gr.Textbox]:
    with gr.Column(min_width=280):
        return (
            gr.Textbox(label=label, max_length=LONGEST_TEXT, lines=1, max_lines=4),
            gr.Textbox(label="second text", max_length=LONGEST_TEXT, lines=1, max_lines=4, visible=has_pairs),
        )


def made_map(looking: Looking, view: View, pairs: int, advance: Callable[[int, int], None] | None = None) -> Map:
    """The map of the view's texts, or the mean over so many held-out pairs."""
    if pairs not in (0, *_MEANS):
        raise Refusal("map", f"{pairs} is none of {', '.join(map(str, _MEANS))}")
    return looking.mean_map(pairs, advance) if pairs else looking.map(view)


def _span(view: View, made: Map) -> range:
    """The swapped columns of a map."""
    assert view.first is not None and view.last is not None and view.slot is not None
    by = view.slot if made.pairs > 1 else 0
    return range(view.first - by, view.last + 1 - by)


def _saving(looking: Looking) -> Callable[[str, str], str]:
    """A function of the page: from a link and a kind to a file as a data address, so that nothing is written here."""

    def save(link: str, kind: str) -> str:
        from urllib.parse import parse_qsl

        picture = looking.picture(View.of_link(dict(parse_qsl(link))))
        made = looking.map(picture.view)
        if kind == "json":
            content, form = json.dumps(picture.as_json(made), ensure_ascii=False, indent=1).encode(), "application/json"
        else:
            content, form = draw(picture, made), "image/png"
        return f"data:{form};base64,{base64.b64encode(content).decode()}"

    return save


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
