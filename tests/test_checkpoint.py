"""The checkpoint is the model that runs: what is set right, and what is refused in one sentence, a case for each kind."""

import argparse
import errno
import json
import re
import shutil
from pathlib import Path

import decoders
import pytest
import tiny
import torch
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer, BertTokenizer

import diito
from diito import cli
from diito.models import load
from diito.models.failures import explain
from diito.models.load import ModelSource, load_head, load_masked_language_model, load_tokenizer, noted

INPUTS = {"input_ids": torch.arange(5, 14).view(1, 9)}


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(tiny.teacher(), tmp_path / "model")
    return tmp_path / "model"


def rename(folder, change):
    """Every tensor under the name that ``change`` gives it; None leaves it out."""
    named = {change(name): value for name, value in load_file(folder / "model.safetensors").items()}
    named = {name: value.contiguous() for name, value in named.items() if name is not None}
    save_file(named, folder / "model.safetensors", metadata={"format": "pt"})


def configure(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(folder, read=load_masked_language_model):
    with pytest.raises(diito.Refusal) as caught:
        read(ModelSource(str(folder)))
    assert caught.value.field == "MODEL" and "\n" not in caught.value.sentence
    return caught.value.sentence


def with_new_head(source):
    return load_head(source, AutoModelForSequenceClassification, ("a", "b"))


@torch.no_grad()
def logits(model):
    return model.eval()(**INPUTS).logits


# ---------------------------------------------------------------------------------------------------- set right, and said

NAMES = {
    "DDP": lambda name: f"module.{name}",
    "compiled in DDP": lambda name: f"module._orig_mod.{name}",
    "compiled layers": lambda name: re.sub(r"(layer\.\d+)", r"\1._orig_mod", name),
    "somebody's class": lambda name: f"model.{name}",
    "DDP, TensorFlow's norms": lambda name: f"module.{name}".replace("LayerNorm.weight", "LayerNorm.gamma"),
    "head of another name": lambda name: name.replace("cls.predictions", "mlm_head"),
}


@pytest.mark.parametrize("change", NAMES.values(), ids=NAMES)
def test_other_names_of_the_same_weights_are_read_and_left_behind(folder, change, tmp_path):
    expected = logits(AutoModelForMaskedLM.from_pretrained(folder))
    rename(folder, change)
    with noted() as notes:
        model = load_masked_language_model(ModelSource(str(folder)))
    assert torch.equal(logits(model), expected) and notes
    model.save_pretrained(tmp_path / "again")
    assert all(name.startswith(("bert.", "cls.")) for name in load_file(tmp_path / "again" / "model.safetensors"))


def test_a_bare_body_in_a_wrapper_takes_a_new_head(folder, tmp_path):
    torch.manual_seed(0)
    plain = with_new_head(ModelSource(str(folder)))
    rename(folder, lambda name: f"module.{name.removeprefix('bert.')}" if name.startswith("bert.") else None)
    torch.manual_seed(0)
    assert torch.equal(logits(with_new_head(ModelSource(str(folder)))), logits(plain))
    assert "has no masked-language-model head" in refusal(folder)


LEFT = {
    "return_dict": False,
    "output_attentions": True,
    "output_hidden_states": True,
    "is_decoder": True,
    "problem_type": "regression",
    "use_cache": False,
}


@pytest.mark.parametrize("name", LEFT)
def test_what_a_run_left_in_the_configuration_changes_nothing(folder, name):
    expected = logits(load_masked_language_model(ModelSource(str(folder))))
    configure(folder, **{name: LEFT[name]})
    with noted() as notes:
        model = load_masked_language_model(ModelSource(str(folder)))
    assert torch.equal(logits(model), expected)
    assert [note.split(":")[0] for note in notes] == ([name] if name != "use_cache" else [])
    assert diito.get_values(model, INPUTS, [3])[3].shape == (1, 9, 16)
    assert with_new_head(ModelSource(str(folder))).config.problem_type is None


def test_an_untied_head_of_transformers_4_keeps_its_bias(folder):
    configure(folder, tie_word_embeddings=False)
    weights = load_file(folder / "model.safetensors")
    decoder = {"cls.predictions.decoder.weight": torch.randn(64, 16)}
    save_file(weights | decoder, folder / "model.safetensors", metadata={"format": "pt"})
    model = load_masked_language_model(ModelSource(str(folder)))
    assert torch.equal(model.cls.predictions.decoder.bias, weights["cls.predictions.bias"])
    student = diito.build_student(model, 2)
    assert torch.equal(student.cls.predictions.decoder.weight, decoder["cls.predictions.decoder.weight"])


def test_a_head_of_its_own_is_kept_although_the_configuration_ties_it(folder):
    weights = load_file(folder / "model.safetensors")
    own = {"cls.predictions.decoder.weight": torch.randn(64, 16), "cls.predictions.decoder.bias": torch.zeros(64)}
    save_file(weights | own, folder / "model.safetensors", metadata={"format": "pt"})
    model = load_masked_language_model(ModelSource(str(folder)))
    assert not model.config.tie_word_embeddings
    assert torch.equal(model.cls.predictions.decoder.weight, own["cls.predictions.decoder.weight"])


def test_token_types_that_the_model_does_not_have_are_not_given(folder):
    BertTokenizer(vocab=AutoTokenizer.from_pretrained(folder).get_vocab()).save_pretrained(folder)
    assert "token_type_ids" in load_tokenizer(ModelSource(str(folder)))("w1", "w2")
    configure(folder, type_vocab_size=1)
    with noted() as notes:
        assert "token_type_ids" not in load_tokenizer(ModelSource(str(folder)))("w1", "w2")
    assert notes == ["its tokenizer gives 2 token types and the model knows one, which all tokens get"]


def test_a_pickle_of_tensors_is_read_with_a_warning(folder):
    expected = logits(load_masked_language_model(ModelSource(str(folder))))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with noted() as notes:
        assert torch.equal(logits(load_masked_language_model(ModelSource(str(folder)))), expected)
    assert notes == ["its weights are a pickle, of which only tensors are read; safetensors would be safer"]


# ------------------------------------------------------------------------------------------------------------- refused


def relative(folder):
    distances = {f"bert.encoder.layer.{layer}.attention.self.distance_embedding.weight": torch.ones(9, 8) for layer in range(4)}
    save_file(load_file(folder / "model.safetensors") | distances, folder / "model.safetensors", metadata={"format": "pt"})


def not_finite(folder):
    weights = load_file(folder / "model.safetensors")
    weights["bert.encoder.layer.1.output.dense.weight"][0, :3] = float("inf")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def pickled(folder):
    torch.save({**load_file(folder / "model.safetensors"), "args": argparse.Namespace()}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def cut_short(folder):
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-9])


