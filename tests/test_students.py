"""Students of a recipe: planned, refused before any work, frozen, adapted; other widths, vocabularies and depths."""

from __future__ import annotations

import importlib.util
import shutil

import classifiers
import decoders
import kinds
import pytest
import tiny
import torch
from models import build, masked_batch
from transformers import AutoModelForMaskedLM

import diito
from diito.cli import main
from diito.method.alignment import Alignment
from diito.models.freeze import freeze, parts_of
from diito.recipe.checks import check
from diito.recipe.file import read
from diito.refusal import refusals_of
from diito.run.manifest import student_contents
from diito.run.parts import survey

needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed")
OTHER = {"student.layers": "null"}
SMALLER = "{num_hidden_layers: 2, hidden_size: 8, num_attention_heads: 1}"


def refusals(recipe):
    with pytest.raises(ValueError) as error:
        check(recipe)
        survey(recipe)
    return {refusal.field: refusal.sentence for refusal in refusals_of(error.value)}


# ------------------------------------------------------------------------------------------------------ planned


@pytest.mark.parametrize(
    ("given", "field", "sentence"),
    [
        ({"student.config": SMALLER, "student.layers": "2"}, "student.layers", "give one of them, and null for the other"),
        ({"student.model": "a", "student.config": SMALLER}, "student.model", "another way to make a student"),
        ({"student.revision": "main"}, "student.revision", "belongs to student.model"),
        ({"student.layers": "2", "student.initial": "cut"}, "student.initial", "say how in student.config"),
        ({"student.calibration": "9", "student.config": SMALLER}, "student.calibration", "belongs to student.initial: cut"),
        ({"student.config": "{hiden_size: 8}"}, "student.config", "did you mean hidden_size?"),
        ({"student.config": "{num_attention_heads: 3}"}, "student.config", "3 attention heads do not divide"),
        ({"student.config": "{hidden_size: 12}", "student.initial": "cut"}, "student.config", "a cut keeps heads whole"),
        ({"student.config": "{max_position_embeddings: 8}"}, "corpus.length", "but the student has positions for 8"),
        ({"student.config": SMALLER, "objective.weights.cos": "1"}, "objective.weights.cos", "must be 0 where the widths"),
        ({"student.lora": "{r: 2}", "student.freeze": "head"}, "student.freeze", "trains nothing but the adapter"),
        ({"student.lora": "{merge: false}"}, "student.lora", "set merge to true"),
        ({"student.model": "/nowhere"}, "student.model", "cannot be loaded"),
    ],
)
def test_what_the_recipe_and_configurations_can_tell_is_refused(given, field, sentence, tmp_path):
    found = refusals(tiny.recipe(tmp_path, {**OTHER, **given}))
    assert sentence in found[field]


def test_a_checkpoint_with_other_words_or_another_head_is_no_student(tmp_path):
    teacher = {**OTHER, "teacher.model": kinds.teacher_of("modernbert")}
    (sentence,) = refusals(tiny.recipe(tmp_path, {**teacher, "student.model": kinds.teacher_of("bert")})).values()
    assert "the teacher's" in sentence
    uncased = tiny.teacher("distilbert", words=40)
    (sentence,) = refusals(tiny.recipe(tmp_path, {**OTHER, "student.model": uncased})).values()
    assert "reads text as other ids than the teacher" in sentence and "give a model with the teacher's tokenizer" in sentence
    found = refusals(tiny.recipe(tmp_path, {**OTHER, "student.model": tiny.teacher("bert without a head")}))
    assert "has no masked-language-model head" in found["student.model"]
    small = tiny.teacher("distilbert", vocabulary=58)
    assert "does not know all words" in refusals(tiny.recipe(tmp_path, {**OTHER, "student.model": small}))["student.model"]


def test_a_classifier_has_its_teachers_labels_by_name_and_a_decoder_reads_no_further(tmp_path):
    other = classifiers.teacher("roberta", labels=("positive", "neutral", "negative"))
    found = refusals(classifiers.recipe(tmp_path, {**OTHER, "student.model": other}))
    assert "are not the teacher's (negative, neutral, positive), in this order" in found["student.model"]
    roberta = survey(classifiers.recipe(tmp_path, {**OTHER, "student.model": classifiers.teacher("roberta")}))
    assert roberta.student.sizes.depth == 4
    gpt2 = survey(decoders.recipe(tmp_path, {**OTHER, "student.model": decoders.teacher("gpt2", layers=2)}))
    assert (gpt2.student.sizes.depth, gpt2.words) == (2, 64)


