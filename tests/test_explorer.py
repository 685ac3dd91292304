"""What ``diito explore`` shows, without its page: the numbers of ``diito.interchange``, and text that stays text."""

import dataclasses
import io
import json
import re
import socket
import subprocess
import sys
from urllib.parse import parse_qsl

import explorers
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import diito
from diito import cli
from diito.evaluation.one_pair import answers, mean_movement
from diito.explorer import markup
from diito.explorer.actions import acted
from diito.explorer.command import check_address
from diito.explorer.examples import examples
from diito.explorer.settings import ExploreSettings
from diito.explorer.subjects import load_subjects
from diito.explorer.view import LONGEST_TEXT, View
from diito.refusal import Refusal

tasks = pytest.mark.parametrize("task", explorers.TASKS)


def of_interchange(looking, view, role, *, first=None, last=None, layers=None):
    """The log-probabilities of the counterfactual run by the public function."""
    base, source = looking.texts.of(view)
    first, last = view.first if first is None else first, view.last if last is None else last
    positions, source_positions = (torch.zeros(1, len(text.ids), dtype=torch.bool) for text in (base, source))
    positions[0, first : last + 1] = True
    shift = view.read - view.first
    source_positions[0, first + shift : last + 1 + shift] = True
    layers = getattr(view, role) if layers is None else layers
    model = looking.subjects.models[role]
    with torch.no_grad():
        logits = diito.interchange(model, base.inputs, source.inputs, layers, positions, source_positions=source_positions)
    return (logits[:, view.slot] if logits.ndim == 3 else logits)[:, : looking.subjects.outputs]


@tasks
def test_answers_are_those_of_interchange(task):
    looking = explorers.looking(task)
    view = looking.texts.settled(explorers.VIEWS[task])
    picture = looking.picture(view)
    for model in picture.models:
        ours = looking.subjects.models[model.role]
        base, source = looking.texts.of(view)
        expected = of_interchange(looking, view, model.role)
        swap = looking.texts.swap(view)
        found = answers(
            ours, [swap], model.layers, slot=view.slot, source_slot=picture.source_slot, words=looking.subjects.outputs
        )
        torch.testing.assert_close(found[2:], expected, rtol=1e-6, atol=1e-6)
        with torch.no_grad():
            for row, text, slot in ((0, base, view.slot), (1, source, picture.source_slot)):
                logits = ours(**{name: text.inputs[name] for name in text.inputs}).logits
                plain = (logits[:, slot] if logits.ndim == 3 else logits)[:, : looking.subjects.outputs]
                torch.testing.assert_close(found[row : row + 1], plain, rtol=1e-6, atol=1e-6)
        best = expected.softmax(-1)[0].max()
        assert model.likeliest["counterfactual"][0].probability == pytest.approx(best.item(), abs=1e-6)
        assert model.likeliest["counterfactual"][0].text == looking.subjects.output_name(int(expected.argmax()))


@tasks
def test_a_cell_of_the_map_is_a_swap_of_that_token_in_that_layer(task):
    looking = explorers.looking(task)
    view = looking.texts.settled(explorers.VIEWS[task])
    made = looking.map(view)
    base, source = looking.texts.of(view)
    for role, depth in looking.subjects.depths.items():
        said = looking.subjects.models[role](**base.inputs).logits
        before = (said[:, view.slot] if said.ndim == 3 else said)[0, : looking.subjects.outputs].log_softmax(-1)
        for layer, place in ((0, 1), (depth - 1, view.slot), (1, 2)):
            if not 0 <= place + view.read - view.first < len(source.ids):
                assert made.values[role][layer][place] is None
                continue
            after = of_interchange(looking, view, role, first=place, last=place, layers=[layer])[0].log_softmax(-1)
            expected = (before.exp() * (before - after)).sum().item()
            assert made.values[role][layer][place] == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_a_source_that_is_shifted_or_short_leaves_the_rest_of_the_map_open():
    looking = explorers.looking("masked-lm")
    view = looking.texts.settled(View("w1 w2 [MASK] w3 w4", "w5 w6", first=1, last=1, read=2))
    made = looking.map(view)
    assert made.values["teacher"][0][3:] == [None] * 4
    assert None not in made.values["teacher"][0][:3]


