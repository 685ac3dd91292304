"""Token classification: the laws of the method, words and their tags, and what is refused."""

from __future__ import annotations

import json

import classifiers
import pytest
import tiny
import torch
import torch.nn.functional as F
from seqeval.metrics import f1_score
from test_sequence_classification import batch_of, make, parts_of
from transformers import AutoModelForTokenClassification, pipeline

from diito import Alignment
from diito.evaluation.held_out.classification import tags
from diito.models.layered import Layered
from diito.models.student import build_student
from diito.run.distill import distill
from diito.tasks.token_classification import Tagging, TokenClassification

IGNORED = -100
FAMILIES = ("bert", "deberta-v2", "modernbert", "gpt2", "qwen3")
families = pytest.mark.parametrize("family", FAMILIES)


def build(family="bert", layers=4, **options):
    return classifiers.build(family, layers, labels=classifiers.TAGS, head=AutoModelForTokenClassification, **options)


def tagged_batch():
    """A batch with a tag at some tokens, as transformers' own collator makes it."""
    batch = batch_of()
    labels = torch.where(batch["input_ids"] % 3 == 0, batch["input_ids"] % 5, IGNORED)
    return batch | {"labels": labels.where(batch["input_ids"] > 3, IGNORED)}


@pytest.mark.parametrize("family", ["bert", *(pytest.param(each, marks=pytest.mark.soak) for each in FAMILIES[1:])])
def test_a_recipe_gives_a_student_that_its_auto_class_loads_and_a_pipeline_runs(family, tmp_path):
    recipe = classifiers.tagging_recipe(tmp_path, {"training.steps": "2"}, family=family)
    assert distill(recipe) == 0
    student = tmp_path / "tiny" / "student"
    assert tuple(AutoModelForTokenClassification.from_pretrained(student).config.id2label.values()) == classifiers.TAGS
    (answers,) = pipeline("token-classification", model=str(student), ignore_labels=[])(["w1 w2 w3"])
    assert {answer["entity"] for answer in answers} <= set(classifiers.TAGS) and len(answers) == 3
    results = json.loads((tmp_path / "tiny" / "results.json").read_text())
    assert {"f1", "f1_macro", "accuracy", "ece"} <= results["teacher"].keys()
    assert {"f1", "agreement", "iia", "counterfactual_kl"} <= results["after"].keys()


@pytest.mark.parametrize("family", ["bert", pytest.param("gpt2", marks=pytest.mark.soak)])
def test_a_run_that_is_stopped_and_resumed_gives_the_same_bits(family, tmp_path, monkeypatch):
    from test_resume import stop_at

    overrides = {"training.steps": "null", "training.epochs": "1.5", "evaluation.sources": "[]"}
    stop_at(monkeypatch, None)
    assert distill(classifiers.tagging_recipe(tmp_path / "straight", overrides, family=family)) == 0
    recipe = classifiers.tagging_recipe(tmp_path / "stopped", overrides, family=family)
    stop_at(monkeypatch, 6)
    assert distill(recipe) == 143
    stop_at(monkeypatch, None)
    assert distill(recipe, resume=True) == 0
    weights = [tiny.weights(tmp_path / name / "tiny" / "student") for name in ("straight", "stopped")]
    assert tiny.same(*weights)


@families
def test_a_student_that_is_its_teacher_has_no_loss_but_the_labels(family):
    teacher = build(family, 2)
    student = build_student(teacher, 2, dropout=0.0).eval()
    losses = make(student, teacher, Alignment.full(2, 2))(tagged_batch(), step=0)
    for name in ("ce", "cos", "causal_ce", "causal_cos"):
        assert losses[name].item() == pytest.approx(0, abs=1e-6), name
    assert losses["task"] > 0


def test_the_losses_are_those_of_the_models_own_forward_at_the_words():
    teacher, student, batch = build(seed=1), build(layers=2, seed=2), tagged_batch()
    losses = make(student, teacher)(batch, step=0)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    said, told = (model(**inputs).logits for model in (student, teacher))
    torch.testing.assert_close(losses["task"], F.cross_entropy(said.transpose(1, 2), batch["labels"]))
    words = batch["labels"] != IGNORED
    smooth = F.kl_div(F.log_softmax(said[words] / 2, -1), F.softmax(told[words] / 2, -1), reduction="batchmean") * 4
    torch.testing.assert_close(losses["ce"], smooth)


def test_without_causal_weights_the_bits_are_those_of_plain_distillation():
    teacher, student, plain = build(seed=1), build(layers=2, seed=2), {"task": 0.3, "ce": 0.2, "cos": 0.5}
    objectives = [make(student, teacher, weights=weights) for weights in (plain, {**plain, "causal_ce": 0.0})]
    objectives[1].draw_swap = None  # a call would fail
    first, second = (objective(tagged_batch(), step=1) for objective in objectives)
    assert all(torch.equal(first[name], second[name]) for name in first)


