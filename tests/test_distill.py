"""`diito distill` from a recipe to a run folder: what is in it, when it may be written, what happens on a full disk."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import resource
from pathlib import Path

import pytest
import tiny
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForMaskedLM, AutoTokenizer, Trainer

from diito.cli import main
from diito.recipe.file import read
from diito.refusal import Refusals
from diito.run import distill as distill_module
from diito.run.distill import distill
from diito.run.parts import prepare
from diito.training.arguments import training_arguments
from diito.training.callbacks import Interruption

INPUTS = {"input_ids": torch.tensor([[2, 9, 4, 17, 31, 8, 3]])}


def command(output: Path, *argv: str) -> int:
    return main(["distill", tiny.recipe_file(), "--output", str(output), *argv])


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run in lines, evaluated once on the way."""
    output = tmp_path_factory.mktemp("finished")
    return tiny.run(output, {"corpus.layout": "lines", "training.evaluate_every": "4", "training.log_every": "2"})


# What a run leaves


def test_the_run_folder_holds_what_is_promised(finished):
    assert sorted(entry.name for entry in finished.iterdir()) == [
        ".lock",
        "checkpoints",
        "environment.json",
        "manifest.json",
        "metrics.jsonl",
        "plan.json",
        "recipe.yaml",
        "results.json",
        "student",
    ]
    assert tiny.checkpoints(finished) == ["checkpoint-6"]
    suffixes = {path.suffix for path in finished.rglob("*") if path.is_file() and path.name != ".lock"}
    assert suffixes <= {".json", ".jsonl", ".yaml", ".md", ".safetensors", ".pt", ".pth"}


def test_the_student_is_an_ordinary_model_with_its_tokenizer(finished):
    student = AutoModelForMaskedLM.from_pretrained(finished / "student").eval()
    checkpoint = AutoModelForMaskedLM.from_pretrained(finished / "checkpoints" / "checkpoint-6").eval()
    assert student.config.num_hidden_layers == 2
    with torch.no_grad():
        assert torch.equal(student(**INPUTS).logits, checkpoint(**INPUTS).logits)
    tokenizer = AutoTokenizer.from_pretrained(finished / "student")
    assert tokenizer("w1 w2")["input_ids"] == tiny.tokenizer()("w1 w2")["input_ids"]
    assert tokenizer.mask_token == "[MASK]"