def test_the_mean_map_is_the_mean_over_held_out_pairs():
    looking = explorers.looking("masked-lm")
    subjects = looking.subjects
    teacher = subjects.models["teacher"]
    (one,) = mean_movement([teacher], subjects.held_out, 1, reach=2, words=subjects.outputs)
    (three,) = mean_movement([teacher], subjects.held_out, 3, reach=2, words=subjects.outputs)
    assert one.shape == three.shape == (4, 5)
    assert not torch.equal(one.nan_to_num(), three.nan_to_num())
    shown = looking.mean_map(3)
    assert shown.is_mean and shown.pairs == 3
    center = shown.columns.index("0")
    assert shown.values["teacher"][2][center] == pytest.approx(three[2, 2].item(), rel=1e-4)


def test_where_a_swap_stands_behind_the_answer_of_a_decoder_nothing_moves():
    looking = explorers.looking("causal-lm")
    picture = looking.picture(View("w1 w2 w3 w4", "w1 w5 w3 w4", first=4, last=4, read=4, slot=2))
    assert not picture.reached
    assert picture.models[0].moved["counterfactual"] == pytest.approx(0.0, abs=1e-6)
    assert "cannot change" in markup.board(picture, looking.subjects)


def test_a_swap_from_the_text_itself_changes_no_mind():
    looking = explorers.looking("masked-lm")
    picture = looking.picture(View("w1 w2 [MASK] w3", "w1 w2 [MASK] w3"))
    assert all(model.moved["counterfactual"] == pytest.approx(0.0, abs=1e-6) for model in picture.models)
    assert picture.verdicts["student"].startswith("Neither changed its mind")


def test_the_span_at_first_is_where_the_texts_differ():
    looking = explorers.looking("masked-lm")
    view = looking.texts.settled(View("w1 w2 [MASK] w3 w4", "w1 w9 [MASK] w3 w4"))
    assert (view.first, view.last, view.read, view.slot) == (2, 2, 2, 3)
    assert view.student == (1,) and view.teacher == (2, 3)


def test_the_undistilled_student_and_a_second_one_stand_beside_the_first():
    undistilled = explorers.looking("masked-lm", against="undistilled")
    picture = undistilled.picture(explorers.VIEWS["masked-lm"])
    assert [model.title for model in picture.models] == ["teacher", "student", "undistilled student"]
    second = explorers.looking("masked-lm", against=tiny.teacher())
    picture = second.picture(explorers.VIEWS["masked-lm"])
    teacher, _, other = picture.models
    assert other.title == "second student" and other.layers == [2, 3]
    assert other.likeliest["base"] == teacher.likeliest["base"]


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
places = st.none() | st.integers(0, 50)
layers = st.none() | st.lists(st.integers(0, 20), min_size=1, max_size=4, unique=True).map(lambda chosen: tuple(sorted(chosen)))
views = st.builds(
    View,
    base=texts,
    source=texts,
    base_pair=texts,
    source_pair=texts,
    first=places,
    last=places,
    read=places,
    slot=places,
    teacher=layers,
    student=layers,
    against=layers,
    donor=st.integers(0, 99),
    aligned=st.booleans(),
)


@settings(max_examples=50)
@given(views)
def test_a_link_restores_the_view(view):
    assert View.of_link(dict(parse_qsl(view.link(), keep_blank_values=True))) == view


