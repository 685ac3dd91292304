"""``diito evaluate harness``: lm-eval on a model folder, with a task that needs no network."""

import importlib.util
import json

import chats
import decoders
import pytest
import tiny
import torch

from diito import cli

needs_lm_eval = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed")

TASK = """
task: next_word
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/words.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{label}}}}"
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1.0}}
"""
ROWS = [
    {"question": f"w{number} w{number + 1}", "choices": [f"w{number + 2}", f"w{number + 7}"], "label": number % 2}
    for number in range(6)
]


def test_without_lm_eval_it_is_said_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.main(["evaluate", "harness", decoders.teacher(), "--tasks", "[next_word]"]) == 2
    assert "lm_eval is not installed; install it with: pip install 'diito[harness]'" in capsys.readouterr().err


@needs_lm_eval
def test_a_task_of_ones_own_is_scored_as_by_hand(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "next_word.yaml").write_text(TASK.format(folder=tmp_path / "tasks"))
    chats.write(tmp_path / "tasks" / "words.jsonl", ROWS)
    output = tmp_path / "results.json"
    folder = chats.teacher("llama", layers=2)
    flags = ["--include_path", str(tmp_path / "tasks"), "--device", "cpu", "--output", str(output)]
    command = ["evaluate", "harness", folder, "--tasks", "[next_word]", *flags]
    assert cli.main(command) == 0
    (measured,) = json.loads(output.read_text())["measurements"]
    model, tokenizer = decoders.build("llama", 2, seed=2), chats.tokenizer()
    right = 0
    for row in ROWS:
        with torch.no_grad():
            logits = model(**tokenizer(row["question"], return_tensors="pt")).logits[0, -1]
        words = [tokenizer.convert_tokens_to_ids(word) for word in row["choices"]]
        right += int(logits[words].argmax()) == row["label"]
    assert measured["result"]["tasks"]["next_word"]["acc,none"] == pytest.approx(right / len(ROWS))
    assert measured["result"]["examples"] == {"next_word": 6} and len(measured["examples"]["next_word"]) == 6
    capsys.readouterr()
    assert cli.main(command) == 0
    said = capsys.readouterr()
    assert "in " in said.err and "already" in said.err and "next_word  acc" in said.out
    assert cli.main(["evaluate", "harness", tiny.teacher(), "--tasks", "[next_word]", *flags]) == 2
    assert "has no causal-language-model head" in capsys.readouterr().err


@needs_lm_eval
@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ([], "--tasks: name some, such as"),
        (["--tasks", "[next_word]", "--include_path", "nowhere"], "--include_path: 'nowhere' is no folder"),
        (["--tasks", "[next_word]", "--limit", "0"], "--limit: 0 must be at least 1"),
    ],
)
def test_what_cannot_be_right_is_refused(flags, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["evaluate", "harness", decoders.teacher(), *flags]) == 2
    assert sentence in capsys.readouterr().err
