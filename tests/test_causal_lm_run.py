"""Decoders from a recipe to a student that generates, and the commands that measure it."""

import json
import math
import shutil

import decoders
import pytest
import tiny
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from diito import cli
from diito.run.distill import distill

TEXT = ["--workers", "1", "--cache", str(tiny.FOLDER / "cache"), "--length", "16"]


@pytest.mark.parametrize(
    ("family", "layout"),
    [
        ("qwen3", "blocks"),
        ("mamba", "lines"),
        pytest.param("llama", "apart", marks=pytest.mark.soak),
        pytest.param("gpt2", "lines", marks=pytest.mark.soak),
        pytest.param("olmoe", "blocks", marks=pytest.mark.soak),
    ],
)
def test_a_student_is_distilled_resumed_and_generates(family, layout, tmp_path):
    overrides = {"training.save_steps": 3, "training.save_total_limit": 5}
    overrides |= {"corpus.document_boundaries": "true"} if layout == "apart" else {"corpus.layout": layout}
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    assert distill(decoders.recipe(straight, overrides, family=family)) == 0
    shutil.copytree(straight, stopped)
    for folder in (stopped / "tiny" / "student", stopped / "tiny" / "checkpoints" / "checkpoint-6"):
        shutil.rmtree(folder)
    assert distill(decoders.recipe(stopped, overrides, family=family), resume=True) == 0
    assert tiny.same(*(tiny.weights(each / "tiny" / "student") for each in (straight, stopped)))

    folder = straight / "tiny" / "student"
    student, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    generated = student.generate(**tokenizer("w1 w2", return_tensors="pt"), max_new_tokens=3, do_sample=False)
    assert generated.shape[1] > 3 and student.config.num_hidden_layers == 2
    results = json.loads((straight / "tiny" / "results.json").read_text())
    assert {"perplexity", "bits_per_byte", "iia"} <= results["after"].keys() and results["before"] != results["after"]
    card = (folder / "README.md").read_text()
    assert "pipeline_tag: text-generation" in card and "at unswapped next tokens" in card


def test_perplexity_of_blocks_and_windows_equals_a_loop_by_hand(tmp_path):
    model = decoders.build("gpt2", 2, seed=2)
    model.save_pretrained(tmp_path / "model")
    decoders.tokenizer(adds_bos=False).save_pretrained(tmp_path / "model")
    words = [int(word) for word in torch.randint(0, tiny.WORDS, (64,), generator=torch.Generator().manual_seed(1))]
    (tmp_path / "text.txt").write_text(" ".join(f"w{word}" for word in words) + "\n")
    ids = torch.tensor([[word + 3 for word in words]])

    def measure(*flags):
        file = tmp_path / "results.json"
        flags = [*flags, "--sources", str(tmp_path / "text.txt"), "--output", str(file), "--again", "true"]
        assert cli.main(["evaluate", "perplexity", str(tmp_path / "model"), *TEXT, *flags]) == 0
        return json.loads(file.read_text())["measurements"][-1]["result"]

    def nats(begin, first):
        """Of the tokens of the window at ``begin`` from its ``first`` on."""
        window = ids[:, begin : begin + 16]
        logits = model(input_ids=window).logits
        return F.cross_entropy(logits[0, :-1], window[0, 1:], reduction="none")[first - 1 :]

    with torch.no_grad():
        blocks = torch.cat([nats(begin, 1) for begin in range(0, 64, 16)])
        windows = torch.cat([nats(0, 1), *(nats(begin, 12) for begin in range(4, 49, 4))])
    result = measure()
    assert result["perplexity"] == pytest.approx(blocks.mean().exp().item(), rel=1e-5) and result["tokens"] == 60
    strided = measure("--stride", "4")
    assert strided["perplexity"] == pytest.approx(windows.mean().exp().item(), rel=1e-5) and strided["tokens"] == 63
    spelled = [" ".join(f"w{word}" for word in words[begin + 1 : begin + 16]) for begin in range(0, 64, 16)]
    size = sum(map(len, spelled))
    assert result["bytes"] == size
    assert result["bits_per_byte"] == pytest.approx(blocks.sum().item() / math.log(2) / size, rel=1e-5)


def test_a_decoder_is_measured_and_aligned_by_its_own_head(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    student, teacher = decoders.teacher("llama", layers=2), decoders.teacher("llama")
    text = [*TEXT, "--sources", tiny.corpus(20), "--limit", "4"]
    assert cli.main(["evaluate", "interchange", student, "--teacher", teacher, *text]) == 0
    assert "nothing swapped in either model: the same answer at" in capsys.readouterr().out
    assert cli.main(["align", teacher, student, *text]) == 0
    assert (tmp_path / "alignment.yaml").is_file()
    capsys.readouterr()
    for flags, sentence in (
        (["--positions", "masked"], "--positions: masked swaps masked tokens, and here none is masked"),
        (["--task", "masked-lm"], "has no masked-language-model head (it is a LlamaForCausalLM)"),
    ):
        assert cli.main(["evaluate", "interchange", student, "--teacher", teacher, *text, *flags]) == 2
        assert sentence in capsys.readouterr().err
    assert cli.main(["evaluate", "perplexity", tiny.teacher(), *text, "--stride", "4"]) == 2
    assert "--stride: belongs to blocks of causal-lm" in capsys.readouterr().err


def test_the_starting_recipe_of_the_task_runs_on_another_teacher(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["init", "causal-lm"]) == 0
    recipe = (tmp_path / "my-distillation.yaml").read_text()
    assert "task: causal-lm" in recipe and "masking:" not in recipe and "a teacher of the hub" in recipe
    assert "column: messages}" in recipe and "# assistant_only_loss: true" in recipe and "# continuations: 3" in recipe
    flags = ["--teacher.model", decoders.teacher("gpt2"), "--student.layers", "2", "--corpus.length", "16", "--plan"]
    flags += ["--evaluation.length", "16", "--corpus.sources", tiny.corpus(), "--evaluation.sources", tiny.corpus(20)]
    assert cli.main(["distill", "my-distillation.yaml", *flags, "--corpus.cache", str(tiny.FOLDER / "cache")]) == 0
    assert "gpt2, 2 layers" in capsys.readouterr().out
