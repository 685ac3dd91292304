"""The commands for classifiers and taggers: evaluate, align, init, and a plan."""

from __future__ import annotations

import json
from pathlib import Path

import classifiers
import pytest
from transformers import AutoModelForSequenceClassification

from diito.cli import main
from diito.evaluation.held_out import classification
from diito.models.student import build_student
from diito.recipe.checks import check
from diito.recipe.file import read


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """The folder of an undistilled student with its teacher's tokenizer."""
    folder, teacher = tmp_path_factory.mktemp("student"), classifiers.teacher()
    build_student(AutoModelForSequenceClassification.from_pretrained(teacher), 2).save_pretrained(folder)
    classifiers.tiny.tokenizer().save_pretrained(folder)
    return str(folder)


def evaluate(kind, model, *arguments, source=None):
    sources = json.dumps([source or classifiers.source(classifiers.table(20, seed=1))])
    return main(["evaluate", kind, model, "--sources", sources, "--length", "24", "--device", "cpu", *arguments])


def test_a_student_and_its_teacher_are_measured_together(student, tmp_path):
    results = tmp_path / "results.json"
    assert evaluate("classification", student, "--teacher", classifiers.teacher(), "--output", str(results)) == 0
    (measurement,) = json.loads(results.read_text())["measurements"]
    ours, theirs = measurement["result"]["models"].values()
    assert {"accuracy", "f1", "matthews", "ece", "agreement"} == ours.keys() == {*theirs, "agreement"}
    assert measurement["result"]["examples"] == 20


def test_a_teacher_of_the_same_name_has_a_row_of_its_own(student, tmp_path):
    """As two revisions of a model have."""
    results = tmp_path / "results.json"
    assert evaluate("classification", student, "--teacher", student, "--output", str(results)) == 0
    (measurement,) = json.loads(results.read_text())["measurements"]
    models = measurement["result"]["models"]
    assert list(models) == [student, f"{student} (teacher)"] and models[student]["agreement"] == 1


def test_each_model_predicts_once_however_much_is_measured_of_it(student, tmp_path, monkeypatch):
    predict, asked = classification._predict, []
    monkeypatch.setattr(classification, "_predict", lambda model, held_out: asked.append(1) or predict(model, held_out))
    output = str(tmp_path / "results.json")
    assert evaluate("classification", student, "--teacher", classifiers.teacher(), "--output", output) == 0
    assert len(asked) == 2
    tagger = classifiers.teacher(labels=classifiers.TAGS, tags=True)
    assert evaluate("classification", tagger, "--output", output, source=classifiers.column_file()) == 0
    assert len(asked) == 3


def test_what_the_model_is_comes_before_what_the_text_lacks(tmp_path, capsys):
    """A tagger asked for its perplexity would say first that the text is no column file."""
    text = tmp_path / "text.txt"
    text.write_text("w1 w2 w3\nw4\n")
    tagger = classifiers.teacher(labels=classifiers.TAGS, tags=True)
    assert main(["evaluate", "perplexity", tagger, "--sources", str(text)]) == 2
    assert "measure it with: diito evaluate classification" in capsys.readouterr().err


def test_the_same_texts_with_other_labels_are_measured_anew(tmp_path):
    results = tmp_path / "results.json"
    turned = dict(zip(classifiers.CLASSES, (*classifiers.CLASSES[1:], classifiers.CLASSES[0]), strict=True))
    rows = [line.split("\t") for line in Path(classifiers.table(20, seed=1)).read_text().splitlines()]
    other = tmp_path / "other.tsv"
    other.write_text("\n".join("\t".join([*row[:2], turned.get(row[2], row[2])]) for row in rows) + "\n")
    for path in (classifiers.table(20, seed=1), str(other)):
        sources = classifiers.source(path)
        assert evaluate("classification", classifiers.teacher(), "--output", str(results), source=sources) == 0
    first, second = json.loads(results.read_text())["measurements"]
    assert first["result"] != second["result"]


def test_a_tagger_is_measured_by_its_entities(tmp_path):
    results = tmp_path / "results.json"
    tagger = classifiers.teacher(labels=classifiers.TAGS, tags=True)
    assert evaluate("classification", tagger, "--output", str(results), source=classifiers.column_file()) == 0
    (measurement,) = json.loads(results.read_text())["measurements"]
    assert {"f1", "f1_macro", "accuracy", "ece"} == measurement["result"]["models"][tagger].keys()


def test_interchange_measures_a_classifier_beside_the_same_references(student, tmp_path):
    results = tmp_path / "results.json"
    assert evaluate("interchange", student, "--teacher", classifiers.teacher(), "--output", str(results)) == 0
    (measurement,) = json.loads(results.read_text())["measurements"]
    assert {"student", "no swap", "random donor", "undistilled"} == measurement["result"]["models"].keys()
    assert measurement["result"]["models"]["student"]["unswapped"]["tokens"] == 40  # of 20 rows and 2 pairs
    # The student is the undistilled one.
    assert measurement["result"]["models"]["student"]["unswapped"]["iia"] == pytest.approx(
        measurement["result"]["models"]["undistilled"]["unswapped"]["iia"]
    )


@pytest.mark.soak
def test_align_chooses_an_alignment_of_a_classifier(student, tmp_path):
    sources = json.dumps([classifiers.source(classifiers.table(20, seed=1))])
    path = tmp_path / "alignment.yaml"
    options = ["--sources", sources, "--length", "24", "--device", "cpu", "--file", str(path)]
    output = ["--output", str(tmp_path / "results.json"), "--figure", str(tmp_path / "map.png")]
    assert main(["align", classifiers.teacher(), student, *options, *output]) == 0
    assert path.is_file()


REFUSED = {
    "no sources": (("--sources", "[]"), "sources: name labelled examples"),
    "other classes": (("--teacher", "OTHERS"), "teacher: its classes (good, fair, bad) are not those of"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_measured_is_refused(case, student, capsys):
    arguments, sentence = REFUSED[case]
    others = classifiers.teacher(labels=("good", "fair", "bad"))
    assert evaluate("classification", student, *(others if each == "OTHERS" else each for each in arguments)) == 2
    assert sentence in capsys.readouterr().err


def test_labels_that_are_not_named_are_asked_for(student, capsys):
    unnamed = {"source": classifiers.source(classifiers.table(20, seed=1), label=None)}
    assert evaluate("classification", student, **unnamed) == 2
    assert "--sources: no row has a label; where there are labels, name their column" in capsys.readouterr().err
    assert evaluate("classification", student, "--teacher", classifiers.teacher(), **unnamed) == 0
    assert "sources: no row has a label" in capsys.readouterr().err


def test_kinds_of_another_head_say_which_is_right(student, capsys):
    assert evaluate("perplexity", student) == 2
    assert "is a sequence classifier; measure it with: diito evaluate classification" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["sequence-classification", "token-classification"])
def test_init_writes_a_recipe_of_the_task(task, tmp_path):
    path = tmp_path / "mine.yaml"
    assert main(["init", task, "--output", str(path)]) == 0
    recipe = read(str(path))
    check(recipe)
    assert recipe.task == task and recipe.corpus.sources[0].label
    assert "masking:" not in path.read_text() and "# examples: null" in path.read_text()


def test_a_plan_speaks_of_examples(tmp_path, capsys):
    recipe = classifiers.recipe(tmp_path)
    from diito.run.distill import distill

    assert distill(recipe, plan_only=True) == 0
    said = capsys.readouterr().out
    assert (
        "48 examples of" in said and "labels: 11 negative, 14 neutral, 23 positive" in said and "held-out   20 examples" in said
    )
