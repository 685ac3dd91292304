"""SQuAD: the two sources and their refusals, windows, labels, decoding against brute force and by hand, EM and F1 by hand."""

import collections
import gzip
import itertools
import json
import random
import re
import string
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tokenizer
from transformers import BertConfig, BertForQuestionAnswering

from diito.suites.squad import ANSWER, BEST, baseline, encode, score, span_logits, squad_task

TOKENIZER = tokenizer()
TOKENIZER.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
PARIS = "The tower is in Paris, the capital of France."
RIVER = "Rivers: the Rhine, the Elbe and a Danube."


def answers(context, *texts):
    return [{"text": text, "answer_start": context.index(text)} for text in texts]


def qas(name, context, *texts, question="Where?"):
    return {"id": name, "question": question, "answers": answers(context, *texts)}


def content(*paragraphs):
    """SQuAD's layout, an article a paragraph; ``paragraphs`` are pairs of a context and its questions."""
    articles = [{"title": "t", "paragraphs": [{"context": context, "qas": list(asked)}]} for context, asked in paragraphs]
    return {"version": "1.1", "data": articles}


TRAIN = content((PARIS, [qas("t1", PARIS, "Paris", question="  Where is the tower?")]))
DEV = content(
    (PARIS, [qas("d1", PARIS, "Paris", "in Paris", "Paris"), qas("d2", PARIS, "France")]),
    (RIVER, [qas("d3", RIVER, "the Rhine")]),
)


def folder(path, train=TRAIN, dev=DEV):
    path.mkdir(exist_ok=True)
    for name, value in (("train", train), ("dev", dev)):
        text = value if isinstance(value, str) else json.dumps(value)
        (path / f"{name}-v1.1.json").write_text(text, encoding="utf-8")
    return str(path)


def rows_of(*questions):
    """Rows of (context, gold text, its start); the ids are q0, q1, ..."""
    names = ["id", "question", "context", "texts", "starts"]
    made = [(f"q{n}", "w1 w2", context, [text], [start]) for n, (context, text, start) in enumerate(questions)]
    return datasets.Dataset.from_dict(dict(zip(names, map(list, zip(*made, strict=True)), strict=True)))


def features_of(rows, length, **options):
    keywords = {"tokenizer": TOKENIZER, "length": length, **options}
    return rows.map(encode, batched=True, remove_columns=rows.column_names, fn_kwargs=keywords)


def decoded_features(*windows):
    """Features as decoding reads them, from (example, offsets) pairs."""
    return datasets.Dataset.from_dict({"example": [w[0] for w in windows], "offsets": [w[1] for w in windows]})


# ----------------------------------------------------------------------------------------------------------- loading


def test_rows_of_a_folder(tmp_path):
    task = squad_task(folder(tmp_path))
    assert list(task.splits) == ["train", "dev"] and task.headline == "em" and task.labels is None and task.notes == ()
    assert task.splits["train"].to_list() == [
        {"id": "t1", "question": "  Where is the tower?", "context": PARIS, "texts": ["Paris"], "starts": [16]}
    ]
    assert task.splits["dev"]["id"] == ["d1", "d2", "d3"]
    assert task.splits["dev"]["texts"] == [["Paris", "in Paris", "Paris"], ["France"], ["the Rhine"]]
    assert task.splits["dev"]["starts"] == [[16, 13, 16], [38], [8]]


