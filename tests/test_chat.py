"""Conversations, and prompts with completions: what is predicted, what is packed, what a swap reaches, and how runs go."""

import dataclasses
import json
import shutil

import chats
import datasets
import decoders
import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F

from diito import cli, get_values
from diito.method.draws import generator
from diito.method.positions import NAMED_RULES
from diito.method.swaps import SwapDraws
from diito.models.padding import real_positions
from diito.recipe import CorpusSection, SourceSection
from diito.refusal import Refusal
from diito.run.distill import distill
from diito.run.parts import survey
from diito.tasks import find_task
from diito.tasks.causal_lm import NextTokens

TASK = find_task("causal-lm")
WORDS = {name: index for index, name in enumerate(chats.PIECES)} | {f"w{n}": n + 6 for n in range(chats.WORDS)}


def ids(text):
    return [WORDS[word] for word in text.split()]


def section(path, tmp_path, *, prompt=None, column="messages", **fields):
    sources = [SourceSection(path=path, column=column, prompt=prompt)]
    return CorpusSection(**{"layout": "lines", "length": 32, "workers": 1, **fields}, sources=sources, cache=str(tmp_path))


def rows_of(rows, tmp_path, *, template=chats.PLAIN, name="data.jsonl", **fields):
    """What is made of the rows of a file."""
    corpus = TASK.load_rows(
        section(chats.write(tmp_path / name, rows), tmp_path, **fields), tokenizer=chats.tokenizer(template), seed=0
    )
    return corpus, [{name: value.tolist() for name, value in corpus[index].items()} for index in range(len(corpus))]


# ------------------------------------------------------------------------------------------------- what is predicted


@pytest.mark.parametrize("template", [chats.PLAIN, chats.MARKED])
def test_what_the_assistant_says_is_predicted_and_nothing_else(template, tmp_path):
    _, (row,) = rows_of([{"messages": chats.say("w1 w2", "w3", "w4", "w5 w6")}], tmp_path, template=template)
    assert row["input_ids"] == ids("user: w1 w2 assistant: w3 </s> user: w4 assistant: w5 w6 </s>")
    assert row["assistant_masks"] == [0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1]


def test_marks_are_read_as_transformers_reads_them(tmp_path):
    messages = chats.say("w1 w2", "w3", "w4", "w5 w6")
    _, (row,) = rows_of([{"messages": messages}], tmp_path, template=chats.MARKED)
    theirs = chats.tokenizer(chats.MARKED).apply_chat_template(messages, return_assistant_tokens_mask=True)
    assert row == {name: list(theirs[name]) for name in ("input_ids", "assistant_masks")}
    spaced = chats.MARKED.replace("' </s>' }}", "' </s> ' }}")  # the last character of an answer is of no token
    _, (same,) = rows_of([{"messages": messages}], tmp_path, template=spaced)
    assert same == row


def test_slots_stand_before_the_tokens_that_are_predicted(tmp_path):
    corpus, _ = rows_of([{"messages": chats.say("w1 w2", "w3", "w4", "w5 w6")}], tmp_path)
    batch = NextTokens(1).batch({name: value[None] for name, value in corpus[0].items()}, generator=torch.Generator())
    used = batch["slots"][0] >= 0
    assert batch["slots"][0][used].tolist() == [3, 4, 8, 9, 10]
    assert batch["labels"][0][used].tolist() == ids("w3 </s> w5 w6 </s>")
    assert batch["swappable"][0].tolist() == [True] * 11 + [False], "what stands before an answer changes it"
    assert "assistant_masks" not in batch


def test_a_completion_and_the_token_that_ends_it_are_predicted(tmp_path):
    rows = [{"prompt": "w1 w2 ", "completion": "w3 w4"}]
    _, (row,) = rows_of(rows, tmp_path, prompt="prompt", column="completion")
    assert row == {"input_ids": ids("w1 w2 w3 w4 </s>"), "assistant_masks": [0, 0, 1, 1, 1]}
    tokenizer = decoders.tokenizer()  # which begins texts with <s>
    path = chats.write(tmp_path / "text.jsonl", rows)
    given = section(path, tmp_path, prompt="prompt", column="completion")
    begun = TASK.load_rows(given, tokenizer=tokenizer, seed=0)[0]
    assert begun["input_ids"][[0, -1]].tolist() == [0, 1] and begun["assistant_masks"].tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("template", [chats.PLAIN, chats.MARKED])
