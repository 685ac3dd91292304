"""Runs of recipes with further losses: resumed bit for bit with projections, saved apart from the student, refused well."""

from __future__ import annotations

import importlib.util
import json

import pytest
import tiny
import torch
from safetensors.torch import load_file
from test_resume import stop_at, without_rate
from transformers import AutoModelForMaskedLM

from diito.cli import main
from diito.method.objective import DistillationObjective
from diito.recipe import ScheduleSection
from diito.recipe.checks import check
from diito.recipe.file import dump, read
from diito.refusal import Refusal, Refusals, refusals_of
from diito.run.distill import distill
from diito.run.manifest import fixed_fields
from diito.run.parts import check_reached, prepare
from diito.training.arguments import training_arguments

HIDDEN = {
    "objective.weights": "{ce: 0, cos: 0, causal_ce: {to: 0.5}, hidden: 0.5, contrastive: 0.1, causal_hidden: 0.1, jsd: 0.5}",
    "training.steps": 3,
    "training.accumulation": 1,
    "objective.options": "{jsd: {beta: 0.3, temperature: 1}, hidden: {measure: mse, layers: [[0, 1], [1, 3]]}}",
    "evaluation.sources": "[]",
    "student.layers": "null",
    "student.config": "{hidden_size: 8, num_hidden_layers: 2}",  # half the teacher's width
}
SCHEDULED = {"objective.weights.causal_ce": "{from: 0, to: 0.25, by: 0.5}", "evaluation.sources": "[]"}


def test_a_run_with_projections_is_resumed_bit_for_bit_and_saves_them_beside_the_student(tmp_path, monkeypatch):
    straight = tiny.run(tmp_path / "straight", HIDDEN)
    recipe = tiny.recipe(tmp_path / "stopped", HIDDEN)
    stop_at(monkeypatch, 2)
    assert distill(recipe) == 143
    stopped = tmp_path / "stopped" / "tiny"
    saved = load_file(stopped / "checkpoints" / "checkpoint-2" / "projections.safetensors")
    stop_at(monkeypatch, None)
    assert distill(recipe, resume=True) == 0
    assert tiny.same(tiny.weights(straight / "student"), tiny.weights(stopped / "student"))
    assert without_rate(tiny.metrics(straight)) == without_rate(tiny.metrics(stopped))
    ends = [load_file(run / "projections.safetensors") for run in (straight, stopped)]
    assert tiny.same(*ends) and not tiny.same(ends[0], saved), "they are trained"
    names = {f"{name}.projections.{index}.weight" for name in ("hidden", "contrastive") for index in (0, 1)}
    assert set(ends[0]) == names
    assert not any("projection" in name for name in tiny.weights(straight / "student"))
    _, report = AutoModelForMaskedLM.from_pretrained(straight / "student", output_loading_info=True)
    assert not report["unexpected_keys"] and not report["missing_keys"]


def test_a_checkpoint_without_the_projections_is_refused(tmp_path):
    recipe = tiny.recipe(tmp_path, HIDDEN)
    _, trainer = tiny.parts_and_trainer(recipe)
    trainer.save_model(str(tmp_path / "checkpoint"))
    (tmp_path / "checkpoint" / "projections.safetensors").unlink()
    with pytest.raises(Refusal, match="is not of a run with these losses"):
        trainer._load_student(str(tmp_path / "checkpoint"))


@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed")
def test_projections_are_read_back_beside_an_adapter(tmp_path):
    _, trainer = tiny.parts_and_trainer(tiny.recipe(tmp_path, {**HIDDEN, "student.lora": "{r: 2, target_modules: [query]}"}))
    modules = trainer.loss_modules()
    saved = {name: value.clone() for name, value in modules.state_dict().items()}
    trainer.save_model(str(tmp_path / "checkpoint"))
    for parameter in modules.parameters():
        torch.nn.init.zeros_(parameter)
    trainer._load_student(str(tmp_path / "checkpoint"))
    assert tiny.same(dict(modules.state_dict()), saved)


def test_losses_that_nothing_trained_can_change_are_refused_in_a_sentence(tmp_path):
    given = {"student.freeze": "[embeddings, layers]", "objective.weights": "{task: 0, ce: 0, cos: 1, causal_ce: 0}"}
    recipe = tiny.recipe(tmp_path, given)
    parts, trainer = tiny.parts_and_trainer(recipe)
    for refused in (trainer.train, lambda: check_reached(recipe, parts)):  # the second one before anything is measured
        with pytest.raises(Refusal, match=r"^objective\.weights: none of them depends on what of the student is trained"):
            refused()


