"""Law 11: every recipe runs two steps and a save on a tiny teacher and corpus, by overrides only."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import classifiers
import decoders
import pytest
import tiny
import torch

from diito.cli import main
from diito.recipe.file import read
from diito.tasks import find_task

ROOT = Path(__file__).parent.parent
RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))
WIDTH, LAYERS = 8, 12
INPUTS = {"input_ids": torch.tensor([[2, 9, 4, 17, 31, 8, 3]])}
SMALLER = "{num_hidden_layers: 4, hidden_size: 4, num_attention_heads: 1, intermediate_size: 8}"
DEPTHS = {"quickstart": 3, "losses": 3, "swaps": 3, "classifier": 3, "structured": 2}
DEPTHS |= {"student-cut": 4, "student-random": 4, "student-lora": 3, "student-frozen": 3}
EXTRA = {
    "structured": ["--intervention.positions", "{at: [1, 2]}"],
    "student-cut": ["--student.config", SMALLER],
    "student-random": ["--student.config", SMALLER],
    "decoder": ["--student.layers", "3"],
    "diito-middle": ["--student.layers", "3"],
    "diito-full": ["--corpus.share", "0.15", "--corpus.minimum_tokens", "5"],
    "diito-full-cos": ["--student.layers", "9"],
    "diito-full-masked": ["--speed.precision", "bf16"],
}


def of_its_task(task: str) -> dict[str, str]:
    """A teacher and data for a recipe."""
    if task == "sequence-classification":
        labels = ("negative", "positive")
        rows = [json.dumps([classifiers.source(classifiers.table(size, labels=labels))]) for size in (48, 20)]
        return {
            "teacher.model": classifiers.teacher(labels=labels),
            "corpus.sources": rows[0],
            "evaluation.sources": rows[1],
        }
    if task == "cloze":
        lines = [json.dumps({"text": f"w{number} [MASK] w{number + 1}", "answer": f"w{number}"}) for number in range(12)]
        rows = tiny.FOLDER / "cloze.jsonl"
        rows.write_text("\n".join(lines), encoding="utf-8")
        source = json.dumps([{"path": str(rows), "label": "answer"}])
        teacher = tiny.teacher(layers=LAYERS, width=WIDTH)
        return {"teacher.model": teacher, "corpus.sources": source, "corpus.examples": "null", "evaluation.sources": source}
    teacher = decoders.teacher(layers=6) if task == "causal-lm" else tiny.teacher(layers=LAYERS, width=WIDTH)
    texts = {"corpus.sources": f"[{tiny.corpus(200)}]", "evaluation.sources": f"[{tiny.corpus(20)}]"}
    return {"teacher.model": teacher, **texts}


def overrides(output: Path, task: str = "masked-lm") -> list[str]:
    fields = {
        "output": output,
        **of_its_task(task),
        "corpus.length": 24,
        "corpus.cache": tiny.FOLDER / "cache",
        "corpus.workers": 1,
        "training.steps": 2,
        "training.batch": 3,
        "training.accumulation": 2,
        "training.device": "cpu",
        "evaluation.length": 16,
        "evaluation.blocks": 3,
    }
    return [argument for key, value in fields.items() for argument in (f"--{key}", str(value))]


def test_the_promised_recipes_are_there():
    rows = {"standard", "middle", "late", "full", "full-random", "full-masked", "full-cos", "full-blocks"}
    assert {"quickstart", *(name if name == "standard" else f"diito-{name}" for name in rows)} <= set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs_two_steps_and_saves_a_student(name, tmp_path):
    path = ROOT / "recipes" / f"{name}.yaml"
    if name == "student-lora" and importlib.util.find_spec("peft") is None:
        pytest.skip("peft is not installed")
    recipe, extra = read(path), EXTRA.get(name, [])
    if name == "student-model":
        extra = ["--student.model", tiny.teacher("distilbert", layers=6, width=WIDTH)]
    assert main(["distill", str(path), *overrides(tmp_path, recipe.task), *extra]) == 0
    run = tmp_path / recipe.name
    head = find_task(recipe.task).head
    depth = int(extra[1]) if "--student.layers" in extra else DEPTHS.get(name, 6)
    student = head.from_pretrained(run / "student").eval()
    assert student.config.num_hidden_layers == depth
    if name != "student-lora":  # whose checkpoints hold the adapter alone
        checkpoint = head.from_pretrained(run / "checkpoints" / "checkpoint-2").eval()
        with torch.no_grad():
            assert torch.equal(student(**INPUTS).logits, checkpoint(**INPUTS).logits)
    assert tiny.metrics(run)[-1]["learning_rate"] >= 0
    results = json.loads((run / "results.json").read_text())
    has_examples = find_task(recipe.task).of_examples
    assert results["after"]["accuracy"] >= 0 if has_examples else results["after"]["perplexity"] > 1
    as_run, weights = read(run / "recipe.yaml").objective, recipe.objective.weights.as_dict()
    if as_run.weights.cos == 0:  # of another width than its teacher, and no weight is given
        weights["cos"] = 0
    assert as_run.weights.as_dict() == weights


def test_the_share_of_the_corpus_is_taken(tmp_path, capsys):
    path = str(ROOT / "recipes" / "diito-full.yaml")
    assert main(["distill", path, *overrides(tmp_path), "--corpus.share", "0.15", "--plan"]) == 0
    assert "30 of 200 documents" in capsys.readouterr().out
