"""Nothing leaks: what a user or the hub may put a secret into, and that it is in no file, sentence or log afterwards."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from diito import cli
from diito.experiments.folders import JobFolder
from diito.files import append_json_line, write_json
from diito.refusal import Refusal
from diito.run.distill import distill
from diito.run.folder import RunFolder
from diito.secrets import redact

TOKEN = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz012345678"
KEY = "0123456789abcdef" * 2
URL = f"https://someone:pass-w0rd@host/file.txt?X-Amz-Signature={KEY}&X-Amz-Date=20260101"
SECRETS = [TOKEN, KEY, "pass-w0rd"]
PLAIN = [
    "iia at layers [2, 3] → 0.5; seed=1, tokens=4096",
    "hf_custom_losses_of_mine:huber and task-of-a-name-that-is-longer-than-32-letters",
    '{"token": "the", "key": "value", "hub_token": null, "special_tokens": "[MASK]"}',
    "https://huggingface.co/google-bert/bert-base-uncased/resolve/main/config.json?download=true",
    "hub_token: null\ntokenizer: null\nseed: 1\n",
    "0123456789abcdef0123456789abcdef01234567",  # a commit
    "someone@example.org, at 10:30@home",
]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"log in with {TOKEN}.", "log in with REDACTED."),
        (URL, "https://REDACTED@host/file.txt?X-Amz-Signature=REDACTED&X-Amz-Date=REDACTED"),
        (f"https://host/a?b=1&sig={KEY}#c", "https://host/a?b=1&sig=REDACTED#c"),
        (f"https://{TOKEN}@host/a", "https://REDACTED@host/a"),
        (f"<a href='https://host/a?b=1&amp;token={KEY}'>", "<a href='https://host/a?b=1&amp;token=REDACTED'>"),
        (f'{{"hub_token": "{KEY}", "a": 1}}', '{"hub_token": "REDACTED", "a": 1}'),
        (f"training:\n  hub_token: {KEY}\n  a: 1", "training:\n  hub_token: REDACTED\n  a: 1"),
        (f"WANDB_API_KEY={KEY} diito distill", "WANDB_API_KEY=REDACTED diito distill"),
        (f"authorization: Bearer {KEY}", "authorization: Bearer REDACTED"),
        ("ghp_" + "a1" * 18, "REDACTED"),
        ("AKIA" + "A1" * 8, "REDACTED"),
        *((text, text) for text in PLAIN),
    ],
)
def test_secrets_show_by_their_form_and_nothing_else_is_changed(text, left):
    assert redact(text) == left
    assert redact(left) == left


def test_the_values_of_variables_that_hold_secrets_are_known_whatever_their_form(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("SSH_KEY", str(tmp_path))  # where it is, not what it is
    assert redact(f"{KEY} {tmp_path}") == f"REDACTED {tmp_path}"


def test_whatever_is_written_or_refused_or_logged_goes_through_it(tmp_path, caplog):
    write_json(tmp_path / "a.json", {"address": URL, "inner": [TOKEN]})
    append_json_line(tmp_path / "b.jsonl", {"address": URL})
    JobFolder(tmp_path).add_attempt({"command": ["--x", TOKEN]})
    cli.main(["--version"])
    logging.getLogger("a.library").warning("retrying %s", URL)
    refusal = Refusal(URL, f"{TOKEN} is not found")
    said = [str(refusal), refusal.sentence, refusal.field, caplog.text]
    for text in [*said, *(path.read_text() for path in tmp_path.iterdir())]:
        assert "REDACTED" in text and not any(secret in text for secret in SECRETS)
    assert json.loads((tmp_path / "a.json").read_text())["inner"] == ["REDACTED"]


def test_a_traceback_goes_through_it():
    program = f"from diito.secrets import guard_output; guard_output(); raise OSError('{URL}')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "OSError: https://REDACTED@host" in done.stderr
    assert "pass-w0rd" not in done.stderr.partition("OSError: ")[2]


def test_a_run_leaves_no_secret(tmp_path, monkeypatch, capfd):
    """In the command line, in variables, in fields that take any text: none is in the run's files or on the screen."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(sys, "argv", ["diito", "distill", "r.yaml", "--x", URL, f"--password={KEY}"])
    arguments = {"project": URL, "hub_model_id": TOKEN, "trackio_space_id": KEY}
    changes = {"training.arguments": arguments, "training.steps": 1, "training.save_every": 1}
    tiny.run(tmp_path, changes)
    made = tiny.recipe(tmp_path, changes)
    assert distill(made, resume=True) == 0  # its recipe and manifest are those that were written
    RunFolder(made).start(resume=True)
    said = capfd.readouterr()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 12 and (tmp_path / "tiny" / "resumes.jsonl") in files
    for content in [said.out.encode(), said.err.encode(), *map(Path.read_bytes, files)]:
        assert not any(secret.encode() in content for secret in SECRETS)
    assert not [path.name for path in files if path.name == "training_args.bin"]  # a pickle, with the token in it


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("training.hub_token", TOKEN),
        ("teacher.model", URL),
        ("teacher.tokenizer", URL),
        ("corpus.sources", URL),
        ("evaluation.sources", URL),
        ("alignment.file", URL),
        ("task", TOKEN),
        ("training.max_steps", TOKEN),
        (TOKEN, "1"),
    ],
)
def test_a_refusal_repeats_no_secret(field, value, tmp_path, capsys):
    changes = ["--alignment.kind", "custom"] if field == "alignment.file" else []
    code = cli.main(["distill", tiny.recipe_file(), "--output", str(tmp_path), f"--{field}", value, *changes])
    said = capsys.readouterr().err
    assert code == 2 and said.startswith("diito: ") and not any(secret in said for secret in SECRETS)


def test_a_recipe_holds_no_token(capsys):
    assert cli.main(["distill", tiny.recipe_file(), "--training.hub_token", KEY]) == 2
    said = capsys.readouterr().err
    assert "training.hub_token: " in said and "hf auth login" in said and "HF_TOKEN" in said and KEY not in said
