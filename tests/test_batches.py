"""Whatever is measured, how many examples go together and how they are padded decides nothing."""

import dataclasses
import functools
import json
import shutil

import classifiers
import datasets
import numpy as np
import pytest
import sweep
import tiny
import torch
from models import masking
from test_fine_tuning import task
from transformers import AutoModelForSequenceClassification, DataCollatorForTokenClassification, DataCollatorWithPadding
from transformers.models.auto import modeling_auto

from diito.evaluation.fine_tuning.train import predict
from diito.evaluation.held_out.classification import predict as predict_held_out
from diito.evaluation.held_out.perplexity import token_losses
from diito.evaluation.held_out.text import HeldOut
from diito.models.load import ModelSource, load_tokenizer, load_trained, noted
from diito.refusal import Refusal
from diito.suites.squad import span_logits
from diito.tasks.causal_lm import NextTokens
from diito.tasks.sequence_classification import Answering

LENGTHS = (9, 17, 11, 13, 9, 12, 10, 15)


@functools.cache
def model_of(family, head):
    return sweep.tiny_model(family, head)


@pytest.fixture(autouse=True)
def questions(monkeypatch):
    """The sweep's models with a fifth head."""
    names = modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES
    monkeypatch.setitem(sweep.HEADS, "question answering", names)


class Rows:
    """Rows of several lengths."""

    def __init__(self, lengths):
        draws = torch.Generator().manual_seed(1)
        self.rows = [torch.randint(6, 60, (length,), generator=draws) for length in lengths]
        self.lengths, self.documents = np.array(lengths), np.arange(len(lengths))

    def __len__(self):
        return len(self.rows)

    def __getitems__(self, indices):
        return [{"input_ids": self.rows[index]} for index in indices]


@pytest.mark.parametrize(
    ("head", "family"),
    [
        *(("sequence classification", family) for family in ("bert", "deberta-v2", "qwen3", "fnet", "mobilebert", "xlnet")),
        *(("token classification", family) for family in ("modernbert", "gpt2", "funnel")),
        *(("question answering", family) for family in ("roberta", "convbert")),
    ],
)
def test_predictions_of_a_fine_tuned_model(head, family):
    model = model_of(family, head)
    tokenizer = tiny.tokenizer()
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(model.config.pad_token_id)
    ids = [row.tolist() for row in Rows(LENGTHS).rows]
    columns = {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids], "length": list(LENGTHS)}
    collator = DataCollatorWithPadding
    if head == "token classification":
        columns["labels"], collator = [[0] * len(row) for row in ids], DataCollatorForTokenClassification
    measured = task(collator=collator, model_inputs=("input_ids", "attention_mask"))
    if head == "question answering":
        measured = dataclasses.replace(measured, logits=span_logits)
    features = datasets.Dataset.from_dict(columns)
    one, three, all_of_them = (predict(measured, model, features, tokenizer, batch=batch) for batch in (1, 3, 8))
    for alone, *together in zip(one, three, all_of_them, strict=True):
        assert all(np.allclose(alone, each, atol=1e-4 * np.abs(alone).max()) for each in together)


@pytest.mark.parametrize(("head", "family"), [("masked LM", "fnet"), ("causal LM", "gpt2")])
def test_perplexity(head, family):
    batching = NextTokens(0, tokenizer=tiny.tokenizer()) if head == "causal LM" else masking(0.3)
    text = HeldOut(Rows(LENGTHS), batching, seed=5)
    sums = [token_losses(model_of(family, head), dataclasses.replace(text, batch=batch)).losses for batch in (1, 3, 8)]
    assert all(np.allclose(each, sums[0], rtol=1e-4) for each in sums)


@pytest.mark.parametrize("family", ["qwen3", "convbert", "xlnet"])
def test_answers_of_a_classifier(family):
    model = model_of(family, "sequence classification")
    text = HeldOut(Rows(LENGTHS), Answering(model.config.pad_token_id), seed=5)
    found = [predict_held_out(model, dataclasses.replace(text, batch=batch)).logits for batch in (1, 3, 8)]
    assert all(np.allclose(each, found[0], atol=1e-4 * np.abs(found[0]).max()) for each in found)


@pytest.mark.parametrize("written", [None, 5])
def test_a_head_looks_for_the_padding_of_its_tokenizer(written, tmp_path):
    folder = shutil.copytree(classifiers.teacher("qwen3"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": written}))
    with noted() as notes:
        model = load_trained(ModelSource(str(folder)), AutoModelForSequenceClassification, noun="sequence classifier")
    (note,) = notes
    assert note.startswith(f"pad_token_id: {written} in its configuration is taken as")
    assert model.config.pad_token_id == load_tokenizer(ModelSource(str(folder))).pad_token_id


def test_padding_that_would_count_as_words_is_refused(tmp_path):
    folder = shutil.copytree(classifiers.teacher("roberta"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": 7}))
    with pytest.raises(Refusal, match=r"pads with \[PAD\] \(id 0\), but the model counts positions from its pad_token_id, 7"):
        load_tokenizer(ModelSource(str(folder), "MODEL"))