def test_of_prompts_that_are_messages_the_answers_behind_them_are_predicted(template, tmp_path):
    rows = [{"prompt": chats.say("w1", "w2", "w3"), "completion": [{"role": "assistant", "content": "w4"}]}]
    _, (row,) = rows_of(rows, tmp_path, template=template, prompt="prompt", column="completion")
    assert row["input_ids"] == ids("user: w1 assistant: w2 </s> user: w3 assistant: w4 </s>")
    assert row["assistant_masks"] == [0] * 8 + [1, 1]


def test_all_of_a_conversation_is_predicted_where_that_is_asked_for(tmp_path):
    rows = [{"messages": chats.say("w1 w2", "w3")}]
    _, (row,) = rows_of(rows, tmp_path, assistant_only_loss=False, template=chats.FORGETFUL)
    assert row == {"input_ids": ids("user: w1 w2 assistant: w9 w3"), "assistant_masks": [1] * 6}


def test_a_token_that_holds_any_of_an_answer_is_predicted(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"ab": 0, "</s>": 1, "c": 2, "<unk>": 3}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")
    path = chats.write(tmp_path / "data.jsonl", [{"prompt": "c a", "completion": "b c"}])
    row = TASK.load_rows(section(path, tmp_path, prompt="prompt", column="completion"), tokenizer=tokenizer, seed=0)[0]
    assert row["input_ids"].tolist() == [2, 0, 2, 1] and row["assistant_masks"].tolist() == [0, 1, 1, 1]


def test_what_is_too_long_is_cut_and_what_has_no_answer_left_is_dropped_and_both_are_said(tmp_path):
    rows = [
        {"messages": chats.say("w1", "w2", "w3", "w4 w5 w6 w7")},
        {"messages": chats.say("w1 w2 w3 w4 w5 w6 w7 w8", "w9")},
        {"messages": [{"role": "user", "content": "w1"}]},
        {"messages": []},
    ]
    corpus, made = rows_of(rows, tmp_path, length=8)
    assert [row["input_ids"] for row in made] == [ids("user: w1 assistant: w2 </s> user: w3 assistant:")]
    said = corpus.statistics.describe()
    assert "1 ends of conversations longer than a sequence" in said
    assert "2 conversations without an answer in what is kept" in said and "labels: 2 of 8 tokens are predicted" in said


def test_conversations_of_parquet_and_of_several_processes_are_those_of_a_text_file(tmp_path):
    path = tmp_path / "data.parquet"
    datasets.Dataset.from_json(chats.conversations(), cache_dir=str(tmp_path / "hf")).to_parquet(path)
    tokenizer = chats.tokenizer()
    corpora = [
        TASK.load_rows(section(str(each), tmp_path, workers=workers), tokenizer=tokenizer, seed=0)
        for each, workers in ((chats.conversations(), 1), (path, 2))
    ]
    assert len({corpus.digest() for corpus in corpora}) == 1 and len(corpora[0]) == 60


def test_the_tokenised_conversations_depend_on_the_template_and_on_what_is_predicted(tmp_path):
    given = section(chats.conversations(), tmp_path)
    everything = dataclasses.replace(given, assistant_only_loss=False)
    digests = {
        TASK.load_rows(each, tokenizer=chats.tokenizer(template), seed=0).digest()
        for each, template in ((given, chats.PLAIN), (everything, chats.PLAIN), (given, chats.PLAIN.replace("</s>", "w0")))
    }
    assert len(digests) == 3
    assert TASK.load_rows(given, tokenizer=chats.tokenizer(), seed=0).digest() in digests


# ------------------------------------------------------------------------------------------------- blocks