REFUSED = {
    "fewer layers": (lambda folder: configure(folder, num_hidden_layers=2), "has 2 layers by its configuration and 4 in its"),
    "more layers": (lambda folder: configure(folder, num_hidden_layers=6), "has 6 layers by its configuration and 4 in its"),
    "other sizes": (
        lambda folder: configure(folder, intermediate_size=48),
        "is 32 in its weights and 48 by its configuration",
    ),
    "relative positions": (relative, "holds 4 tensors that transformers' BertForMaskedLM does not read"),
    "another family": (lambda folder: rename(folder, lambda name: name.replace("bert.", "roberta.")), "begin with roberta."),
    "a tensor less": (
        lambda folder: rename(folder, lambda name: None if name.endswith("layer.1.output.dense.bias") else name),
        "lacks 1 of the tensors of its body: bert.encoder.layer.1.output.dense.bias",
    ),
    "not finite": (not_finite, "3 in bert.encoder.layer.1.output.dense.weight"),
    "quantised": (
        lambda folder: configure(folder, quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True}),
        "is quantised (bitsandbytes)",
    ),
    "own code": (
        lambda folder: configure(folder, model_type="mine", auto_map={"AutoConfig": "mine.Mine"}),
        "it needs code that comes with it, which diito never runs",
    ),
    "another type": (lambda folder: configure(folder, model_type="mine"), "knows no model of the type mine"),
    "pickled objects": (pickled, "its weights are a pickle that holds an object of argparse.Namespace"),
    "cut short": (cut_short, "its file of weights is cut short or damaged"),
    "git LFS": (
        lambda folder: (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "model.safetensors is a pointer of git LFS",
    ),
    "web page": (
        lambda folder: (folder / "config.json").write_text("\n<!DOCTYPE html><html></html>"),
        "config.json is a web page",
    ),
    "nested too deep": (lambda folder: (folder / "config.json").write_text("[" * 100_000), "nested too deep"),
    "half a file": (lambda folder: (folder / "config.json").write_text('{"a": '), "a JSON file of it is damaged"),
    "adapter": (lambda folder: (folder / "adapter_config.json").write_text("{}"), "is an adapter"),
}