def test_compressed_files_are_read_as_well(tmp_path):
    place = folder(tmp_path)
    for name in ("train-v1.1.json", "dev-v1.1.json"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
        (tmp_path / name).unlink()
    assert len(squad_task(place).splits["dev"]) == 3


def test_the_hub_gives_the_same_rows_as_the_files(tmp_path, monkeypatch):
    def load(name, config, *, split):
        assert (name, config) == ("rajpurkar/squad", None)
        made = []
        for article in {"train": TRAIN, "validation": DEV}[split]["data"]:
            for paragraph in article["paragraphs"]:
                for asked in paragraph["qas"]:
                    gold = {key: [answer[key] for answer in asked["answers"]] for key in ("text", "answer_start")}
                    made.append({**asked, "title": "t", "context": paragraph["context"], "answers": gold})
        return datasets.Dataset.from_list(made)

    monkeypatch.setattr(datasets, "load_dataset", load)
    hub, local = squad_task(None).splits, squad_task(folder(tmp_path)).splits
    for split in ("train", "dev"):
        assert hub[split].to_list() == local[split].to_list() and hub[split].features == local[split].features


def test_another_dataset_of_the_hub_is_refused(monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.Dataset.from_dict({"text": ["a"]}))
    with pytest.raises(ValueError, match=r"^rajpurkar/squad, split train: 'answers' is missing or not a table"):
        squad_task(None)


def changed(**values):
    return content((PARIS, [{**qas("q7", PARIS, "Paris"), **values}]))


REFUSALS = {
    "broken": ('{"data": [', r"not JSON \(Expecting value: line 1 column 11.*\); give SQuAD v1\.1's own file$"),
    "a list": ("[]", r"'data' is missing or not a list"),
    "no paragraphs": ({"data": [{"title": "t"}]}, r"'paragraphs' is missing or not a list"),
    "no questions": ({"data": [{"paragraphs": [{"context": PARIS}]}]}, r"'qas' is missing or not a list"),
    "no id": (changed(id=None), r"'id' is missing or not a text"),
    "no question": (changed(question=None), r"question q7: 'question' is missing or not a text"),
    "no context": (
        {"data": [{"paragraphs": [{"qas": [{"id": "q7", "question": "?"}]}]}]},
        r"question q7: 'context' is missing",
    ),
    "answers of another kind": (changed(answers="Paris"), r"question q7: 'answers' is missing or not a list"),
    "no text": (changed(answers=[{"answer_start": 16}]), r"question q7: 'text' is missing or not a text"),
    "no start": (changed(answers=[{"text": "Paris"}]), r"question q7: 'answer_start' is missing or not a whole number"),
    "v2.0": (changed(answers=[]), r"question q7: no answer is given; every question of SQuAD v1\.1 has one"),
    "elsewhere": (
        changed(answers=[{"text": "Paris", "answer_start": 15}]),
        r"question q7: the answer 'Paris' does not stand in the context at its answer_start, 15$",
    ),
    "before": (
        changed(answers=[{"text": "France.", "answer_start": -7}]),
        r"question q7: the answer 'France\.' does not stand",
    ),
    "blank": (changed(answers=[{"text": " ", "answer_start": 3}]), r"question q7: the answer ' ' does not stand"),
    "twice": (content((PARIS, [qas("q7", PARIS, "Paris")] * 2)), r"the question id q7 comes twice"),
    "empty": (content(), r"holds no question"),
}


@pytest.mark.parametrize("split", ["train", "dev"])
@pytest.mark.parametrize("case", REFUSALS)
def test_bad_files_are_refused_in_one_sentence(tmp_path, case, split):
    value, sentence = REFUSALS[case]
    with pytest.raises(ValueError, match=rf"^\S*{split}-v1\.1\.json(:|,) {sentence}") as caught:
        squad_task(folder(tmp_path, **{split: value}))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"has no file train-v1\.1\.json .*SQuAD v1\.1"):
        squad_task(str(tmp_path))


# ---------------------------------------------------------------------------------------------------------- windows


def test_windows_by_hand():
    """Room 10 - 3 = 7: 2 of the question, 5 of the context, of which 2 are shared."""
    context = " ".join(f"w{n}" for n in range(10, 18))
    rows = {"id": ["x"], "question": ["  w1 w2"], "context": [context], "texts": [["w13 w14"]], "starts": [[12]]}
    made = encode(rows, TOKENIZER, 10, stride=2)
    w = 5  # the id of w0
    assert made["input_ids"] == [
        [2, w + 1, w + 2, 3, *range(w + 10, w + 15), 3],
        [2, w + 1, w + 2, 3, *range(w + 13, w + 18), 3],
    ]
    assert made["token_type_ids"] == [[0] * 4 + [1] * 6] * 2 and made["attention_mask"] == [[1] * 10] * 2
    assert made["example"] == ["x", "x"]
    none = [[-1, -1]]
    assert made["offsets"][0].tolist() == none * 4 + [[0, 3], [4, 7], [8, 11], [12, 15], [16, 19], [-1, -1]]
    assert made["offsets"][1].tolist() == none * 4 + [[12, 15], [16, 19], [20, 23], [24, 27], [28, 31], [-1, -1]]
    assert made["start_positions"] == [7, 4] and made["end_positions"] == [8, 5]


