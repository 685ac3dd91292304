"""Greedy continuations of held-out text by teacher and student, side by side."""

import chats
import decoders
import pytest
import tiny
import torch

from diito.evaluation.held_out.continuations import NEW, continuations
from diito.evaluation.held_out.text import HeldOut
from diito.recipe import CorpusSection, SourceSection
from diito.tasks import find_task

TASK = find_task("causal-lm")


def held_out(tokenizer, tmp_path, source, **fields):
    section = CorpusSection(sources=[source], workers=1, cache=str(tmp_path), **fields)
    corpus = TASK.load_rows(section, tokenizer=tokenizer, seed=0)
    return HeldOut(corpus, TASK.held_out_batching(tokenizer=tokenizer, vocab_size=decoders.WORDS), seed=0)


def greedy(model, ids, count):
    """What transformers generates."""
    prompt = torch.tensor([ids])
    said = model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=count, do_sample=False)
    return said[0, len(ids) :].tolist()


@pytest.mark.parametrize("family", ["gpt2", "mamba"])
def test_each_model_says_what_transformers_would_generate(family, tmp_path):
    tokenizer = decoders.tokenizer()
    text = held_out(tokenizer, tmp_path, tiny.corpus(20), length=16)
    models = {"teacher": decoders.build(family, 2, seed=1), "student": decoders.build(family, 1, seed=2).train()}
    said = continuations(models, text, tokenizer, 2)
    assert len(said) == 2 and models["student"].training and not models["teacher"].training
    half = len(text.examples) // 2
    for number, each in zip((0, half), said, strict=True):
        ids = text.corpus[number]["input_ids"].tolist()
        assert each["prompt"] == tokenizer.decode(ids[:8], skip_special_tokens=True)
        assert each["text"] == tokenizer.decode(ids[8:], skip_special_tokens=True)
        for name, model in models.items():
            expected = greedy(model.eval(), ids[:8], NEW)
            assert each[name] == tokenizer.decode(expected, skip_special_tokens=True).strip(), name


def test_a_question_is_the_prompt_and_its_answer_the_text(tmp_path):
    tokenizer = chats.tokenizer()
    path = chats.write(tmp_path / "data.jsonl", [{"messages": chats.say("w1 w2", "w3 w4", "w5", "w6")}])
    source = SourceSection(path=path, column="messages")
    text = held_out(tokenizer, tmp_path, source, length=32, layout="lines")
    model = decoders.build("llama", 2)
    (said,) = continuations({"student": model}, text, tokenizer, 3)
    assert said["prompt"] == "user: w1 w2 assistant:" and said["text"] == "w3 w4"
    ids = text.corpus[0]["input_ids"].tolist()[:4]
    assert said["student"] == tokenizer.decode(greedy(model, ids, NEW), skip_special_tokens=True).strip()


def test_a_text_that_leaves_no_room_is_passed_over(tmp_path):
    tokenizer = chats.tokenizer()
    words = " ".join(["w1"] * 60)
    path = chats.write(tmp_path / "data.jsonl", [{"messages": chats.say(words, "w3 w4 w5")}])
    text = held_out(tokenizer, tmp_path, SourceSection(path=path, column="messages"), length=64, layout="lines")
    (said,) = continuations({"student": decoders.build("gpt2", 1)}, text, tokenizer, 1)
    assert len(said["student"].split()) <= 2 and said["text"] == "w3 w4", "62 of 64 positions are the question's"