@pytest.mark.parametrize("pairing", ["in-batch", "independent"])
def test_rows_enough_for_all_sources_are_looked_at_for_what_is_reached(tmp_path, pairing):
    given = {"student.freeze": "[embeddings]", "intervention.sources_per_row": "3", "intervention.pairing": pairing}
    recipe = tiny.recipe(tmp_path, {**given, "objective.balance": "gradient-norm"})
    parts, _ = tiny.parts_and_trainer(recipe)
    check_reached(recipe, parts)


def test_a_shuffled_alignment_leaves_the_layers_that_losses_of_states_compare(tmp_path):
    found = {}
    for shuffled in ("false", "true"):
        given = {**HIDDEN, "objective.options": "{hidden: {measure: mse}}", "alignment.shuffled": shuffled}
        parts, trainer = tiny.parts_and_trainer(tiny.recipe(tmp_path, given))
        found[shuffled] = (parts.alignment.as_dict(), trainer.objective.losses["hidden"].layers)
    assert found["false"][0] != found["true"][0] and found["false"][1] == found["true"][1]


def test_a_schedule_is_a_function_of_the_step_and_costs_nothing_while_it_is_0(tmp_path, monkeypatch):
    """6 steps of two micro-batches: 0 at the first, 1/3 and 2/3 of the way at the next two, all of it from the fourth on."""
    seen = []
    forward = DistillationObjective.forward

    def watched(self, *arguments, **keywords):
        losses = forward(self, *arguments, **keywords)
        rest = sum(0.25 * losses[name] for name in ("task", "ce", "cos"))
        weight = (losses["loss"] - rest) / losses["causal_ce"] if "causal_ce" in losses else torch.zeros(())
        seen.append(round(float(weight.detach()), 3))
        return losses

    monkeypatch.setattr(DistillationObjective, "forward", watched)
    straight = tiny.run(tmp_path / "straight", SCHEDULED)
    assert seen == [0, 0, 0.083, 0.083, 0.167, 0.167, *[0.25] * 5], "the last step of the epoch has one micro-batch"
    lines = tiny.metrics(straight)
    assert ["causal_ce" in line for line in lines[:6]] == [False, True, True, True, True, True]


def test_the_plan_counts_what_is_run(tmp_path, capsys):
    """Beside standard distillation: nothing for a divergence, something for relations, half of a run for half the steps."""
    ratios = {}
    for name, weights in {
        "jsd": "{causal_ce: 0, jsd: 1}",
        "relations": "{causal_ce: 0, relations: 1}",
        "diito": "{causal_ce: 1}",
        "half": "{causal_ce: {from: 1, to: 0, by: 0.5}}",
    }.items():
        made = tiny.recipe(tmp_path / name, {"objective.weights": weights, "evaluation.sources": "[]"})
        parts = prepare(made, training_arguments(made, output_dir=str(tmp_path)))
        ratios[name] = parts.plan.cost.total / parts.plan.cost.base
    assert ratios["jsd"] == 1 < ratios["relations"]
    assert ratios["half"] - 1 == pytest.approx((ratios["diito"] - 1) / 2)
    assert "(1 to 0 by 50%) causal_ce" in str(parts.plan)


def test_weights_and_options_are_written_and_read_back(tmp_path):
    recipe = tiny.recipe(tmp_path, {**HIDDEN, **SCHEDULED, "objective.weights.causal_jsd": "{to: 1}"})
    check(recipe)
    weights = recipe.objective.weights
    assert weights.causal_ce == ScheduleSection(0.0, 0.25, 0.5)
    assert weights.as_dict()["causal_jsd"] == ScheduleSection(0.0, 1.0, 1.0)
    assert recipe.objective.options.as_dict()["jsd"] == {"temperature": 1.0, "beta": 0.3}
    (tmp_path / "again.yaml").write_text(dump(recipe))
    assert read(tmp_path / "again.yaml") == recipe
    json.dumps(fixed_fields(recipe))


def test_a_field_that_came_later_is_no_part_of_a_run_that_leaves_it_alone(tmp_path):
    """So runs and finished jobs of the versions before it keep their names."""
    plain = fixed_fields(tiny.recipe(tmp_path))
    assert not any("options" in key or key.endswith(("jsd", "hidden", "strict")) for key in plain)
    given = fixed_fields(tiny.recipe(tmp_path, {"objective.weights.jsd": "1", "objective.options.jsd.beta": "0.3"}))
    new = {key: value for key, value in given.items() if key not in plain}
    assert new["objective.weights.jsd"] == 1.0 and new["objective.options.jsd.beta"] == 0.3