@pytest.mark.parametrize(
    "query, field",
    [
        ({"base": "w1"}, "link"),
        ({"base": "w1", "source": "x" * (LONGEST_TEXT + 1)}, "source"),
        ({"base": "w1", "source": "w2", "first": "-1"}, "first"),
        ({"base": "w1", "source": "w2", "first": "9" * 99}, "first"),
        ({"base": "w1", "source": "w2", "teacher": "1,1"}, "teacher"),
        ({"base": "w1", "source": "w2", "teacher": "no"}, "teacher"),
        ({"base": "w1", "source": "w2", "student": ",".join(map(str, range(3000)))}, "student"),
        ({"base": "\ud800", "source": "w2"}, "base"),
    ],
)
def test_a_link_that_is_none_is_refused(query, field):
    with pytest.raises(Refusal) as refusal:
        View.of_link(query)
    assert refusal.value.field == field and len(str(refusal.value)) < 200


@pytest.mark.parametrize(
    "change, field",
    [
        ({"first": 3, "last": 90}, "first"),
        ({"slot": 90}, "slot"),
        ({"teacher": (4,)}, "teacher"),
        ({"base": " "}, "base"),
        ({"source": "w1 " * 40}, "source"),
    ],
)
def test_a_view_that_the_texts_or_models_do_not_have_is_refused(change, field):
    looking = explorers.looking("masked-lm")
    with pytest.raises(Refusal) as refusal:
        looking.picture(dataclasses.replace(explorers.VIEWS["masked-lm"], **change))
    assert refusal.value.field == field


@pytest.mark.parametrize(
    "act",
    [None, [], {}, {"kind": "format"}, {"kind": "swap", "first": "1", "last": 2}, {"kind": "swap", "first": True, "last": 2},
     {"kind": "cell", "model": "<b>", "layer": 0, "at": 1}, {"kind": "slot", "at": -1}, {"kind": "read", "at": 10**9}],
)  # fmt: skip
def test_an_action_that_is_none_is_refused(act):
    looking = explorers.looking("masked-lm")
    view = looking.texts.settled(explorers.VIEWS["masked-lm"])
    with pytest.raises(Refusal):
        acted(view, act, looking.subjects)


def test_actions_change_the_view():
    looking = explorers.looking("masked-lm", against="undistilled")
    view = looking.texts.settled(explorers.VIEWS["masked-lm"])

    def after(act, of=view):
        return acted(of, act, looking.subjects)

    assert (after({"kind": "swap", "first": 4, "last": 2}).first, after({"kind": "swap", "first": 4, "last": 2}).last) == (2, 4)
    assert after({"kind": "cell", "model": "teacher", "layer": 0, "at": 4, "mean": False}).student == (0,)
    clicked = after({"kind": "cell", "model": "student", "layer": 0, "at": -1, "mean": True})
    assert (clicked.first, clicked.teacher, clicked.student, clicked.against) == (view.slot - 1, (0, 1), (0,), (0,))
    free = after({"kind": "aligned", "on": False})
    assert after({"kind": "cell", "model": "teacher", "layer": 3, "at": 1}, free).teacher == (3,)
    assert after({"kind": "cell", "model": "teacher", "layer": 3, "at": 1}, free).student == view.student
    assert after({"kind": "donor"}).donor == 1
    assert looking.picture(after({"kind": "donor"})).donor.ids != looking.picture(view).donor.ids


HOSTILE = "<script>alert(1)</script>${alert(1)}{{x}}`\"'&"


def test_text_is_shown_as_text():
    looking = explorers.looking("masked-lm")
    picture = looking.picture(dataclasses.replace(explorers.VIEWS["masked-lm"], source=HOSTILE))
    token = dataclasses.replace(picture.base, tokens=(HOSTILE,) * len(picture.base.ids))
    models = [dataclasses.replace(model, name=HOSTILE, title=HOSTILE) for model in picture.models]
    answer = dataclasses.replace(models[0].likeliest["base"][0], text=HOSTILE)
    models[0].likeliest["base"][:] = [answer]
    picture = dataclasses.replace(picture, base=token, models=models, verdicts={"student": HOSTILE})
    made = dataclasses.replace(looking.map(picture.view), columns=[HOSTILE] * len(picture.base.ids))
    for shown in (
        markup.board(picture, looking.subjects),
        markup.heat_map(made, picture.view, looking.subjects),
        markup.failure(HOSTILE),
    ):
        assert "<script" not in shown and "${" not in shown and "{{" not in shown and "`" not in shown
        assert markup.escape(HOSTILE) in shown
        assert not re.search(r"&(?!(amp|lt|gt|quot|#\d+|nbsp);)", shown)