def test_default_weights_leave_out_what_needs_equal_widths_and_the_plan_says_so(tmp_path, capsys):
    flags = ["--student.layers", "null", "--student.config", SMALLER, "--output", str(tmp_path), "--plan"]
    assert main(["distill", tiny.recipe_file(), *flags]) == 0
    said = capsys.readouterr().out
    assert "0.25 task + 0.25 ce + 0.25 causal_ce (no cos, as the widths 8 and 16 differ)" in said
    assert "bert, 2 layers × 8 with weights drawn by the seed" in said
    student, teacher = build(layers=2, hidden_size=8), build(layers=4)
    with pytest.warns(UserWarning, match="cos is left out of the losses, as the widths of student"):
        objective = diito.DistillationObjective(student, teacher, Alignment.full(4, 2), special_ids=[0, 1, 2])
    assert set(objective(masked_batch(1, [8, 8], [2], [3]))) == {"task", "ce", "causal_ce", "loss"}


def test_the_checkpoint_decides_a_run_by_its_weights_and_an_older_manifest_still_fits(tmp_path):
    copied = tmp_path / "student"
    shutil.copytree(tiny.teacher("distilbert"), copied)
    recipe = tiny.recipe(tmp_path, {**OTHER, "student.model": str(copied)})
    before = student_contents(recipe)["student.model"]
    model = AutoModelForMaskedLM.from_pretrained(copied)
    with torch.no_grad():
        next(model.parameters()).add_(1)
    model.save_pretrained(copied)
    assert student_contents(recipe)["student.model"] != before
    assert student_contents(tiny.recipe(tmp_path)) == {}


# ------------------------------------------------------------------------------------------------- not all trained


def test_parts_are_all_of_the_student_and_names_are_resolved():
    student = diito.build_student(build("roberta", 3, tie_word_embeddings=True), layers=2)
    parts = parts_of(student)
    whole = [weight for name in ("embeddings", "layers", "head") for weight in parts[name]]
    assert {id(weight) for weight in whole} == {id(weight) for weight in student.parameters()}
    assert len(whole) == len(list(student.parameters())) and "norm" not in parts
    freeze(student, ["embeddings", "layers.1", "lm_head.dense"])
    trained = {name for name, weight in student.named_parameters() if weight.requires_grad}
    assert trained and all(name.startswith(("roberta.encoder.layer.0.", "lm_head.")) for name in trained)
    assert "lm_head.dense.weight" not in trained and "lm_head.layer_norm.weight" in trained


@pytest.mark.parametrize(
    ("names", "field", "sentence"),
    [
        (["embedings"], "student.freeze[0]", "the student has no 'embedings'; did you mean embeddings?"),
        (["head", "layers.7"], "student.freeze[1]", "the student has no 'layers.7'; did you mean layers."),
        (["xyz"], "student.freeze[0]", "the parts are embeddings, layers, head and layers.0 to layers.1"),
        (["embeddings", "layers", "head"], "student.freeze", "nothing is left to be trained"),
    ],
)
def test_names_that_freeze_nothing_or_everything_are_refused(names, field, sentence):
    with pytest.raises(diito.Refusal) as refusal:
        freeze(diito.build_student(build("bert", 3), layers=2), names)
    assert refusal.value.field == field and sentence in refusal.value.sentence


def test_frozen_weights_are_in_no_optimiser_stay_as_they_are_and_leave_no_weight_unused(tmp_path):
    frozen = {"student.freeze": "[embeddings, layers.0]", "training.weight_decay": "0.1", "training.steps": "2"}
    parts, trainer = tiny.parts_and_trainer(tiny.recipe(tmp_path, frozen))
    before = {name: weight.clone() for name, weight in parts.student.named_parameters()}
    held = {name for name, weight in parts.student.named_parameters() if not weight.requires_grad}
    trainer.train()
    optimised = {id(weight) for group in trainer.optimizer.param_groups for weight in group["params"]}
    for name, weight in parts.student.named_parameters():
        assert torch.equal(weight, before[name]) == (name in held), name
        assert (id(weight) in optimised) == (name not in held)
    assert trainer.args.ddp_find_unused_parameters is False
    assert "of which 37.4% are trained" in str(parts.plan)