def test_whole_conversations_share_a_block_and_the_rest_of_it_is_padding(tmp_path):
    rows = [{"messages": chats.say(" ".join(["w1"] * words), "w2")} for words in (6, 1, 2, 3)]  # 10, 5, 6 and 7 tokens
    corpus, made = rows_of(rows, tmp_path, layout="blocks", length=16)
    assert [row["documents"] for row in made] == [[0] * 10 + [1] * 6, [0] * 5 + [1] * 7 + [-1] * 4]
    assert made[1]["input_ids"] == ids("user: w1 assistant: w2 </s> user: w1 w1 w1 assistant: w2 </s>") + [1] * 4
    assert corpus.documents.tolist() == [0, 1] and "18" not in corpus.statistics.answers
    assert "8 of 28 tokens are predicted, 4 others are padding" in corpus.statistics.describe()
    batch = NextTokens(1).batch({name: value[None] for name, value in corpus[1].items()}, generator=torch.Generator())
    assert batch["position_ids"].tolist() == [[*range(5), *range(7), *range(4)]]
    assert batch["slots"][0][batch["slots"][0] >= 0].tolist() == [2, 3, 9, 10]
    assert batch["swappable"][0].nonzero().flatten().tolist() == [*range(4), *range(5, 11)]
    assert real_positions(batch).sum() == 12


def test_conversations_in_a_block_do_not_see_each_other(tmp_path):
    rows = [{"messages": chats.say("w1 w2 w3", "w4 w5")}, {"messages": chats.say("w6", "w7 w8")}]
    corpus, _ = rows_of(rows, tmp_path, layout="blocks", length=20)
    row = {name: value[None] for name, value in corpus[0].items()}
    batch = NextTokens(1).batch(row, generator=torch.Generator())
    model = decoders.build("qwen3")
    together = get_values(model, {name: batch[name] for name in ("input_ids", "position_ids")}, [2])[2]
    for number in (0, 1):
        own = row["documents"] == number
        alone = get_values(model, {"input_ids": row["input_ids"][own][None]}, [2])[2]
        torch.testing.assert_close(together[own][None], alone)


def test_the_padding_of_blocks_is_never_swapped_nor_read_nor_counted(tmp_path):
    rows = [{"messages": chats.say("w1 w2 w3", "w4")}, {"messages": chats.say("w1", "w2 w3")}]
    corpus, _ = rows_of(rows, tmp_path, layout="blocks", length=8)
    from diito.corpus import collate
    from diito.method.slots import slots_and_labels

    rows = collate(corpus.__getitems__([0, 1]), pad_token_id=1)
    assert (rows["documents"] < 0).any()
    batch = NextTokens(1).batch(rows, generator=torch.Generator())
    draws = SwapDraws(rule=NAMED_RULES["random"], pairing=lambda count, _: torch.tensor([1, 0]), share=1.0, specials=True)
    swap = draws.draw(batch, generator("swap", 0))
    real = real_positions(batch)
    assert swap.positions.any() and not (swap.positions & ~(real & real[[1, 0]])).any()
    assert (slots_and_labels(batch, tokens="all")[0] >= 0).sum() == real.sum()


def test_packing_leaves_little_padding_and_loses_nothing():
    from diito.corpus.packing import _fill

    sizes = np.random.default_rng(0).integers(3, 60, 500).tolist()
    blocks = _fill(sizes, 100)
    assert sorted(index for block in blocks for index in block) == list(range(500))
    assert max(sum(sizes[index] for index in block) for block in blocks) <= 100
    assert sum(sizes) > 0.95 * 100 * len(blocks)


# ------------------------------------------------------------------------------------------------- prefix-end


def test_the_end_of_a_prefix_is_the_last_token_before_the_first_answer_is_predicted(tmp_path):
    rows = [{"messages": chats.say("w1 w2", "w3 w4", "w5", "w6")}, {"messages": chats.say("w7 w8 w9", "w3")}]
    corpus, _ = rows_of(rows, tmp_path)
    from diito.corpus import collate

    batch = NextTokens(1).batch(collate(corpus.__getitems__([0, 1]), pad_token_id=1), generator=torch.Generator())
    assert [row[row >= 0][0].item() for row in batch["slots"]] == [3, 4], "the answer is predicted from 'assistant:'"
    draws = SwapDraws(
        rule=NAMED_RULES["prefix-end"],
        pairing=lambda count, _: torch.tensor([1, 0]),
        share=0.3,
        special_ids=TASK.special_ids(chats.tokenizer()),
    )
    swap = draws.draw(batch, generator("swap", 0))
    assert [row.nonzero().flatten().tolist() for row in swap.positions] == [[2], [3]], "the last words of the questions"
    reach = TASK.reach(batch["slots"], swap.positions)
    assert torch.equal(reach, batch["slots"] >= 0), "such a swap can change every answer"


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({}, "corpus.layout: prefix-end swaps one token of a row"),
        ({"corpus.assistant_only_loss": "false"}, "prefix-end swaps before the first predicted token, and here all tokens"),
        (
            {"corpus.layout": "lines", "evaluation.sources": "[held-out.txt]"},
            "evaluation.sources: prefix-end is measured on conversations",
        ),
    ],
)
def test_prefix_end_is_refused_where_there_is_no_prefix(overrides, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "held-out.txt").write_text("w1 w2\n")
    with pytest.raises(ValueError) as error:
        survey(chats.recipe(tmp_path, {"intervention.positions": "prefix-end", **overrides}))
    assert sentence in str(error.value)