PAIRS = "[{student: [0], teacher: [1], student_dimensions: [[0, 8]], teacher_dimensions: [[0, 8]]}]"
REFUSED = {
    "objective.weights.hiden": ({"objective.weights.hiden": "1"}, "did you mean objective.weights.hidden"),
    "objective.weights.causal_jds": ({"objective.weights.causal_jds": "1"}, "did you mean objective.weights.causal_jsd"),
    "objective.weights.causal_strict": ({"objective.weights.causal_strict": "1"}, "did you mean"),
    "objective.options.jsd.betta": ({"objective.options.jsd.betta": "1"}, "did you mean objective.options.jsd.beta"),
    "objective.options.jsd.beta": ({"objective.weights.jsd": "1", "objective.options.jsd.beta": "2"}, "at most 1"),
    "objective.options.hidden": ({"objective.options.hidden.measure": "cosine"}, "hidden has no weight"),
    "objective.options.hidden.measure": ({"objective.options.hidden.measure": "cos"}, "one of mse, cosine"),
    "objective.options.cka.layers[0]": ({"objective.options.cka.layers": "[[0, -1]]"}, "must be a pair"),
    "objective.weights.strict": ({"objective.weights.strict": "1"}, "student_dimensions"),
    "intervention.control": (
        {"objective.weights.manifold": "1", "intervention.control": "token-swap"},
        "token-swap swaps words",
    ),
    "training.per_device_train_batch_size": (
        {"objective.weights": "{causal_ce: 0, contrastive: 1}", "training.batch": "1"},
        "give at least 2",
    ),
    "objective.weights.ce": ({"objective.weights.ce": "{from: 0, to: -1}"}, "at least 0"),
    "objective.weights.ce.by": ({"objective.weights.ce": "{to: 1, by: 2}"}, "at most 1"),
    "objective.weights": ({"objective.weights": "{task: {to: 1}, ce: 0, cos: 0, causal_ce: 0}"}, "all are 0 at the first step"),
    "objective.weights: all are 0": (
        {
            "student.layers": "null",
            "student.config": "{hidden_size: 8}",
            "objective.weights": "{task: 0, ce: {to: 1}, causal_ce: 0}",
        },
        "all are 0 at the first step",
    ),
    "objective.options.hidden.layers": (
        {"objective.weights.hidden": "1", "objective.options.hidden.layers": "[[0, 9]]"},
        "the teacher has no layer 9",
    ),
    "objective.options.relations.heads": (
        {"objective.weights.relations": "1", "objective.options.relations.heads": "3"},
        "must divide",
    ),
}


@pytest.mark.parametrize("field", REFUSED)
def test_what_is_wrong_is_refused_before_anything_is_written(field, tmp_path):
    overrides, sentence = REFUSED[field]
    with pytest.raises((Refusal, Refusals)) as refused:
        made = tiny.recipe(tmp_path, overrides)
        check(made)
        distill(made)
    told, field = refusals_of(refused.value), field.partition(": ")[0]
    assert any(each.field.startswith(field) and sentence in str(each) for each in told), refused.value
    assert not list(tmp_path.iterdir())


def test_a_loss_of_ones_own_that_is_called_as_one_of_diitos_has_none_of_its_needs(tmp_path):
    """Such as one that a recipe of 0.1.0 named."""
    given = {"objective.losses": "[package.losses:strict]", "objective.weights": "{causal_ce: 0, strict: 1}"}
    check(tiny.recipe(tmp_path, given))


STRICT = {
    "alignment.kind": "custom",
    "alignment.pairs": PAIRS,
    "objective.weights": "{task: 0.5, ce: 0.25, cos: 0, causal_ce: 0.25, strict: 0.25, manifold: 0.1}",
    "evaluation.sources": "[]",
}


def test_strict_and_manifold_run_from_a_recipe(tmp_path):
    run = tiny.run(tmp_path, {**STRICT, "training.steps": 2})
    assert all(line["strict"] > 0 and line["manifold"] > 0 for line in tiny.metrics(run)[:2])


def test_the_command_names_every_loss_and_option(capsys):
    with pytest.raises(SystemExit):
        main(["distill", "--help"])
    text = capsys.readouterr().out
    for name in (
        "weights.reverse_kl",
        "weights.relations",
        "options.jsd.beta",
        "options.hidden.measure",
        "options.relations.heads",
    ):
        assert f"--objective.{name}" in text