def test_the_model_card_says_what_was_done_and_measured(finished):
    card = (finished / "student" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n") and "pipeline_tag: fill-mask" in card
    after = json.loads((finished / "results.json").read_text())["after"]
    assert f"| after | {after['perplexity']:.2f} | {after['iia']:.3f} |" in card
    assert (finished / "recipe.yaml").read_text() in card
    assert "| student layers | teacher layers |\n|---|---|\n| 0 | 0, 1 |\n| 1 | 2, 3 |" in card


def test_the_model_card_says_how_to_load_the_student(finished, monkeypatch):
    monkeypatch.chdir(finished)
    (code,) = re.findall("```python\n(.*?)```", (finished / "student" / "README.md").read_text(), re.DOTALL)
    names = {}
    exec(code, names)
    assert type(names["model"]).__name__ == "BertForMaskedLM" and names["tokenizer"].mask_token == "[MASK]"


def test_results_hold_the_teacher_and_the_student_before_and_after(finished):
    results = json.loads((finished / "results.json").read_text())
    assert 1 < results["teacher"]["perplexity"] < math.inf
    for key in ("before", "after"):
        assert {"perplexity", "iia"} <= set(results[key])
        assert 10 < results[key]["perplexity"] < 1000  # 64 words, random text
        assert 0 <= results[key]["iia"] <= 1
    assert results["before"] != results["after"]
    assert results["recipe"]["training"]["max_steps"] == 6


def test_training_brings_the_student_closer_to_its_teacher(tmp_path):
    overrides = {"training.steps": "30", "training.accumulation": "1", "training.log_every": "10"}
    overrides["objective.weights"] = "{mlm: 0, ce: 1, cos: 0, causal_ce: 1}"
    run = tiny.run(tmp_path, overrides)
    lines = tiny.metrics(run)
    assert lines[-1]["ce"] < 0.5 * lines[0]["ce"] and lines[-1]["causal_ce"] < 0.5 * lines[0]["causal_ce"]


def test_the_environment_says_what_a_result_may_depend_on(finished):
    environment = json.loads((finished / "environment.json").read_text())
    assert {"diito", "commit", "command", "python", "packages", "platform", "processors", "threads"} <= set(environment)
    assert environment["packages"]["torch"] == torch.__version__
    assert environment["processes"] == 1


def test_the_recipe_as_run_reads_back_equal(finished):
    overrides = {"corpus.layout": "lines", "training.evaluate_every": "4", "training.log_every": "2"}
    overrides |= {"objective.weights.cos": "0.25"}  # as the widths agree
    assert read(finished / "recipe.yaml") == tiny.recipe(finished.parent, overrides)


def test_every_line_of_the_metrics_has_every_loss_and_evaluations_have_theirs(finished):
    lines = tiny.metrics(finished)
    training = [line for line in lines if "loss" in line]
    assert [line["step"] for line in training] == [1, 2, 4, 6]
    for line in training:
        assert {"task", "ce", "cos", "causal_ce", "loss", "learning_rate", "tokens", "tokens_per_second"} <= set(line)
        assert all(math.isfinite(value) for value in line.values())
    assert [line["tokens"] for line in training] == sorted(line["tokens"] for line in training)
    evaluations = [line for line in lines if "eval_perplexity" in line]
    assert [line["step"] for line in evaluations] == [4, 6]
    assert 0 <= evaluations[0]["eval_iia"] <= 1


def test_without_held_out_text_nothing_is_measured(tmp_path):
    run = tiny.run(tmp_path, {"evaluation.sources": "[]", "training.steps": "1"})
    assert set(json.loads((run / "results.json").read_text())) == {"recipe", "student"}
    assert "Measured" not in (run / "student" / "README.md").read_text()


def test_the_screen_shows_plan_losses_measurements_and_the_student(tmp_path, capfd):
    assert command(tmp_path, "--training.steps", "1") == 0
    out, err = capfd.readouterr()
    for word in ("teacher ", "student ", "alignment ", "full: 0 → 0+1, 1 → 2+3", "corpus ", "steps ", "compute ", "GFLOP"):
        assert word in out
    assert "student before" in out and "student after" in out and f"student    {tmp_path}/tiny/student" in out
    line = next(line for line in err.splitlines() if line.startswith("step 1/1"))
    assert all(name in line for name in ("task", "ce", "cos", "causal_ce", "loss", "tokens/s"))


@pytest.mark.parametrize(
    "overrides",
    [
        {"teacher.model": "distilbert", "student.layers": "[0, 3]"},
        {"intervention.control": "token-swap", "intervention.pairing": "independent"},
        {"alignment.shuffled": "true", "intervention.positions": "masked", "corpus.layout": "lines"},
        {"objective.tokens": "all", "objective.weights": "{mse: 0.01, causal_cos: 0.1}", "intervention.specials": "true"},
        {"objective.weights": "{mlm: 0, ce: 0, cos: 1, causal_ce: 0}", "training.batch": "1"},
        {"alignment.kind": "custom", "alignment.pairs": "[{student: [0], teacher: [1, 2], student_dimensions: [[0, 4]], "}
        | {"training.evaluate_every": "1"},
    ],
    ids=["distilbert", "token-swap", "shuffled-masked", "all-tokens-mse", "cos-only", "custom"],
)
def test_other_settings_run_to_their_end(overrides, tmp_path):
    overrides = {"training.steps": "2"} | overrides
    if overrides.get("teacher.model") == "distilbert":
        overrides["teacher.model"] = tiny.teacher("distilbert")
    if "alignment.pairs" in overrides:
        overrides["alignment.pairs"] += "teacher_dimensions: [[4, 8]]}]"
    run = tiny.run(tmp_path, overrides)
    assert AutoModelForMaskedLM.from_pretrained(run / "student").config.num_hidden_layers == 2


# When a run folder may be written


def test_a_run_that_exists_is_refused_replaced_or_resumed_as_asked(tmp_path, capsys):
    assert command(tmp_path, "--training.steps", "2") == 0
    before = contents(tmp_path)
    for argv, said in (
        ([], "exists; continue it with --resume, replace it with --overwrite"),
        (["--resume", "--training.learning_rate", "1e-3"], "training.learning_rate: the run"),
        (["--resume", "--training.steps", "4"], "training.max_steps: the run"),
        (["--resume", "--seed", "3"], "seed: the run"),
        (["--resume", "--overwrite"], "give one of them"),
    ):
        capsys.readouterr()
        assert command(tmp_path, "--training.steps", "2", *argv) == 2
        assert said in capsys.readouterr().err
        assert contents(tmp_path) == before
    assert command(tmp_path, "--training.steps", "2", "--resume", "--training.log_every", "2") == 0  # of no consequence
    (tmp_path / "tiny" / "of-the-old-run").touch()
    assert command(tmp_path, "--training.steps", "1", "--overwrite") == 0
    assert not (tmp_path / "tiny" / "of-the-old-run").exists()
    assert tiny.checkpoints(tmp_path / "tiny") == ["checkpoint-1"]


def test_bad_input_leaves_the_run_that_overwrite_would_replace(tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "precious").write_text("results")
    assert command(tmp_path, "--overwrite", "--student.layers", "[0,9]") == 2
    assert (tmp_path / "tiny" / "precious").read_text() == "results"


def test_a_plan_writes_nothing_and_is_not_in_the_way_of_a_run(tmp_path, capsys):
    assert command(tmp_path / "runs", "--plan") == 0
    assert "teacher layers 0+2" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


# What goes wrong on the way


def test_a_loss_that_is_not_finite_is_exit_1_and_named(tmp_path, capsys):
    overrides = ["--training.learning_rate", "1e30", "--training.clip", "0", "--training.warmup", "0"]
    assert command(tmp_path, *overrides, "--training.save_every", "1", "--training.steps", "20") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("diito: step ") and "not finite" in error and error.endswith("training stopped")
    step = int(error.split()[2].rstrip(":"))
    assert all(int(name.partition("-")[2]) <= step for name in tiny.checkpoints(tmp_path / "tiny"))
    for name in tiny.checkpoints(tmp_path / "tiny"):
        saved = tiny.weights(tmp_path / "tiny" / "checkpoints" / name)
        assert all(value.isfinite().all() for value in saved.values())
    assert not (tmp_path / "tiny" / "student").exists()


@contextlib.contextmanager
def small_files(limit: int):
    """No file may grow beyond ``limit`` bytes, which fails a write as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("part", ["weights", *(pytest.param(part, marks=pytest.mark.soak) for part in ("optimiser", "rename"))])
def test_a_full_disk_keeps_the_checkpoint_before_it_and_the_run_resumes(part, tmp_path, capsys, monkeypatch):
    straight = tiny.run(tmp_path / "straight")
    weights = (straight / "checkpoints" / "checkpoint-6" / "model.safetensors").stat().st_size
    limit = {"weights": weights // 2, "optimiser": weights + 4096}.get(part)
    limits = contextlib.ExitStack()

    class Full(Interruption):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 4 and limit is not None:
                limits.enter_context(small_files(limit))
            super().on_step_end(args, state, control, **kwargs)

    replace = os.replace

    def full(source, target):
        if str(target).endswith("checkpoint-4"):
            raise OSError(28, "No space left on device")
        replace(source, target)

    argv = ("--training.save_every", "2", "--training.keep", "1")
    with limits, monkeypatch.context() as patch:
        patch.setattr(distill_module, "Interruption", Full)
        if part == "rename":
            patch.setattr(os, "replace", full)
        assert command(tmp_path, *argv) == 2
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert sentence.startswith("diito: ") and "checkpoint-4" in sentence and "--resume" in sentence, sentence
    assert tiny.checkpoints(tmp_path / "tiny")[-1] == "checkpoint-2"
    assert command(tmp_path, *argv, "--resume") == 0
    assert tiny.same(tiny.weights(tmp_path / "tiny" / "student"), tiny.weights(straight / "student"))


def test_a_disk_that_is_full_at_the_very_end_is_said_in_one_sentence(tmp_path, capsys, monkeypatch):
    limits = contextlib.ExitStack()

    class Full(Interruption):
        def on_train_end(self, args, state, control, **kwargs):
            super().on_train_end(args, state, control, **kwargs)
            limits.enter_context(small_files(2048))

    with limits, monkeypatch.context() as patch:
        patch.setattr(distill_module, "Interruption", Full)
        assert command(tmp_path, "--training.steps", "2") == 2
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert sentence.startswith("diito: ") and "--resume" in sentence
    assert not (tmp_path / "tiny" / "student").exists()
    assert command(tmp_path, "--training.steps", "2", "--resume") == 0
    assert (tmp_path / "tiny" / "student" / "model.safetensors").is_file()


def test_a_fault_of_the_program_is_no_mistake_of_the_user(tmp_path, monkeypatch):
    def broken(self, *args, **kwargs):
        raise ValueError("a fault within")

    monkeypatch.setattr(Trainer, "training_step", broken)
    with pytest.raises(ValueError, match="a fault within"):
        distill(tiny.recipe(tmp_path))


# What a recipe leaves open


def rows_of(corpus):
    return [tuple(row["input_ids"].tolist()) for row in corpus]


def own_text(tmp_path, documents=200, **overrides):
    """What is loaded for a recipe that names a corpus and nothing else about text."""
    fields = {
        "corpus.sources": f"[{tiny.corpus(documents)}]",
        "corpus.layout": "lines",
        "corpus.length": "null",
        "evaluation.sources": "null",
        "evaluation.length": "null",
        "evaluation.blocks": "null",
    }
    recipe = tiny.recipe(tmp_path, fields | overrides)
    return prepare(recipe, training_arguments(recipe, output_dir=str(tmp_path)))


def test_lengths_are_what_the_teacher_allows_and_stand_in_the_recipe_as_run(tmp_path):
    open_lengths = {"corpus.length": "null", "evaluation.length": "null", "training.batch": "2", "training.steps": "1"}
    run = tiny.run(tmp_path, open_lengths)
    as_run = read(run / "recipe.yaml")
    assert (as_run.corpus.length, as_run.evaluation.length) == (64, 64)  # the tiny teacher's positions
    assert distill(tiny.recipe(tmp_path, open_lengths), resume=True) == 0


def test_a_held_out_part_of_the_corpus_is_measured_and_not_trained_on(tmp_path):
    parts, again = own_text(tmp_path, 2000), own_text(tmp_path, 2000)
    assert parts.held_out is not None and again.held_out is not None
    held_out, trained = parts.held_out.corpus.statistics, parts.corpus.statistics
    assert held_out.documents + trained.documents == 2000
    odds = 2000 * 0.05
    assert abs(held_out.documents - odds) < 5 * math.sqrt(odds)
    assert rows_of(parts.corpus) == rows_of(again.corpus)
    assert parts.held_out.digest() == again.held_out.digest()
    assert len(parts.held_out.examples) >= 2 and parts.plan.recipe.evaluation.blocks == 200
    assert "that are not trained on" in str(parts.plan)


def test_no_text_is_on_both_sides_and_another_seed_holds_out_other_text(tmp_path):
    text = tmp_path / "twice.txt"
    lines = [f"w{one} w{other} w1 w2" for one in range(50) for other in range(40)]
    text.write_text("\n".join(lines * 2) + "\n")
    source = {"corpus.sources": f"[{text}]", "evaluation.length": "18", "corpus.minimum_tokens": "3"}
    parts, other = own_text(tmp_path, **source), own_text(tmp_path, **source, seed="2")
    trained = set(rows_of(parts.corpus))
    assert len(rows_of(parts.corpus)) == 2 * len(trained)  # both copies of a line are on the same side
    body = [token for row in rows_of(parts.held_out.corpus) for token in row[1:-1]]
    documents = {tuple([2, *body[start : start + 4], 3]) for start in range(0, len(body), 4)}
    assert documents and not documents & trained
    assert parts.held_out.digest() != other.held_out.digest()


def test_a_corpus_too_small_to_set_some_aside_is_trained_on_whole_and_it_is_said(tmp_path, capsys):
    parts = own_text(tmp_path, 60)
    assert parts.held_out is None and parts.corpus.statistics.documents == 60
    assert "none, nothing is measured: the corpus is too small" in str(parts.plan)


def test_everything_that_names_and_configurations_can_tell_is_refused_at_once(tmp_path):
    recipe = tiny.recipe(
        tmp_path,
        {
            "teacher.tokenizer": "/nowhere/at/all",
            "student.layers": "9",
            "corpus.sources": "[/nowhere.txt]",
            "corpus.length": "100",
            "evaluation.length": "200",
        },
    )
    with pytest.raises(Refusals) as refusals:
        distill(recipe)
    lines = str(refusals.value).splitlines()
    fields = ["corpus.sources", "teacher.tokenizer", "student.layers", "corpus.length", "evaluation.length"]
    assert [line.partition(":")[0] for line in lines] == fields
    assert [str(refusal) for refusal in refusals.value.refusals] == lines
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["neftune_noise_alpha", "use_liger_kernel"])
def test_an_argument_that_cannot_work_is_refused_at_the_start_by_name(name, tmp_path, capsys):
    assert command(tmp_path / "runs", "--training.arguments", f"{{{name}: {5.0 if name[0] == 'n' else 'true'}}}") == 2
    assert f"training.{name}: does not work with distillation" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_what_is_measured_on_the_way_appears_on_the_screen(tmp_path, capfd):
    argv = ("--training.steps", "3", "--training.evaluate_every", "2", "--evaluation.interchange_every", "3")
    assert command(tmp_path, *argv) == 0
    lines = [line for line in capfd.readouterr().err.splitlines() if "held-out:" in line]
    assert lines[0].startswith("step 2/3  held-out: perplexity ") and "iia " in lines[0]
    assert lines[1].startswith("step 3/3  held-out: iia ")
    assert [line["step"] for line in tiny.metrics(tmp_path / "tiny") if "loss" in line] == [1, 2, 3], (
        "no step's losses are lost"
    )


def test_the_card_of_a_student_with_an_odd_name_is_read_back_whole(tmp_path):
    run = tiny.run(tmp_path, {"name": "a: b # c", "training.steps": "1"})
    card = ModelCard.load(run / "student" / "README.md")
    assert card.data.model_name == "a: b # c" and card.data.library_name == "transformers"
    assert card.data.base_model is None  # a local folder is no name on the hub
    after = json.loads((run / "results.json").read_text())["after"]
    assert {result.metric_type: result.metric_value for result in card.data.eval_results}["perplexity"] == after["perplexity"]


@pytest.mark.parametrize("field", ["training.eval_steps", "evaluation.interchange_every"])
def test_measuring_while_training_needs_held_out_text(field, tmp_path):
    """A corpus too small to set some aside, and one that is not asked to."""
    (tmp_path / "small.txt").write_text("w1 w2 w3 w4 w5 w6 w7 w8 w9 w10 w11 w12 w13 w14\n" * 6)
    small = {"corpus.sources": str(tmp_path / "small.txt"), "evaluation.sources": "null", "training.batch": 2}
    with pytest.raises(ValueError, match=rf"^{field}: needs held-out text"):
        tiny.run(tmp_path, {**small, field: "2"})
    assert not (tmp_path / "tiny").exists()


def test_an_interruption_while_measuring_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    """Nothing is trained yet, but the run is there, and the same command alone would be refused."""

    def interrupted(*arguments):
        raise KeyboardInterrupt

    recipe = tiny.recipe(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(distill_module, "_measure_before", interrupted)
        assert distill(recipe) == 130
    folder = tmp_path / recipe.name
    assert f"interrupted; continue with: diito distill {folder / 'recipe.yaml'} --resume" in capsys.readouterr().err
    assert distill(recipe, resume=True) == 0 and (folder / "student" / "config.json").is_file()