@needs_peft
def test_an_adapter_is_saved_alone_and_loads_through_the_classes_of_transformers_and_peft(tmp_path):
    from peft import AutoPeftModel

    base = tiny.teacher("distilbert")
    lora = {**OTHER, "student.model": base, "student.lora": "{r: 2, merge: false, target_modules: [q_lin, v_lin]}"}
    run = tiny.run(tmp_path, {**lora, "training.steps": "2", "evaluation.sources": "[]"})
    assert not (run / "student" / "model.safetensors").exists()
    loaded = AutoModelForMaskedLM.from_pretrained(run / "student").eval()
    other = AutoPeftModel.from_pretrained(run / "student").eval()
    inputs = {"input_ids": torch.tensor([[2, 9, 4, 17, 3]])}
    logits = loaded(**inputs).logits
    assert not torch.equal(logits, AutoModelForMaskedLM.from_pretrained(base).eval()(**inputs).logits)
    assert torch.equal(logits, other(**inputs).logits)


@needs_peft
@pytest.mark.parametrize(
    ("lora", "sentence"),
    [("{rank: 2}", "peft.LoraConfig has no rank"), ("{r: 0, target_modules: [query]}", "r"), ("{merge: 3}", "true or false")],
)
def test_adapters_that_cannot_be_are_refused(lora, sentence, tmp_path):
    with pytest.raises(diito.Refusal, match=sentence) as refusal:
        tiny.parts_and_trainer(tiny.recipe(tmp_path, {"student.lora": lora}))
    assert refusal.value.field == "student.lora"


def test_without_peft_an_adapter_is_refused_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("diito.models.adapter.importlib.util.find_spec", lambda name: None)
    assert "pip install 'diito[peft]'" in refusals(tiny.recipe(tmp_path, {"student.lora": "{r: 2}"}))["student.lora"]


# ------------------------------------------------------------------------------------------------------ alignments


@pytest.mark.parametrize(
    ("teacher", "student", "expected"),
    [
        (2, 4, [((0, 1), (0,)), ((2, 3), (1,))]),
        (3, 4, [((0, 1), (0,)), ((2,), (1,)), ((3,), (2,))]),
        (1, 2, [((0, 1), (0,))]),
    ],
)
def test_full_of_a_deeper_student_gives_each_teacher_layer_a_group_of_its_layers(teacher, student, expected):
    assert [(pair.student, pair.teacher) for pair in Alignment.full(teacher, student).pairs] == expected
    assert Alignment.middle(teacher, student).as_dict() == {student // 2: [teacher // 2]}


def test_pairs_may_be_written_short():
    short = read(tiny.recipe_file(), {"alignment.kind": "custom", "alignment.pairs": "[[0, 1], [1, [2, 3]]]"})
    full = "[{student: [0], teacher: [1]}, {student: [1], teacher: [2, 3]}]"
    assert short == read(tiny.recipe_file(), {"alignment.kind": "custom", "alignment.pairs": full})
    for pairs in ("[[0]]", "[[0, [3, 2]]]", "[[0, -1]]"):
        with pytest.raises(diito.Refusal, match=r"^alignment\.pairs\[0\]: .* must be \[student layer, teacher layer\]"):
            read(tiny.recipe_file(), {"alignment.kind": "custom", "alignment.pairs": pairs})


def test_dimensions_are_held_against_the_width_of_their_own_model(tmp_path):
    pairs = "[{{student: [0], teacher: [1], student_dimensions: [[0, {}]], teacher_dimensions: [[0, 16]]}}]"
    given = {**OTHER, "student.config": SMALLER, "alignment.kind": "custom"}
    assert survey(tiny.recipe(tmp_path, {**given, "alignment.pairs": pairs.format(8)})).alignment.pairs[0].student == (0,)
    found = refusals(tiny.recipe(tmp_path, {**given, "alignment.pairs": pairs.format(9)}))
    assert "do not lie in the student's width of 8" in found["alignment"]


@pytest.mark.soak  # a map of all pairs of layers
def test_a_student_of_other_depth_width_and_vocabulary_is_evaluated_against_its_teacher(tmp_path, capsys):
    student = tiny.teacher("distilbert", layers=6, width=8, vocabulary=72)
    text = ["--sources", f"[{tiny.corpus(20)}]", "--length", "16", "--blocks", "4"]
    text += ["--output", str(tmp_path / "results.json"), "--device", "cpu"]
    assert main(["evaluate", "interchange", student, "--teacher", tiny.teacher(), *text]) == 0
    assert main(["align", tiny.teacher(), student, *text, "--file", str(tmp_path / "found.yaml")]) == 0
    assert "alignment" in capsys.readouterr().out