@families
def test_a_swap_reaches_the_words_that_it_can_change(family):
    model = build(family, 2)
    task, batch = TokenClassification().of(model), batch_of()
    slots = Tagging(0).batch({**batch, "labels": batch["input_ids"]}, generator=torch.Generator())["slots"]
    positions = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
    positions[0, 3] = positions[2, 1] = True
    reached = task.reach(slots, positions)
    layered = Layered(model)
    run, states = layered.states(batch, [0, 1])
    moved = torch.where(positions.unsqueeze(-1), states[0] + 1, states[0])
    changed = (layered.advance(run, moved, 1) != states[1]).any(-1)
    assert not (changed & ~reached).any()
    assert task.is_causal is (family in classifiers.DECODERS)


def test_rows_without_tags_teach_by_the_teacher_alone(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"tokens": ["w1", "w2", "w3"], "ner_tags": ["O", "B-PER", "I-PER"]}, {"tokens": ["w4", "w5"]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows * 4), encoding="utf-8")
    source = json.dumps([{"path": str(path), "column": "tokens", "label": "ner_tags"}])
    parts = parts_of(classifiers.tagging_recipe(tmp_path, {"corpus.sources": source}))
    assert "labels: 4 O, 4 B-PER, 4 I-PER, 8 without one" in str(parts.corpus.statistics)
    row = parts.corpus[1]
    batch = Tagging(0).batch({name: value.unsqueeze(0) for name, value in row.items()}, generator=torch.Generator())
    assert batch["slots"].tolist() == [[-1, 1, 2, -1]] and batch["labels"].tolist() == [[IGNORED] * 4]


def test_the_first_piece_of_a_word_has_its_tag_and_iob1_is_brought_to_iob2(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text("w1 I-PER\nw2w3 I-PER\nw4 O\n\nw5 I-LOC\nw6 B-LOC\n", encoding="utf-8")
    parts = parts_of(classifiers.tagging_recipe(tmp_path, {"corpus.sources": f"[{path}]", "training.batch": "2"}))
    assert "labels: 1 O, 1 B-PER, 1 I-PER, 2 B-LOC" in str(parts.corpus.statistics)
    first = parts.corpus[0]
    words = first["labels"][first["starts"] > 0]
    assert words.tolist() == [1, 2, 0] and int((first["labels"] != IGNORED).sum()) == 3


def test_the_entity_f1_is_that_of_seqeval(tmp_path):
    parts = parts_of(classifiers.tagging_recipe(tmp_path))
    true, answers = [], []
    for index in range(len(parts.held_out.corpus)):
        row = parts.held_out.corpus[index]
        best = parts.teacher(row["input_ids"].unsqueeze(0)).logits[0].argmax(-1)
        words = row["starts"] > 0
        true.append([classifiers.TAGS[tag] for tag in row["labels"][words].tolist()])
        answers.append([classifiers.TAGS[tag] for tag in best[words].tolist()])
    assert tags(parts.teacher, parts.held_out)["f1"] == pytest.approx(f1_score(true, answers))


def file_of(tmp_path, *rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return json.dumps([{"path": str(path), "column": "tokens", "label": "ner_tags"}])


REFUSED = {
    "tags": (
        [{"tokens": ["w1"], "ner_tags": ["B-ORG"]}],
        r"sources\[0\]: the tags of the data \(B-ORG\) are neither the teacher's",
    ),
    "number": ([{"tokens": ["w1"], "ner_tags": [7]}], "nor their numbers, 0 to 4"),
    "count": ([{"tokens": ["w1", "w2"], "ner_tags": ["O"]}], "line 1 holds 2 words and 1 tags; each word needs one"),
    "text": ([{"tokens": "w1 w2", "ner_tags": ["O"]}], "holds no list of words; name its column"),
    "column": ([{"words": ["w1"]}], "has no column 'tokens'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_tagged_is_refused(case, tmp_path):
    rows, sentence = REFUSED[case]
    with pytest.raises(ValueError, match=sentence):
        parts_of(classifiers.tagging_recipe(tmp_path, {"corpus.sources": file_of(tmp_path, *rows)}))


def test_a_column_file_with_a_malformed_row_and_a_second_text_are_refused(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text("w1 O\nw2\n", encoding="utf-8")
    for source, sentence in ((str(path), "line 2"), ({"path": str(path), "pair": "other"}, r"sources\[0\]\.pair: belongs to")):
        with pytest.raises(ValueError, match=sentence):
            parts_of(classifiers.tagging_recipe(tmp_path, {"corpus.sources": json.dumps([source])}))
