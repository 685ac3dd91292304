"""Models by name: what is told from a configuration alone."""

import re

import pytest
from huggingface_hub import constants
from transformers import AutoModelForCausalLM, BertConfig, GPT2Config

from diito.models import load
from diito.models.load import ModelSource, check_trained, digest, load_configuration
from diito.refusal import Refusal


def test_a_head_is_known_by_the_class_that_loads_it(tmp_path):
    source = ModelSource(str(tmp_path))
    config = GPT2Config(architectures=["GPT2LMHeadModel"])
    config.save_pretrained(tmp_path)
    check_trained(source, AutoModelForCausalLM, noun="causal language model")
    config.architectures = ["GPT2ForSequenceClassification"]
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="it is a GPT2ForSequenceClassification"):
        check_trained(source, AutoModelForCausalLM, noun="causal language model")


@pytest.mark.parametrize("revision", [None, "main", "old"])
def test_a_model_of_the_hub_is_known_by_its_commit(revision, tmp_path, monkeypatch):
    commits = {"main": "a" * 40, "old": "b" * 40}
    cache = tmp_path / "models--some--teacher"
    (cache / "refs").mkdir(parents=True)
    for name, commit in commits.items():
        (cache / "refs" / name).write_text(commit)
        BertConfig().save_pretrained(cache / "snapshots" / commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(load, "load_configuration", lambda source: None)  # which reads the cache that was set at the start
    assert digest(ModelSource("some/teacher", revision=revision)) == commits[revision or "main"]


def test_a_file_or_a_folder_around_the_model_is_said_to_be_one(tmp_path):
    GPT2Config().save_pretrained(tmp_path / "student")
    (tmp_path / "text.txt").write_text("some words")
    (tmp_path / "empty").mkdir()
    for name, sentence in (
        (tmp_path, f"has no config.json; did you mean {str(tmp_path / 'student')!r}?"),
        (tmp_path / "empty", "has no config.json; give the folder that holds the model's files"),
        (tmp_path / "text.txt", "is a file; give the folder that holds the model's files, or a hub id"),
    ):
        with pytest.raises(Refusal, match=f"^MODEL: .*{re.escape(sentence)}"):
            load_configuration(ModelSource(str(name), "MODEL"))
