"""``alignment.kind: learned``: Π chosen anew while training, from the map on held-out text."""

from __future__ import annotations

import json

import pytest
import tiny
from test_resume import stop_at, without_rate
from transformers import AutoModelForMaskedLM

from diito import cli
from diito.evaluation.held_out.choice import choose_alignment
from diito.method.alignment import AlignedPair, Alignment
from diito.method.positions import consecutive
from diito.models.student import build_student
from diito.recipe.checks import check
from diito.run.distill import distill

UPPER = {"student.layers": "[2, 3]", "training.steps": "5"}
LEARNED = {
    **UPPER,
    "alignment.kind": "learned",
    "alignment.every": "2",
    "evaluation.blocks": "null",
    "evaluation.sources": f"[{tiny.corpus(60)}]",
}


def choices(run):
    return [line for line in tiny.metrics(run) if "eval_alignment" in line]


def choose(student, held_out, present, **keywords):
    teacher = AutoModelForMaskedLM.from_pretrained(tiny.teacher())
    settings = {"top": True, "rule": consecutive, "share": 0.3, "special_ids": [0, 2, 3]} | keywords
    return choose_alignment(student, teacher, present, held_out, **settings)


def test_layers_of_the_teacher_are_found_again_and_kept(tmp_path):
    """A student that is the teacher answers to each layer with its own; only what is seen to be better is taken."""
    parts, _ = tiny.parts_and_trainer(tiny.recipe(tmp_path, {"evaluation.blocks": "null"}))
    student = build_student(AutoModelForMaskedLM.from_pretrained(tiny.teacher()), 4)
    shuffled = Alignment([AlignedPair([0], [3]), AlignedPair([1], [0]), AlignedPair([2], [1]), AlignedPair([3], [2])])
    found = choose(student, parts.held_out, shuffled)
    assert found.alignment == Alignment.full(4, 4) and found.divergence < 1e-4 < found.gain
    assert len(found.pairs) == 16 and found.pairs[5]["unswapped"]["counterfactual_kl"] < 1e-4
    assert choose(student, parts.held_out, shuffled, top=False).alignment == Alignment(Alignment.full(4, 4).pairs[:3])
    again = choose(student, parts.held_out, found.alignment)
    assert again.alignment == found.alignment and again.gain == 0
    assert student.training, "it goes on training"


@pytest.mark.soak
def test_a_run_chooses_says_so_and_resumes_to_the_same_bits(tmp_path, monkeypatch, capfd):
    full = tiny.run(tmp_path / "full", UPPER)
    straight = tiny.run(tmp_path / "straight", LEARNED)
    lines = choices(straight)
    assert [line["step"] for line in lines] == [2, 4]
    assert [line["step"] for line in tiny.metrics(straight) if "loss" in line] == [1, 2, 3, 4, 5], "none is lost beside them"
    assert lines[0]["eval_alignment"] != "0 → 0+1, 1 → 2+3", "it has changed, so that a resume could lose it"
    losses = [[line["causal_ce"] for line in tiny.metrics(run) if "loss" in line] for run in (full, straight)]
    assert losses[0][:2] == losses[1][:2] and losses[0][2:] != losses[1][2:], "up to the first choice it is full"

    results = json.loads((straight / "results.json").read_text())["alignment"]
    last = ", ".join(f"{pair['student'][0]} → {pair['teacher'][0]}" for pair in results["pairs"])
    assert last == lines[-1]["eval_alignment"] and results["chosen_at"] in (2, 4)
    assert f"chosen at step {results['chosen_at']}): {last}" in (straight / "student" / "README.md").read_text()
    said = capfd.readouterr()
    assert f"step 4/5  alignment: {last}  counterfactual_kl " in said.err
    assert "learned every 2 steps, beginning with: 0 → 0+1, 1 → 2+3; " in said.out

    recipe = tiny.recipe(tmp_path / "stopped", LEARNED)
    for index, step in enumerate((1, 3, None)):
        stop_at(monkeypatch, step)
        assert distill(recipe, resume=index > 0) == (0 if step is None else 143)
    stopped = tmp_path / "stopped" / "tiny"
    assert tiny.same(tiny.weights(straight / "student"), tiny.weights(stopped / "student"))
    assert without_rate(tiny.metrics(straight)) == without_rate(tiny.metrics(stopped))
    assert json.loads((stopped / "results.json").read_text())["alignment"] == results


@pytest.mark.soak
def test_a_run_that_never_chooses_is_that_of_full(tmp_path):
    """At the last step there is nothing left to choose for."""
    full = tiny.run(tmp_path / "full", {"training.steps": "2"})
    never = tiny.run(tmp_path / "never", {"training.steps": "2", "alignment.kind": "learned", "alignment.every": "2"})
    assert tiny.same(tiny.weights(full / "student"), tiny.weights(never / "student")) and not choices(never)
    results = json.loads((never / "results.json").read_text())["alignment"]
    assert results["chosen_at"] is None and results["pairs"][1]["teacher"] == [2, 3]


NO_CAUSAL = {"objective.weights": "{task: 1, ce: 0, cos: 0, causal_ce: 0}"}
REFUSED = [
    ({"evaluation.sources": "[]"}, "alignment.kind: learned needs held-out text"),
    (NO_CAUSAL, "alignment.kind: learned needs a weight of a loss under the intervention"),
    ({"intervention.share": "1"}, "intervention.share: 1 leaves no token unswapped"),
    ({"intervention.control": "token-swap"}, "alignment.kind: must not be learned with the control token-swap"),
    ({"alignment.shuffled": "true"}, "alignment.shuffled: must be false with alignment.kind learned"),
    ({"alignment.every": "0"}, "alignment.every: 0 must be at least 1"),
    ({"alignment.kind": "middle", "alignment.every": "3"}, "alignment.every: belongs to alignment.kind learned"),
]


@pytest.mark.parametrize(("overrides", "sentence"), REFUSED)
def test_what_cannot_be_chosen_by_is_refused(overrides, sentence, tmp_path):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        recipe = tiny.recipe(tmp_path, {"alignment.kind": "learned", **overrides})
        check(recipe)
        distill(recipe)
    assert not (tmp_path / "tiny").exists()


def test_held_out_text_must_be_of_two_documents(tmp_path):
    (tmp_path / "one.txt").write_text(" ".join(f"w{number % 50}" for number in range(200)) + "\n")
    with pytest.raises(ValueError, match=r"^alignment\.kind: learned needs at least 2 held-out documents"):
        tiny.run(tmp_path, {"alignment.kind": "learned", "evaluation.sources": str(tmp_path / "one.txt")})


def test_a_finished_student_is_not_measured_with_it(capsys):
    argv = ["evaluate", "interchange", tiny.teacher(), "--teacher", tiny.teacher(), "--sources", f"[{tiny.corpus(40)}]"]
    assert cli.main([*argv, "--length", "16", "--alignment.kind", "learned"]) == 2
    assert "--alignment.kind: learned is chosen while a student is trained" in capsys.readouterr().err