# ------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("template", "messages", "sentence"),
    [
        (None, chats.say("w1", "w2"), "teacher.tokenizer: .* has no chat template, which messages need"),
        (chats.FORGETFUL, chats.say("w1", "w2", "w3", "w4"), "line 1: the chat template writes the first 2 messages otherwise"),
        (chats.PLAIN, [{"role": "user"}], r"corpus.sources: .*line 1: the chat template does not take it \("),
        (chats.PLAIN, "w1", r"line 1: column 'messages' holds str, where a list of messages"),
        (
            chats.PLAIN,
            [{"from": "human", "value": "w1"}],
            r"'messages' holds list, where a list of messages, each {role,",
        ),
    ],
)
def test_what_is_no_conversation_for_the_tokenizer_is_refused(template, messages, sentence, tmp_path):
    with pytest.raises(Refusal, match=sentence):
        rows_of([{"messages": messages}], tmp_path, template=template)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"corpus.sources": "[{path: data.jsonl, column: messages}, text.txt]"}, "corpus.sources[1]: holds text, and other"),
        (
            {"corpus.sources": "[{path: text.txt, column: messages}]"},
            "is plain text without columns; give a .jsonl or",
        ),
        ({"corpus.sources": "[{path: empty.jsonl, column: messages}]"}, "holds no conversation; give a file that holds some"),
        ({"corpus.sources": "[{path: data.jsonl, prompt: prompt}]"}, "has no column 'prompt'; its columns are messages"),
        (
            {"corpus.sources": "[text.txt]", "corpus.assistant_only_loss": "false"},
            "corpus.assistant_only_loss: belongs",
        ),
        (
            {"task": "masked-lm", "corpus.sources": "[{path: data.jsonl, prompt: a}]", "evaluation.sources": "[]"},
            "corpus.sources[0].prompt: belongs to causal-lm",
        ),
    ],
)
def test_what_cannot_be_right_is_refused(overrides, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("w1 w2\n")
    chats.write(tmp_path / "data.jsonl", [{"messages": chats.say("w1", "w2")}])
    chats.write(tmp_path / "empty.jsonl", [{"messages": None}])
    with pytest.raises(ValueError) as error:
        survey(chats.recipe(tmp_path, overrides))
    assert sentence in str(error.value)


def test_a_model_that_cannot_keep_conversations_apart_takes_lines_alone(tmp_path):
    mamba = decoders.build("mamba")
    with pytest.raises(Refusal, match=r"corpus.layout: blocks hold several .*, and a mamba looks back .*; give lines"):
        TASK.check_model(mamba, chats.recipe(tmp_path))
    TASK.check_model(mamba, chats.recipe(tmp_path, {"corpus.layout": "lines"}))


def test_what_is_left_of_no_conversation_is_refused(tmp_path):
    with pytest.raises(Refusal, match=r"corpus.length: no conversation is left: in 1 the first 4 tokens hold nothing"):
        rows_of([{"messages": chats.say("w1 w2 w3 w4", "w5")}], tmp_path, length=4)


# ------------------------------------------------------------------------------------------------- runs


@pytest.mark.parametrize(
    ("family", "overrides"),
    [
        ("llama", {"evaluation.continuations": "2"}),
        pytest.param("gpt2", {"corpus.layout": "lines", "intervention.positions": "prefix-end"}, marks=pytest.mark.soak),
        pytest.param("mamba", {"corpus.layout": "lines"}, marks=pytest.mark.soak),
        pytest.param("olmoe", {"intervention.pairing": "independent"}, marks=pytest.mark.soak),
    ],
)
def test_a_student_learns_to_answer_is_resumed_and_measured(family, overrides, tmp_path):
    overrides = {**overrides, "training.save_steps": 3, "training.save_total_limit": 5}
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    assert distill(chats.recipe(straight, overrides, family=family)) == 0
    shutil.copytree(straight, stopped)
    for folder in (stopped / "tiny" / "student", stopped / "tiny" / "checkpoints" / "checkpoint-6"):
        shutil.rmtree(folder)
    assert distill(chats.recipe(stopped, overrides, family=family), resume=True) == 0
    assert tiny.same(*(tiny.weights(each / "tiny" / "student") for each in (straight, stopped)))
    results, again = (json.loads((each / "tiny" / "results.json").read_text()) for each in (straight, stopped))
    said = results.get("continuations", [])
    assert len(said) == int(overrides.get("evaluation.continuations", 0)) and said == again.get("continuations", [])
    assert all(each["prompt"].endswith("assistant:") and each["teacher"] != each["student"] for each in said)
    assert {"perplexity", "bits_per_byte", "iia"} <= results["after"].keys() and results["before"] != results["after"]


def test_students_learn_under_swaps_at_the_end_of_a_question(tmp_path):
    given = {
        "corpus.layout": "lines",
        "intervention.positions": "prefix-end",
        "training.steps": "1",
        "evaluation.sources": "[]",
    }
    assert distill(chats.recipe(tmp_path, given, family="gpt2")) == 0
    (line,) = tiny.metrics(tmp_path / "tiny")
    assert line["causal_ce"] > 0


def test_perplexity_of_answers_equals_a_loop_by_hand(tmp_path, capsys):
    folder, output = chats.teacher("llama", layers=2), tmp_path / "results.json"
    rows = [chats.say("w1 w2", "w3", "w4", "w5 w6"), chats.say("w7", "w8 w9 w10")]
    path = chats.write(tmp_path / "data.jsonl", [{"messages": each} for each in rows])
    flags = ["--length", "16", "--workers", "1", "--cache", str(tmp_path), "--output", str(output)]
    sources = ["--sources", f"[{{path: {path}, column: messages}}]"]
    assert cli.main(["evaluate", "perplexity", folder, *sources, *flags]) == 0
    measured = json.loads(output.read_text())["measurements"][0]
    model, tokenizer = decoders.build("llama", 2, seed=2), chats.tokenizer(chats.MARKED)
    nats = []
    for messages in rows:
        encoded = tokenizer.apply_chat_template(messages, return_tensors="pt", return_assistant_tokens_mask=True)
        tokens = encoded["input_ids"][0]
        with torch.no_grad():
            losses = F.cross_entropy(model(input_ids=tokens[None]).logits[0, :-1], tokens[1:], reduction="none")
        nats.append(losses[torch.as_tensor(encoded["assistant_masks"]).flatten()[1:] > 0])
    expected = torch.cat(nats)
    assert measured["result"]["tokens"] == len(expected) == 9 and measured["result"]["documents"] == 2
    assert measured["result"]["perplexity"] == pytest.approx(expected.mean().exp().item(), rel=1e-5)
    assert cli.main(["evaluate", "perplexity", folder, *sources, *flags, "--assistant_only_loss", "false"]) == 0
    assert json.loads(output.read_text())["measurements"][1]["result"]["tokens"] == 17
    assert cli.main(["evaluate", "perplexity", folder, *sources, *flags, "--stride", "4"]) == 2
    assert "--stride: belongs to blocks of causal-lm, and conversations are lines" in capsys.readouterr().err
    student = chats.teacher("llama", layers=2)
    more = ["--sources", f"[{{path: {chats.conversations(20)}, column: messages}}]", "--teacher", chats.teacher("llama")]
    measure = ["evaluate", "interchange", student, *flags, "--positions", "prefix-end", "--limit", "3"]
    assert cli.main([*measure, *more]) == 0
    assert cli.main([*measure, *more[2:], "--sources", tiny.corpus(20)]) == 2
    assert "--positions: prefix-end swaps before the first predicted token" in capsys.readouterr().err
