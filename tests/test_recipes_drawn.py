"""Recipes drawn at random: what is accepted trains two steps and saves, what is refused names a field that exists."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import pytest
import tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diito.recipe import Recipe
from diito.recipe.checks import check
from diito.refusal import refusals_of

FIELDS = {
    "seed": [0, 7],
    "student.layers": [1, 2, 3, 5, "[0, 3]", "released-3"],
    "student.dropout": ["null", 0.3],
    "corpus.layout": ["blocks", "lines"],
    "corpus.length": [3, 16, 40, 100],
    "corpus.share": [0.05, 1.0],
    "masking.rate": [0.15, 1.0],
    "masking.smoothing": [0.0, 0.7],
    "alignment.kind": ["full", "middle", "late", "late-released", "custom", "learned"],
    "alignment.top": ["true", "false"],
    "alignment.shuffled": ["true", "false"],
    "intervention.positions": ["consecutive", "random", "masked"],
    "intervention.share": [0.01, 1.0],
    "intervention.specials": ["true", "false"],
    "intervention.source_positions": ["same", "independent"],
    "intervention.pairing": ["in-batch", "independent"],
    "intervention.control": ["none", "token-swap"],
    "intervention.sources_per_row": [1, 2],
    "alignment.pairs_per_batch": [1, 2],
    "objective.balance": ["none", "gradient-norm"],
    "objective.tokens": ["masked", "all"],
    "objective.temperature": [0.5, 2.0],
    "objective.weights.task": [0.0, 1.0],
    "objective.weights.causal_ce": [0.0, 1.0],
    "objective.weights.causal_cos": [0.0, 1.0],
    "objective.weights.mse": [0.0, 1.0],
    "training.per_device_train_batch_size": [1, 2, 4, 1000],
    "training.gradient_accumulation_steps": [1, 2],
    "training.eval_steps": [0, 1],
    "training.logging_steps": [1, 10],
    "training.save_steps": [1, 100],
    "training.max_grad_norm": [0.0, 1.0],
    "training.arguments": ["{}", "{gradient_checkpointing: true}", "{optim: sgd}", "{optim: lomo}", "{neftune_noise_alpha: 5}"],
    "speed.precision": ["fp32", "bf16"],
    "speed.fast_dropout": ["true", "false"],
    "evaluation.sources": ["null", "[]", f"[{tiny.corpus(20)}]"],
    "evaluation.interchange_every": [0, 1],
}
RECIPES = st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in FIELDS.items()})


def trains_or_is_refused(overrides) -> None:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "runs"
        try:
            made = tiny.recipe(output, {**overrides, "training.steps": 2, "evaluation.blocks": 3})
            check(made)
            code = tiny.distill(made)
        except ValueError as error:
            refusals = refusals_of(error)
            assert all(exists(each.field) for each in refusals), str(error)
            assert not (output / "tiny").exists(), "it is refused before anything is written"
        else:
            assert code == 0
            assert (output / "tiny" / "student" / "model.safetensors").is_file()


def exists(field: str) -> bool:
    """Whether a recipe has a field of this name."""
    section = Recipe()
    for name in field.partition("[")[0].split("."):
        if name in getattr(section, "ALIASES", ()) or getattr(type(section), "takes", lambda name: False)(name):
            return True
        if name not in {each.name for each in dataclasses.fields(section)}:
            return False
        section = getattr(section, name)
    return True


@settings(max_examples=3, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(RECIPES)
def test_a_few(overrides):
    trains_or_is_refused(overrides)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(RECIPES)
def test_many(overrides):
    trains_or_is_refused(overrides)