@pytest.mark.parametrize(("change", "words"), REFUSED.values(), ids=REFUSED)
def test_another_model_than_the_checkpoint_never_runs(folder, change, words):
    change(folder)
    assert words in refusal(folder)
    assert words.replace("ForMaskedLM", "ForSequenceClassification") in refusal(folder, with_new_head)


TOKENIZERS = {
    "newer": (
        {"tokenizer.json": lambda text: text.replace('"WordPiece"', '"SuperPiece"')},
        "does not read, mostly a newer one",
    ),
    "git LFS": ({"tokenizer.json": lambda text: "version https://git-lfs.github.com/spec/v1\n"}, "tokenizer.json is a pointer"),
    "damaged": ({"tokenizer.json": lambda text: text[:100]}, "a JSON file of it is damaged"),
}


@pytest.mark.parametrize(("changes", "words"), TOKENIZERS.values(), ids=TOKENIZERS)
def test_a_tokenizer_that_cannot_be_read(folder, changes, words):
    for name, change in changes.items():
        (folder / name).write_text(change((folder / name).read_text()))
    assert words in refusal(folder, load_tokenizer)


def raised(error, cause=None):
    error.__cause__ = cause
    return explain(error).reason


def test_what_libraries_raise_is_told_apart_by_its_cause(monkeypatch):
    cache = Path(constants.HF_HUB_CACHE) / "models--a"
    assert raised(ModuleNotFoundError("No module named 'fugashi'", name="fugashi")).endswith("pip install fugashi")
    assert "the package bitsandbytes" in raised(
        ImportError("Using 8-bit requires bitsandbytes: `pip install -U bitsandbytes>=0.46`")
    )
    assert "the package fugashi" in raised(
        ModuleNotFoundError("You need to install fugashi to use MecabTokenizer. See https://")
    )
    assert "sentencepiece" in raised(ValueError("You need to have sentencepiece or tiktoken installed to convert a tokenizer"))
    assert raised(OSError("Can't load it"), OSError(errno.ENOSPC, "No space left on device")).startswith("the disk is full")
    assert raised(OSError("Can't load it"), PermissionError(errno.EACCES, "denied", str(cache))).startswith("the cache ")
    assert "cannot be read" in raised(PermissionError(errno.EACCES, "Permission denied", "/home/me/model/config.json"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert "the hub cannot be reached" in raised(OSError("We couldn't connect"), LocalEntryNotFoundError("no"))
    assert raised(RuntimeError("first line\n\n  the part that helps")) == "first line the part that helps"


def test_a_fault_of_the_program_is_no_refusal(folder, monkeypatch):
    def fail(*arguments, **keywords):
        raise TypeError("ours")

    monkeypatch.setattr(load.checkpoint, "report_fault", fail)
    with pytest.raises(TypeError, match="ours"):
        load_masked_language_model(ModelSource(str(folder)))


# ---------------------------------------------------------------------------------------------------------- diito check


def test_check_says_what_a_model_is(folder, capsys):
    configure(folder, output_attentions=True)
    assert cli.main(["check", str(folder)]) == 0
    said = capsys.readouterr().out
    for words in ("bert (BertForMaskedLM)", "4 layers, 16 wide, 64 words", "ids up to 59", "mask [MASK]", "[CLS] … [SEP]"):
        assert words in said
    for words in ("64 tokens", "layer by layer", "set right  output_attentions: true", "result     can be distilled"):
        assert words in said


def test_check_finds_the_task_from_the_head(capsys):
    decoder = decoders.teacher("gpt2")
    assert cli.main(["check", decoder]) == 0
    said = capsys.readouterr().out
    assert "causal language model" in said and f"diito distill RECIPE --task causal-lm --teacher.model {decoder}" in said
    assert cli.main(["check", decoder, "--task", "masked-lm"]) == 2
    assert "has no masked-language-model head" in capsys.readouterr().err


def test_check_refuses_everything_at_once(folder, capsys):
    configure(folder, num_hidden_layers=2)
    other = tiny.teacher(words=80, vocabulary=96)
    assert cli.main(["check", str(folder), "--tokenizer", other]) == 2
    captured = capsys.readouterr()
    assert "result" not in captured.out
    assert [line.split(":")[1] for line in captured.err.splitlines() if line.startswith("diito:")] == [" --tokenizer", " MODEL"]
