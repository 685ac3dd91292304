"""Bad input, as a table: one sentence that names the field, exit code 2, and no run folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import tiny
import torch
from transformers import BertConfig, BertForMaskedLM

from diito import Alignment, DistillationObjective
from diito.cli import main

WEIGHTS = "{mlm: 0, ce: 0, cos: 0, causal_ce: 0, causal_cos: 0, mse: 0}"


def refused(capsys, output: Path, *argv: str) -> str:
    """The sentence with which `diito distill` refuses the tiny recipe with these overrides."""
    recipe = tiny.recipe_file()
    capsys.readouterr()  # what making the tiny teacher said
    assert main(["distill", recipe, "--output", str(output), *argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("diito: ") and captured.err.count("\n") == 1, captured.err
    assert not output.exists() or not any(output.iterdir())
    return captured.err.removeprefix("diito: ")


def pairs(**fields: object) -> list[str]:
    return ["--alignment.kind", "custom", "--alignment.pairs", json.dumps([{"student": [0], "teacher": [1]} | fields])]


# What the sentence begins with (the field), what it must say, the overrides.
TABLE = {
    "no teacher": ("teacher.model", "cannot be loaded", ["--teacher.model", "/nowhere/at/all"]),
    "no tokenizer": ("teacher.tokenizer", "no tokenizer", ["--teacher.tokenizer", "/nowhere/at/all"]),
    "student deeper than the teacher": ("student.layers", "give 1 to 4", ["--student.layers", "5"]),
    "no student layer": ("student.layers", "at least 1", ["--student.layers", "0"]),
    "student layers out of range": ("student.layers", "0 to 3", ["--student.layers", "[0,4]"]),
    "student layers not increasing": ("student.layers", "increas", ["--student.layers", "[2,1]"]),
    "student layers twice": ("student.layers", "increas", ["--student.layers", "[1,1]"]),
    "released list too deep": ("student.layers", "0 to 3", ["--student.layers", "released-6"]),
    "no such teacher layer": ("alignment", "0 to 3", pairs(teacher=[4])),
    "no such student layer": ("alignment.pairs[0].student", "0 to 1", pairs(student=[2])),
    "aligned layers not increasing": ("alignment.pairs[0].teacher", "increase", pairs(teacher=[2, 1])),
    "student dimensions out of width": ("alignment", "width of 16", pairs(student_dimensions=[[0, 17]])),
    "teacher dimensions out of width": ("alignment", "width of 16", pairs(teacher_dimensions=[[8, 24]])),
    "dimensions upside down": ("alignment.pairs[0].student_dimensions", "start < stop", pairs(student_dimensions=[[9, 3]])),
    "late-released with two layers": ("alignment.kind", "at least 3", ["--alignment.kind", "late-released"]),
    "late with one layer": ("alignment.kind", "at least 2", ["--alignment.kind", "late", "--student.layers", "1"]),
    "share 0": ("intervention.share", "above 0", ["--intervention.share", "0"]),
    "share above 1": ("intervention.share", "at most 1", ["--intervention.share", "1.5"]),
    "corpus share above 1": ("corpus.share", "at most 1", ["--corpus.share", "15"]),
    "corpus share that leaves nothing": ("corpus.share", "give at least", ["--corpus.share", "0.001"]),
    "mask rate 0": ("masking.rate", "above 0", ["--masking.rate", "0"]),
    "mask rate above 1": ("masking.rate", "at most 1", ["--masking.rate", "15"]),
    "temperature 0": ("objective.temperature", "above 0", ["--objective.temperature", "0"]),
    "temperature not a number": ("objective.temperature", "finite", ["--objective.temperature", ".nan"]),
    "negative weight": ("objective.weights.ce", "at least 0", ["--objective.weights.ce", "-0.25"]),
    "infinite weight": ("objective.weights.mlm", "finite", ["--objective.weights.mlm", ".inf"]),
    "all weights 0": ("objective.weights", "at least one", ["--objective.weights", WEIGHTS]),
    "no corpus": ("corpus.sources", "/nowhere.txt", ["--corpus.sources", "[/nowhere.txt]"]),
    "no held-out text": ("evaluation.sources", "/nowhere.txt", ["--evaluation.sources", "[/nowhere.txt]"]),
    "length beyond the positions": ("corpus.length", "at most 64", ["--corpus.length", "65"]),
    "held-out length beyond them": ("evaluation.length", "at most 64", ["--evaluation.length", "65"]),
    "a batch of one row": ("training.per_device_train_batch_size", "at least 2 rows", ["--training.batch", "1"]),
    "fewer sequences than a micro-batch": ("training.batch", "smaller batch", ["--training.batch", "48"]),
    "unknown key": ("intervention.shar", "did you mean intervention.share?", ["--intervention.shar", "0.5"]),
    "unknown argument": ("training.arguments.optin", "did you mean optim?", ["--training.arguments", "{optin: adamw_torch}"]),
    "evaluation at the start of nothing": (
        "training.eval_on_start",
        "eval_steps above 0",
        ["--training.eval_on_start", "true"],
    ),
    "argument of the wrong kind": ("training.optim", "nonesuch", ["--training.arguments", "{optim: nonesuch}"]),
    "logger that is not installed": ("training.report_to", "nonesuch", ["--training.report_to", "[nonesuch]"]),
    "no run to resume": ("name", "no run to resume", ["--resume"]),
}


@pytest.mark.parametrize("case", TABLE)
def test_one_sentence_names_the_field_and_nothing_is_written(case, capsys, tmp_path):
    field, said, argv = TABLE[case]
    sentence = refused(capsys, tmp_path / "runs", *argv)
    assert sentence.startswith(field) and said in sentence, sentence


@pytest.mark.parametrize(
    "family, said",
    [
        ("bert without a head", "no masked-language-model head"),
        ("gpt2", "has no masked-language-model head (it is a GPT2LMHeadModel)"),
    ],
)
def test_a_teacher_that_cannot_teach(family, said, capsys, tmp_path):
    sentence = refused(capsys, tmp_path / "runs", "--teacher.model", tiny.teacher(family))
    assert sentence.startswith("teacher.model: ") and said in sentence, sentence


def test_a_teacher_without_safetensors_weights(capsys, tmp_path):
    folder = tmp_path / "teacher"
    folder.mkdir()
    for entry in Path(tiny.teacher()).iterdir():
        if entry.suffix == ".json":
            (folder / entry.name).write_bytes(entry.read_bytes())
    assert "safetensors" in refused(capsys, tmp_path / "runs", "--teacher.model", str(folder))
    (folder / "model.safetensors").write_bytes(b"not safetensors at all")
    assert refused(capsys, tmp_path / "runs", "--teacher.model", str(folder)).startswith("teacher.model: ")
    (folder / "config.json").write_text("{ not json")
    assert refused(capsys, tmp_path / "runs", "--teacher.model", str(folder)).startswith("teacher.model: ")


def test_a_tokenizer_with_more_words_than_the_teacher_knows(capsys, tmp_path):
    folder = tmp_path / "tokenizer"
    tiny.tokenizer(70).save_pretrained(folder)
    sentence = refused(capsys, tmp_path / "runs", "--teacher.tokenizer", str(folder))
    assert sentence.startswith("teacher.tokenizer: ") and "75 words" in sentence and "64" in sentence


def test_a_padded_vocabulary_is_no_mistake(tmp_path):
    assert len(tiny.tokenizer()) == 60 and tiny.weights(Path(tiny.teacher()))["cls.predictions.bias"].shape == (64,)
    run = tiny.run(tmp_path, {"training.steps": "1"})
    assert tiny.weights(run / "student")["cls.predictions.bias"].shape == (64,)


CORPORA = {
    "empty": ("c.txt", b"", "corpus.sources", "empty"),
    "blank": ("c.txt", b"\n \n\n", "corpus.sources", "text"),
    "not UTF-8": ("c.txt", b"w1 w2 \xff\xfe w3\n" * 50, "corpus.sources", "UTF-8"),
    "not UTF-8 late in a long file": ("c.txt", b"w1 w2 w3 w4\n" * 200_000 + b"\xff\n", "corpus.sources", "UTF-8"),
    "without the column": ("c.jsonl", b'{"body": "w1 w2"}\n' * 9, "corpus.sources", "no column 'text'; its columns are body"),
    "shorter than one block": ("c.txt", b"w1 w2 w3\n", "corpus.length", "at most 5"),
    "a kind that is not read": ("c.pdf", b"w1 w2 w3\n", "corpus.sources", ".parquet"),
}


@pytest.mark.parametrize("case", CORPORA)
def test_a_corpus_that_cannot_be_read(case, capsys, tmp_path):
    name, content, field, said = CORPORA[case]
    (tmp_path / name).write_bytes(content)
    argv = ["--corpus.sources", f"[{tmp_path / name}]", "--corpus.cache", str(tmp_path / "cache")]
    sentence = refused(capsys, tmp_path / "runs", *argv)
    assert sentence.startswith(field) and said in sentence, sentence


def test_no_place_to_write(capsys, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for output in (tmp_path / "file", tmp_path / "file" / "runs"):
        assert main(["distill", tiny.recipe_file(), "--output", str(output)]) == 2
        assert capsys.readouterr().err.startswith("diito: output: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission_to_write(capsys, tmp_path):
    tmp_path.chmod(0o500)
    assert "cannot write in" in refused(capsys, tmp_path / "runs")


def test_a_recipe_with_an_unknown_key_names_the_nearest_and_the_line(capsys, tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("name: x\ntraining:\n  learning_rat: 1\n")
    assert main(["distill", str(recipe)]) == 2
    error = capsys.readouterr().err
    assert "training.learning_rat" in error and "did you mean training.learning_rate?" in error and "line 3" in error


def test_cosine_losses_refuse_models_of_different_widths():
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 20}
    student, teacher = (BertForMaskedLM(BertConfig(hidden_size=width, **sizes)) for width in (8, 12))
    alignment = Alignment.full(teacher_layers=2, student_layers=2)
    for name in ("cos", "causal_cos"):
        with pytest.raises(ValueError, match=rf"objective.weights.{name}: must be 0 .* \(8\) and teacher \(12\)"):
            DistillationObjective(student, teacher, alignment, weights={"mlm": 0.5, name: 0.5})
    weights = {"mlm": 0.5, "ce": 0.25, "causal_ce": 0.25}
    objective = DistillationObjective(student, teacher, alignment, weights=weights, special_ids=[])
    ids = torch.randint(5, 20, (3, 9))
    labels = torch.where(torch.arange(9) == 4, ids, -100)
    assert objective({"input_ids": ids, "labels": labels}, step=0)["loss"].isfinite()