def test_an_answer_that_no_window_holds_points_at_the_class_token():
    context = " ".join(f"w{n}" for n in range(10, 18))
    straddling = features_of(rows_of((context, context[8:27], 8)), 10, stride=2)  # w12 to w16: no window has both ends
    assert straddling["start_positions"] == [0, 0] == straddling["end_positions"]
    in_one = features_of(rows_of((context, "w16", 24)), 10, stride=2)
    assert in_one["start_positions"] == [0, 7] == in_one["end_positions"]


def test_the_first_answer_is_trained_on_and_its_tokens_are_those_it_overlaps():
    rows = {"id": ["x"], "question": ["w1"], "context": ["w1 w22 w3"], "texts": [["2 w", "w3"]], "starts": [[5, 7]]}
    made = encode(rows, TOKENIZER, 20)
    assert (made["start_positions"], made["end_positions"]) == ([4], [5])  # [CLS] w1 [SEP] w1 w22 w3


def test_characters_that_the_tokenizer_drops_do_not_hide_an_answer():
    """The last window ends before the dropped \\x01, and the answer begins with a blank."""
    features = features_of(rows_of(("w1 w2 w3\x01", " w3\x01", 5)), 20)
    assert features["start_positions"] == [6] == features["end_positions"]
    assert features_of(rows_of(("w1 \x01", "\x01", 3)), 20)["start_positions"] == [0]
    rows = rows_of(("\x01", "\x01", 0))
    features = features_of(rows, 20)
    assert features["start_positions"] == [0]
    assert score(rows, features, [np.zeros((len(features["input_ids"][0]), 2), np.float32)]).predictions == {"q0": ""}


def test_a_long_question_is_cut_and_its_context_keeps_half_the_room():
    question = " ".join(["w9"] * 100)
    rows = {"id": ["x"], "question": [question], "context": [" ".join(["w8"] * 12)], "texts": [["w8"]], "starts": [[0]]}
    made = encode(rows, TOKENIZER, 11)  # room 8: 4 and 4, 2 of them shared
    assert [ids.count(14) for ids in made["input_ids"]] == [4] * 5
    assert [ids.count(13) for ids in made["input_ids"]] == [4] * 5
    assert encode(rows, TOKENIZER, 384)["input_ids"][0].count(14) == 64


def test_a_tokenizer_without_segments_gives_none():
    rows = {"id": ["x"], "question": ["w1"], "context": ["w1 w2"], "texts": [["w1"]], "starts": [[0]]}
    assert set(encode(rows, tokenizer(), 20)) == set(encode(rows, TOKENIZER, 20)) - {"token_type_ids"}


def test_no_room_is_refused():
    rows = {"id": ["x"], "question": ["w1"], "context": ["w1 w2"], "texts": [["w1"]], "starts": [[0]]}
    with pytest.raises(ValueError, match=r"^length: question and context need at least 5 tokens, not 4$"):
        encode(rows, TOKENIZER, 4)
    assert [len(ids) for ids in encode(rows, TOKENIZER, 5)["input_ids"]] == [5, 5]
    bare = tokenizer()
    bare.cls_token = None
    with pytest.raises(ValueError, match=r"^squad: the model's tokenizer must be a fast one"):
        encode(rows, bare, 20)


words = st.lists(st.sampled_from([f"w{n}" for n in range(55)] + ["?", "Üb", "zz", "w1,w2"]), min_size=1, max_size=60)