@tasks
def test_every_part_is_a_button_that_does_what_it_says(task):
    looking = explorers.looking(task)
    picture = looking.picture(explorers.VIEWS[task])
    shown = markup.board(picture, looking.subjects) + markup.heat_map(looking.map(picture.view), picture.view, looking.subjects)
    acts = {html for html in re.findall(r'data-act="([^"]*)"', shown)}
    assert len(acts) > 20
    for html in acts:
        text = re.sub(r"&#(\d+);", lambda found: chr(int(found[1])), html.replace("&quot;", '"'))
        looking.texts.settled(acted(picture.view, json.loads(text), looking.subjects))


@tasks
def test_examples_are_views_that_can_be_shown(task):
    looking = explorers.looking(task)
    found = examples(looking.subjects)
    assert len(found) > 2
    for example in found[:3]:
        assert looking.picture(example.view()).models
    assert all(example.base_pair for example in found) == (task == "pairs")


def test_the_view_is_kept_as_json_and_as_a_picture():
    pytest.importorskip("matplotlib")
    from PIL import Image

    from diito.explorer.drawing import draw

    looking = explorers.looking("masked-lm")
    picture = looking.picture(dataclasses.replace(explorers.VIEWS["masked-lm"], source="w1 $x^$ w3 w4"))
    made = looking.map(picture.view)
    kept = json.loads(json.dumps(picture.as_json(made), allow_nan=False))
    assert View.of_link(dict(parse_qsl(kept["link"][1:]))) == picture.view
    assert len(kept["models"]) == 2 and len(kept["models"][0]["likeliest"]["counterfactual"]) == 10
    with Image.open(io.BytesIO(draw(picture, made))) as image:
        assert image.format == "PNG" and image.width > 1000


def test_a_wrong_teacher_is_refused_as_evaluate_interchange_refuses_it(capsys, monkeypatch):
    monkeypatch.setattr("diito.commands._need", lambda *arguments: None)
    words = [tiny.teacher(layers=2), "--teacher", tiny.teacher(words=40), "--sources", f"[{tiny.corpus()}]", "--length", "16"]
    said = []
    for command in (["explore"], ["evaluate", "interchange"]):
        assert cli.main([*command, *words, "--cache", str(tiny.FOLDER / "cache")]) == 2
        said.append([line for line in capsys.readouterr().err.splitlines() if line.startswith("diito: --")])
    assert said[0] == said[1] and "another vocabulary" in said[0][0]


@pytest.mark.parametrize(
    "against, sentence",
    [("undistilled", "cannot have been made"), (explorers.teacher("causal-lm"), "head")],
    ids=["undistilled", "a decoder"],
)
def test_a_second_student_that_is_none_is_refused(against, sentence):
    with pytest.raises(Refusal, match=sentence) as refusal:
        load_subjects(tiny.teacher(), explorers.settings(against=against))
    assert refusal.value.field == "against"


def test_without_its_extra_the_command_says_how_to_install_it(capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main(["explore", "student", "--teacher", "teacher"]) == 2
    assert "pip install 'diito[explorer]'" in capsys.readouterr().err


def test_an_address_that_cannot_be_listened_on_is_refused_first():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(Refusal, match="taken") as refusal:
            check_address(ExploreSettings(port=taken.getsockname()[1]))
        assert refusal.value.field == "port"
    with pytest.raises(Refusal, match="host"):
        check_address(ExploreSettings(host="no such host"))


def test_the_page_is_for_this_machine_alone_unless_it_is_told_otherwise():
    assert ExploreSettings().host == "127.0.0.1" and ExploreSettings().share is False


def test_the_commands_import_no_gradio():
    code = "import sys, diito.cli, diito.commands; sys.exit('gradio' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
