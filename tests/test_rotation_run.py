"""``diito align TEACHER --rotation.dimensions``, measured on other text; and runs of a recipe that names the file."""

from __future__ import annotations

import json
from itertools import product

import pytest
import tiny
import torch
from safetensors.torch import load_file
from test_resume import stop_at, without_rate

from diito import cli
from diito.evaluation.held_out.rotations import CONTROLS, FOUND
from diito.method.rotation_files import read_rotation, write_rotation
from diito.recipe.checks import check
from diito.run.distill import distill

PAIRS = {"alignment.kind": "custom", "alignment.pairs": "[[0, 1], [1, 3]]"}
FLAGS = ["--length", "16", "--limit", "20", "--workers", "1", "--rotation.learning_rate", "0.1"]
TEXT = ["--sources", f"[{tiny.corpus(40)}]", "--rotation.sources", f"[{tiny.corpus(60)}]"]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The file of a rotation of the tiny teacher, its results file, and the command that made them."""
    folder = tmp_path_factory.mktemp("rotation")
    path, output = folder / "rotation.safetensors", folder / "r.json"
    argv = ["align", tiny.teacher(), "--rotation.dimensions", "4", "--rotation.steps", "12", "--rotation.batch", "8"]
    argv += [*FLAGS, *TEXT, "--rotation.layers", "[1, 3]", "--rotation.file", str(path), "--output", str(output)]
    assert cli.main(argv) == 0
    return path, output, argv


def test_a_rotation_is_found_at_positions_that_are_named(tmp_path):
    path, output = tmp_path / "rotation.safetensors", tmp_path / "r.json"
    argv = ["align", tiny.teacher(), "--rotation.dimensions", "2", "--rotation.steps", "1", "--rotation.layers", "[1]"]
    argv += [*FLAGS, *TEXT, "--positions", "{at: [2, 3]}", "--rotation.file", str(path), "--output", str(output)]
    assert cli.main(argv) == 0
    (entry,) = json.loads(output.read_text())["measurements"]
    assert entry["identity"]["positions"]["at"] == [2, 3]
    (layer,) = entry["result"]["layers"]
    assert layer["swapped"]["found"]["tokens"] and layer["unswapped"]["found"]["tokens"]


def test_what_is_found_carries_more_than_as_many_other_dimensions(found, capsys):
    path, output, argv = found
    (entry,) = json.loads(output.read_text())["measurements"]
    layers = entry["result"]["layers"]
    assert [each["layer"] for each in layers] == [1, 3] and entry["identity"]["dimensions"] == 4
    for layer, name in product(layers, CONTROLS):
        numbers = layer["swapped"]
        less = numbers[name]["counterfactual_kl"] - numbers[FOUND]["counterfactual_kl"]
        assert less == pytest.approx(numbers[FOUND]["less_than"][name]["difference"], abs=1e-4) and less > 0
        low, high = numbers[name]["counterfactual_kl_interval"]
        assert low < numbers[name]["counterfactual_kl"] < high
    assert layers[1]["unswapped"]["nothing"]["counterfactual_kl"] < 1e-6, "a swap of the last layer changes no other token"

    rotation = read_rotation(path)
    assert list(rotation.bases) == [1, 3] and rotation.facts["identity"] == entry["identity"]
    for basis in rotation.bases.values():
        torch.testing.assert_close(basis @ basis.T, torch.eye(4), rtol=0, atol=1e-5)
    before = path.read_bytes()
    assert cli.main(argv) == 0 and path.read_bytes() == before, "it is there already"
    said = capsys.readouterr()
    assert "r.json already" in said.err and "nothing" in said.out and "--alignment.rotation.path" in said.out
    path.unlink()
    assert cli.main(argv) == 0 and tiny.same(load_file(path), {f"layers.{k}": v for k, v in rotation.bases.items()})


def test_a_run_trains_the_students_side_and_resumes_to_the_same_bits(found, tmp_path, monkeypatch, capfd):
    overrides = {**PAIRS, "alignment.rotation.path": str(found[0]), "training.steps": "4"}
    straight = tiny.run(tmp_path / "straight", overrides)
    assert f", in the sub-spaces of {found[0]}; " in capfd.readouterr().out
    (name, rows), *others = load_file(straight / "projections.safetensors").items()
    assert (name, rows.shape, others) == ("student rotation.student_rows", (2, 4, 16), [])
    first = torch.stack([read_rotation(found[0]).bases[layer] for layer in (1, 3)])
    assert not torch.equal(rows, first) and torch.allclose(rows, first, atol=0.2), "they were trained, beginning with these"
    before, after = (json.loads((straight / "results.json").read_text())[each] for each in ("before", "after"))
    assert after["counterfactual_kl"] != before["counterfactual_kl"]

    recipe = tiny.recipe(tmp_path / "stopped", overrides)
    for index, step in enumerate((1, 3, None)):
        stop_at(monkeypatch, step)
        assert distill(recipe, resume=index > 0) == (0 if step is None else 143)
    stopped = tmp_path / "stopped" / "tiny"
    assert tiny.same(tiny.weights(straight / "student"), tiny.weights(stopped / "student"))
    assert torch.equal(load_file(stopped / "projections.safetensors")[name], rows)
    assert without_rate(tiny.metrics(straight)) == without_rate(tiny.metrics(stopped))
    assert json.loads((stopped / "results.json").read_text())["after"] == after


def test_a_manifest_holds_the_content_and_says_nothing_where_there_is_none(found, tmp_path):
    from diito.run.manifest import fixed_fields, student_contents

    plain, rotated = (tiny.recipe(tmp_path, each) for each in ({}, {"alignment.rotation.path": str(found[0])}))
    assert not student_contents(plain) and not [key for key in fixed_fields(plain) if "rotation" in key]
    contents = student_contents(rotated)
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(found[0].read_bytes())
    assert student_contents(tiny.recipe(tmp_path, {"alignment.rotation.path": str(moved)})) == contents
    write_rotation(moved, {0: torch.eye(16)[:2]}, {"teacher": "x", "teacher_digest": "y"})
    assert student_contents(tiny.recipe(tmp_path, {"alignment.rotation.path": str(moved)})) != contents


CUSTOM = {"alignment.kind": "custom", "alignment.pairs": "[{student: [0], teacher: [1], teacher_dimensions: [[0, 4]]}]"}
NARROW = {"student.layers": "null", "student.config": "{hidden_size: 2, num_attention_heads: 1, num_hidden_layers: 2}"}
STANDARD = {"objective.weights": "{task: 1, ce: 0, cos: 0, causal_ce: 0}"}


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"alignment.rotation.path": "nowhere.safetensors"}, "'nowhere.safetensors' is not a file"),
        ({"alignment.rotation.path": tiny.corpus()}, ".* is no file of a rotation"),
        ({"alignment.rotation.path": f"{tiny.teacher()}/model.safetensors"}, ".* is no file of a rotation"),
        ({"teacher.model": tiny.teacher(layers=6)}, ".* was found in .*bert-4-16-55-64, and the states of another teacher"),
        ({"alignment.kind": "learned"}, "belongs to layers that stay"),
        ({"intervention.control": "token-swap"}, "must be null with the control token-swap"),
        (CUSTOM, "says itself which dimensions are swapped"),
        (STANDARD, "needs a weight of a loss under the intervention"),
        ({}, "it has no teacher layer 0, which the alignment names; its layers are 1, 3"),
        ({**PAIRS, **NARROW}, "4 dimensions do not lie in the student's width of 2"),
    ],
)
def test_rotations_that_a_recipe_cannot_have(found, overrides, sentence, tmp_path):
    with pytest.raises(ValueError, match=rf"alignment\.rotation\.path: {sentence}"):
        recipe = tiny.recipe(tmp_path, {"alignment.rotation.path": str(found[0]), **overrides})
        check(recipe)
        distill(recipe)
    assert not (tmp_path / "tiny").exists()


EVALUATE = ["evaluate", "interchange", tiny.teacher(), "--teacher", tiny.teacher(), *FLAGS[:6], *TEXT[:2]]


def test_commands_that_find_nothing_are_refused(found, capsys):
    path = found[0]
    find = ["align", tiny.teacher(), *FLAGS, *TEXT, "--rotation.dimensions", "4", "--rotation.file", str(path)]
    for argv, sentence in (
        (["align", tiny.teacher()], "STUDENT: give the student to align, or --rotation.dimensions"),
        (["align", tiny.teacher(), "--rotation.steps", "3"], "--rotation.dimensions: say how many"),
        (
            ["align", tiny.teacher(), tiny.teacher(), "--rotation.dimensions", "3"],
            "STUDENT: a rotation is found in the teacher",
        ),
        ([*find, "--rotation.dimensions", "17"], "--rotation.dimensions: 17 do not lie in the teacher's width of 16"),
        ([*find, "--rotation.dimensions", "0"], "--rotation.dimensions: 0 must be at least 1"),
        ([*find, "--rotation.layers", "[1, 4]"], "--rotation.layers: [1, 4] are not among the teacher's layers 0 to 3"),
        ([*find, "--rotation.batch", "1"], "--rotation.batch: 1 must be at least 2"),
        ([*find, "--rotation.sources", "[]"], "--rotation.sources: name the text to find it on"),
        ([*find, "--rotation.sources", "[nowhere.txt]"], "--rotation.sources"),
        ([*find, "--sources", f"[{tiny.corpus(60)}]", "--rotation.limit", "20"], "--rotation.sources: the text that what"),
        ([*find, "--rotation.file", "x.yaml"], "--rotation.file: x.yaml must end in .safetensors"),
        ([*find, "--rotation.file", f"{tiny.teacher()}/model.safetensors"], "exists and holds no rotation"),
        ([*find, "--share", "1"], "--share: 1 leaves no token unswapped"),
        (
            [*EVALUATE, "--alignment.rotation.path", str(path)],
            "--alignment.rotation.path: has a student's side that is trained with the student",
        ),
    ):
        assert cli.main(argv) == 2, argv
        assert sentence in capsys.readouterr().err, argv