@settings(max_examples=100, deadline=None)
@given(words, words, st.integers(5, 60), st.integers(0, 40))
def test_windows_cover_every_token_of_the_context(context, question, length, stride):
    context = "  ".join(context)
    rows = {"id": ["x"], "question": [" ".join(question)], "context": [context], "texts": [["w"]], "starts": [[0]]}
    made = encode(rows, TOKENIZER, length, stride=stride)
    assert max(map(len, made["input_ids"])) <= length
    expected = TOKENIZER(context, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    held = [tuple(pair) for offsets in made["offsets"] for pair in offsets.tolist() if pair[0] >= 0]
    assert sorted(set(held)) == expected
    for ids, offsets in zip(made["input_ids"], made["offsets"], strict=True):
        assert len(ids) == len(offsets)
        assert [context[a:b].lower() for a, b in offsets if a >= 0] == [
            TOKENIZER.decode([token]) if token != 1 else context[a:b].lower()
            for token, (a, b) in zip(ids, offsets, strict=True)
            if a >= 0
        ]


# --------------------------------------------------------------------------------------------------------- decoding


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 70), st.integers(12, 50), st.integers(0, 20), st.data())
def test_perfect_logits_give_back_the_answer(count, length, stride, data):
    draws = random.Random(count * length)
    pieces = [f"w{draws.randrange(55)}" for _ in range(count)]
    first = data.draw(st.integers(0, count - 1))
    last = data.draw(st.integers(first, min(count, first + ANSWER) - 1))
    context, text = "  ".join(pieces), "  ".join(pieces[first : last + 1])
    start = len("  ".join(pieces[:first])) + 2 * (first > 0)
    rows = rows_of((context, text, start))
    features = datasets.Dataset.from_dict(encode(rows[:], TOKENIZER, length, stride=stride))
    logits = [np.zeros((len(ids), 2), np.float32) for ids in features["input_ids"]]
    held = False
    for window, (begin, end) in enumerate(zip(features["start_positions"], features["end_positions"], strict=True)):
        if begin:
            logits[window][begin, 0], logits[window][end, 1], held = 5, 5, True
        else:
            logits[window][0] = 50  # [CLS] is no answer
    if held:
        result = score(rows, features, logits)
        assert result.predictions == {"q0": text} and result.metrics == {"em": 100.0, "f1": 100.0}
    else:
        room = length - 3
        assert last - first > min(stride, (room - room // 2) // 2), "what is a token longer than the overlap is in some window"


def test_an_answer_in_a_later_window_is_found():
    """Room 12: 2 of the question, 10 of the context, 3 of them shared: windows from w0, w7, w14, w21, w28 and w35."""
    context = " ".join(f"w{n}" for n in range(40))
    rows = rows_of((context, "w38 w39", context.index("w38")))
    features = features_of(rows, 15, stride=3)
    assert features["start_positions"] == [0, 0, 0, 0, 0, 7] and features["end_positions"] == [0, 0, 0, 0, 0, 8]
    logits = [np.full((len(ids), 2), 1, np.float32) for ids in features["input_ids"]]
    logits[5][7, 0], logits[5][8, 1] = 3, 3
    assert score(rows, features, logits).predictions == {"q0": "w38 w39"}


def test_spans_by_hand():
    """The end is not before the start, and the best pair is not the pair of the best."""
    rows = rows_of(("aa bb cc", "bb", 3))
    features = decoded_features(("q0", [[-1, -1], [0, 2], [3, 5], [6, 8], [-1, -1]]))
    logits = [np.array([[9, 9], [0, 8], [1, 2], [6, 3], [9, 9]], np.float32)]
    # cc-cc 6+3 is the best; cc-aa 6+8 would be more but runs backwards.
    assert score(rows, features, logits).predictions == {"q0": "cc"}
    logits[0][3] = [4, 3]  # aa-aa 0+8 beats cc-cc 4+3
    assert score(rows, features, logits).predictions == {"q0": "aa"}
    logits[0][:] = 0  # among equals, the first
    assert score(rows, features, logits).predictions == {"q0": "aa"}


def test_at_most_thirty_tokens():
    context = " ".join(f"{n:02}" for n in range(40))
    offsets = [[3 * n, 3 * n + 2] for n in range(40)]
    rows, features = rows_of((context, "00", 0)), decoded_features(("q0", offsets))
    logits = [np.zeros((40, 2), np.float32)]
    logits[0][2, 0], logits[0][31, 1], logits[0][32, 1] = 5, 5, 6
    # 2 to 31 are 30 tokens, 10 in all; 2 to 32 would be 11 but are 31.
    assert score(rows, features, logits).predictions["q0"] == context[6:95]
    logits[0][31, 1] = 0.5  # 3 to 32: 0 + 6 is more than 2 to 31: 5 + 0.5
    assert score(rows, features, logits).predictions["q0"] == context[9:98]


def test_a_question_without_a_span_gets_an_empty_answer():
    rows = rows_of(("aa", "aa", 0), ("aa", "aa", 0), ("aa bb", "bb", 3))
    features = decoded_features(("q0", [[-1, -1], [-1, -1]]), ("q2", [[-1, -1], [3, 5]]))
    result = score(rows, features, [np.ones((2, 2), np.float32)] * 2)
    assert result.predictions == {"q0": "", "q1": "", "q2": "bb"} and result.metrics["em"] == pytest.approx(100 / 3)


def test_logits_that_are_not_numbers_are_refused():
    rows, features = rows_of(("aa", "aa", 0)), decoded_features(("q0", [[-1, -1], [0, 2]]))
    for wrong in (np.nan, np.inf):
        with pytest.raises(FloatingPointError, match=r"^squad: the model's logits are not all finite numbers"):
            score(rows, features, [np.array([[0, 0], [wrong, 0]], np.float32)])


def test_decoding_agrees_with_brute_force():
    """Against loops; more windows than are decoded at a time, of several sizes, and features in another order."""
    draws = np.random.default_rng(3)
    contexts = [" ".join(f"{n:02}" for n in range(size)) for size in draws.integers(1, 60, 900)]
    rows = rows_of(*((context, context[:2], 0) for context in contexts))
    made = []
    for number, context in enumerate(contexts):
        for _ in range(draws.integers(1, 5)):
            tokens = (len(context) + 1) // 3
            first = draws.integers(0, tokens)
            inside = [[3 * n, 3 * n + 2] for n in range(first, draws.integers(first, tokens) + 1)]
            made.append((f"q{number}", [[-1, -1]] * draws.integers(0, 4) + inside + [[-1, -1]]))
    features = decoded_features(*made).shuffle(seed=1)
    assert len(features) > 2_000
    logits = [draws.standard_normal((len(offsets), 2)).astype(np.float32) for offsets in features["offsets"]]
    best = {}
    for name, offsets, scores in zip(features["example"], features["offsets"], logits, strict=True):
        inside = [token for token, pair in enumerate(offsets) if pair[0] >= 0]
        starts = sorted(inside, key=lambda token: -scores[token, 0])[:BEST]
        ends = sorted(inside, key=lambda token: -scores[token, 1])[:BEST]
        for start, end in itertools.product(starts, ends):
            if start <= end < start + ANSWER:
                total = float(scores[start, 0]) + float(scores[end, 1])
                if total > best.get(name, (-np.inf,))[0]:
                    best[name] = (total, offsets[start][0], offsets[end][1])
    expected = {f"q{n}": context[best[f"q{n}"][1] : best[f"q{n}"][2]] for n, context in enumerate(contexts)}
    assert score(rows, features, logits).predictions == expected


# ---------------------------------------------------------------------------------------------------------- metrics


def scored(*pairs):
    """The metrics of (answer, gold answers) pairs, each answer being the whole context."""
    names = [f"q{n}" for n in range(len(pairs))]
    columns = {"id": names, "context": [p[0] for p in pairs], "texts": [p[1] for p in pairs]}
    features = decoded_features(*((name, [[0, len(p[0])]]) for name, p in zip(names, pairs, strict=True)))
    return score(datasets.Dataset.from_dict(columns), features, [np.zeros((1, 2), np.float32)] * len(pairs)).metrics


@pytest.mark.parametrize(
    ("answer", "gold", "em", "f1"),
    [
        ("The Rhine", ["rhine"], 100, 100),
        ("an  apple\tpie!", ["Apple pie"], 100, 100),
        ("U.S.A.", ["usa"], 100, 100),
        ("anthem", ["them"], 0, 0),  # an article is a whole word
        ("Rhine river", ["the Rhine"], 0, 200 / 3),  # 1 of 2 and 1 of 1
        ("Rhine river", ["Elbe", "river", "a Rhine River"], 100, 100),  # the best of the gold answers
        ("b b c", ["b c d d"], 0, 400 / 7),  # b and c: 2 of 3 and 2 of 4
    ],
)
def test_scores_by_hand(answer, gold, em, f1):
    assert scored((answer, gold)) == pytest.approx({"em": em, "f1": f1}, abs=1e-5)


def test_metrics_are_the_mean_of_the_questions_scores():
    """An independent count in Python's floats, over enough questions for a float32 sum to drift."""
    draws = random.Random(4)
    vocabulary = ["the", "Rhine,", "elbe", "a", "X.Y", "an", "Danube"]

    def some():
        return " ".join(draws.choices(vocabulary, k=draws.randint(1, 6))) + " end"

    pairs = [(some(), [some() for _ in range(draws.randint(1, 3))]) for _ in range(1_500)]

    def bag(text):
        kept = "".join(character for character in text.lower() if character not in string.punctuation)
        return re.sub(r"\b(a|an|the)\b", " ", kept).split()

    def f1(one, other):
        shared = sum((collections.Counter(one) & collections.Counter(other)).values())
        return 2 * shared / (len(one) + len(other))

    em_mean = sum(any(bag(answer) == bag(text) for text in gold) for answer, gold in pairs) / len(pairs)
    f1_mean = sum(max(f1(bag(answer), bag(text)) for text in gold) for answer, gold in pairs) / len(pairs)
    assert scored(*pairs) == pytest.approx({"em": 100 * em_mean, "f1": 100 * f1_mean}, abs=1e-5)


def test_baseline_is_the_first_three_words(tmp_path):
    """'tower is', 'tower is' and 'Rivers Rhine' after the articles; only 'the Rhine' has a word of it: F1 of 1/2 and 1."""
    splits = squad_task(folder(tmp_path)).splits
    assert baseline(splits["train"], splits["dev"]) == pytest.approx({"em": 0, "f1": 100 * (2 / 3) / 3}, abs=1e-5)


# ------------------------------------------------------------------------------------------------------ a whole turn


def test_a_tiny_model_learns_where_answers_are(tmp_path):
    """Through a task's own parts: encode, collate, a few steps, predict, decode; the answer is the only w7 of a context."""
    draws = random.Random(0)
    paragraphs = []
    for number in range(24):
        pieces = [f"w{draws.randrange(8, 55)}" for _ in range(draws.randint(5, 30))]
        pieces[draws.randrange(len(pieces))] = "w7"
        paragraphs.append((" ".join(pieces), [qas(f"q{number}", " ".join(pieces), "w7", question="w1 w2 w3")]))
    task = squad_task(folder(tmp_path, train=content(*paragraphs), dev=content(*paragraphs)))
    rows = task.splits["dev"]
    keywords = {"tokenizer": TOKENIZER, "length": 22}
    features = rows.map(task.encode, batched=True, remove_columns=rows.column_names, fn_kwargs=keywords)
    assert len(features) > len(rows)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {
            "vocab_size": 64,
            "max_position_embeddings": 64,
            "hidden_dropout_prob": 0.0,
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
        }
        model = BertForQuestionAnswering(BertConfig(**sizes))
        collate = task.collator(TOKENIZER)
        labelled = features.select_columns([*task.model_inputs, "start_positions", "end_positions"])
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
        for _ in range(30):
            optimizer.zero_grad()
            model(**collate(labelled.to_list())).loss.backward()
            optimizer.step()
    model.eval()
    logits = []
    for first in range(0, len(features), 8):
        batch = collate(features.select_columns(list(task.model_inputs))[first : first + 8])
        with torch.no_grad():
            made = task.logits(model(**batch))
        assert made.shape == (*batch["input_ids"].shape, 2)
        logits += [row[mask.bool()].numpy() for row, mask in zip(made, batch["attention_mask"], strict=True)]
    result = task.score(rows, features, logits)
    assert set(result.predictions) == set(rows["id"]) and result.metrics["em"] > 90
    assert json.loads(json.dumps(result.predictions)) == result.predictions


def test_span_logits_are_start_and_end():
    output = SimpleNamespace(start_logits=torch.tensor([[1.0, 2.0, 3.0]]), end_logits=torch.tensor([[4.0, 5.0, 6.0]]))
    assert span_logits(output).tolist() == [[[1, 4], [2, 5], [3, 6]]]
