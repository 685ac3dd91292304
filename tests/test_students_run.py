"""Students of other shapes from a recipe to a folder: made, trained, resumed, saved and measured."""

from __future__ import annotations

import importlib.util
import json
import shutil

import pytest
import tiny
from transformers import AutoModelForMaskedLM

from diito.models.adapter import has_adapter
from diito.run.distill import distill
from diito.run.folder import RunFolder

needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed")
SMALLER = "{num_hidden_layers: 2, hidden_size: 8, num_attention_heads: 1, intermediate_size: 12}"
FORMS = {
    "random": {"student.config": SMALLER},
    "cut": {"student.config": SMALLER, "student.initial": "cut", "student.calibration": "8"},
    "model": {"student.model": "distilbert"},
    "deeper": {"student.config": "{num_hidden_layers: 6}"},
    "frozen": {"student.layers": "2", "student.freeze": "[embeddings, layers.0]"},
    "lora": {"student.layers": "2", "student.lora": "{r: 2, lora_alpha: 4, target_modules: [query, value]}"},
}
MARKS = {"lora": [needs_peft]} | {form: [pytest.mark.soak] for form in ("random", "model", "deeper", "frozen")}
forms = pytest.mark.parametrize("form", [pytest.param(form, marks=MARKS.get(form, [])) for form in FORMS])


def overrides(form: str) -> dict[str, str]:
    given = {"student.layers": "null", **FORMS[form]}
    if "student.model" in given:  # another family, narrower, with a vocabulary that is padded further
        given["student.model"] = tiny.teacher("distilbert", layers=3, width=8, vocabulary=72)
    return given


@forms
def test_a_run_that_is_resumed_gives_the_bits_of_one_that_was_not_stopped(form, tmp_path):
    given = {**overrides(form), "training.steps": "2", "training.save_every": "1", "evaluation.blocks": "2"}
    recipe = tiny.recipe(tmp_path, given)
    run = tiny.run(tmp_path, given)
    results, whole = json.loads((run / "results.json").read_text()), tiny.weights(run / "student")
    assert results["after"]["perplexity"] > 1 and 0 <= results["after"]["iia"] <= 1
    folder = RunFolder(recipe)
    shutil.rmtree(folder.checkpoints / "checkpoint-2")
    shutil.rmtree(folder.student)
    folder.results.unlink()
    assert distill(recipe, resume=True) == 0
    assert tiny.same(tiny.weights(folder.student), whole)
    assert json.loads(folder.results.read_text())["after"] == results["after"]
    assert (folder.student / "cut.json").is_file() == (form == "cut")
    assert not has_adapter(AutoModelForMaskedLM.from_pretrained(folder.student))
