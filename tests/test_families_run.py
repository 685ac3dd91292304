"""The main job on families beyond BERT, each with a tokenizer of its own kind: to the end, and stopped and resumed."""

import json

import kinds
import pytest
import tiny
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from diito import cli

FAMILIES = (
    pytest.param("electra", marks=pytest.mark.soak),  # WordPiece, as BERT
    "albert",  # Unigram, layers that are shared
    pytest.param("deberta-v3", marks=pytest.mark.soak),
    pytest.param("xlm-r", marks=pytest.mark.soak),
    "modernbert",  # byte-level BPE, layer types
)


def recipe(kind, output):
    """Three lines of a user's own, and what makes a test short; the lengths and the held-out text are left open."""
    return f"""
teacher: {{model: {kinds.teacher_of(kind)}}}
student: {{layers: [0, 2]}}
corpus: {{sources: {kinds.corpus()}, workers: 1, cache: {tiny.FOLDER / "cache"}}}
training: {{max_steps: 4, per_device_train_batch_size: 4, gradient_accumulation_steps: 1, logging_steps: 1, save_steps: 2}}
evaluation: {{blocks: 4}}
speed: {{precision: fp32}}
output: {output}
name: run
"""


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_student_of_any_family_is_distilled_resumed_and_loaded(kind, tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe(kind, tmp_path / "straight"), encoding="utf-8")
    assert cli.main(["distill", str(path)]) == 0
    straight = tmp_path / "straight" / "run"

    stopped = ["distill", str(path), "--output", str(tmp_path / "stopped")]
    assert cli.main([*stopped, "--training.save_total_limit", "5"]) == 0
    run = tmp_path / "stopped" / "run"
    for path in (run / "checkpoints" / "checkpoint-4", run / "student"):
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    assert cli.main(["distill", str(run / "recipe.yaml"), "--resume"]) == 0
    assert tiny.same(tiny.weights(straight / "student"), tiny.weights(run / "student"))

    student = AutoModelForMaskedLM.from_pretrained(straight / "student")
    tokenizer = AutoTokenizer.from_pretrained(straight / "student")
    logits = student(**tokenizer("the game was released", return_tensors="pt")).logits
    assert student.config.num_hidden_layers == 2 and torch.isfinite(logits).all()
    results = json.loads((straight / "results.json").read_text(encoding="utf-8"))
    assert {"teacher", "before", "after"} <= set(results) and results["before"] != results["after"]
