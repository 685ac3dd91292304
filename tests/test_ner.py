"""Named-entity recognition: reading columns, IOB1 and IOB2, which piece carries a word's tag, and the scores."""

import gzip
import re
import warnings

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModelForTokenClassification,
    BertConfig,
    BertForTokenClassification,
    CanineTokenizer,
    DataCollatorForTokenClassification,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
)

from diito.suites.ner import HUB, encode, ner_task, read_columns, scheme, to_iob2

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "un", "##able", "##s", "able", "rome", "a", "b", "##a", "##b", "."]
PAD, UNK, CLS, SEP, MASK, UN, ABLE_, S_, ABLE, ROME, A, B, A_, B_, DOT = range(len(PIECES))
NOTHING = "\u200b"  # a zero-width space: BERT's normaliser drops it
LABELS = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")


def word_pieces(**keywords):
    backend = Tokenizer(models.WordPiece({piece: index for index, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", SEP), ("[CLS]", CLS))
    specials = {"unk": "[UNK]", "pad": "[PAD]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    named = {f"{name}_token": piece for name, piece in specials.items()}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **named, **keywords)


TOKENIZER = word_pieces(model_input_names=["input_ids", "token_type_ids", "attention_mask"])


@pytest.fixture
def write(tmp_path):
    """Write a training and a development file; the folder."""

    def write(train="a B-LOC\n", dev="a B-LOC\n", names=("train.txt", "dev.txt")):
        for name, content in zip(names, (train, dev), strict=True):
            content = content if isinstance(content, bytes) else content.encode()
            (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return str(tmp_path)

    return write


# -------------------------------------------------------------------------------------------------------- column files


CONLL = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O
German JJ B-NP B-MISC

Peter NNP B-NP B-PER
Blackburn NNP I-NP I-PER
"""
READ = [(["EU", "rejects", "German"], ["B-ORG", "O", "B-MISC"]), (["Peter", "Blackburn"], ["B-PER", "I-PER"])]
TWO = "EU B-ORG\nrejects O\nGerman B-MISC\n\nPeter B-PER\nBlackburn I-PER\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("four columns", CONLL),
        ("two columns", TWO),
        ("no last line end", TWO.rstrip("\n")),
        ("tabs", CONLL.replace(" ", "\t")),
        ("several spaces, some at the ends", CONLL.replace(" ", "   ").replace("\n", "  \n")),
        ("CRLF", CONLL.replace("\n", "\r\n")),
        ("byte order mark", "\ufeff" + CONLL),
        ("blank lines", "\n\n" + CONLL.replace("\n\n", "\n \t\n\n") + "\n\n\n"),
        ("no line between the documents", CONLL.replace("\n\nPeter", "\n-DOCSTART-\nPeter")),
    ],
)
def test_sentences_of_column_files(tmp_path, name, content):
    path = tmp_path / "train.txt"
    path.write_bytes(content.encode())
    assert read_columns(path) == READ
    path = tmp_path / "train.txt.gz"
    path.write_bytes(gzip.compress(content.encode()))
    assert read_columns(path) == READ


def test_only_tabs_separate_where_there_is_one(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text("New York\tNNP\tB-LOC\n\xa0\tX\tO\nAT&T \t \tB-ORG\n", encoding="utf-8")
    assert read_columns(path) == [(["New York", "\xa0", "AT&T"], ["B-LOC", "O", "B-ORG"])]


MALFORMED = {
    "one column": ("a O\n\nb\n", "{path}, line 3: one column ('b'); a row is a word and, in the last column, its tag"),
    "an empty word": ("a\tO\n\tO\n", "{path}, line 2: one column ('O'); a row is a word and, in the last column, its tag"),
    "fewer columns": (
        "-DOCSTART- O\n\na X O\nb O\n",
        "{path}, line 4: 2 columns, but line 3 has 3; each row of a file has as many",
    ),
    "more columns": ("a O\n\nb X O\n", "{path}, line 3: 3 columns, but line 1 has 2; each row of a file has as many"),
    "another scheme": ("a O\nb S-LOC\n", "{path}, line 2: 'S-LOC' is not a tag; it should be O, B-TYPE or I-TYPE"),
    "no type": ("a B-\n", "{path}, line 1: 'B-' is not a tag; it should be O, B-TYPE or I-TYPE"),
    "no prefix": ("a LOC\n", "{path}, line 1: 'LOC' is not a tag; it should be O, B-TYPE or I-TYPE"),
    "lower case": ("a o\n", "{path}, line 1: 'o' is not a tag; it should be O, B-TYPE or I-TYPE"),
    "empty": ("", "{path}: no sentence; a sentence is one line or more, each with a word and its tag"),
    "no words": (
        "-DOCSTART- -X- O O\n\n\n",
        "{path}: no sentence; a sentence is one line or more, each with a word and its tag",
    ),
}


@pytest.mark.parametrize("file", ["train.txt", "dev.txt"])
@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_files_are_refused_by_file_and_line(write, tmp_path, case, file):
    content, sentence = MALFORMED[case]
    folder = write(**{file.removesuffix(".txt"): content})
    with pytest.raises(ValueError, match=f"^{re.escape(sentence.format(path=tmp_path / file))}$"):
        ner_task(folder)


def test_a_training_file_without_an_entity_and_a_type_that_only_the_other_has(write, tmp_path):
    with pytest.raises(ValueError, match=rf"^{tmp_path}/train.txt: no entity; training needs tags such as B-PER and I-PER$"):
        ner_task(write(train="a O\n"))
    sentence = f"{tmp_path}/dev.txt: tag I-PER, but {tmp_path}/train.txt has entities of type LOC, ORG only"
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        ner_task(write(train="a I-ORG\nb I-LOC\n", dev="a I-LOC\nb I-PER\n"))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"has no file train\.txt or eng\.train or train\.conll .*training sentences"):
        ner_task(str(tmp_path))
    (tmp_path / "eng.train").write_text("a B-LOC\n")
    with pytest.raises(ValueError, match=r"has no file valid\.txt or dev\.txt .*development sentences"):
        ner_task(str(tmp_path))


@pytest.mark.parametrize(
    "names",
    [
        ("train.txt", "valid.txt"),
        ("eng.train", "eng.testa"),
        ("train.conll", "dev.conll"),
        ("train.txt.gz", "testa.txt.gz"),
        ("eng.train.gz", "dev.txt"),
    ],
)
def test_a_folder_becomes_a_task(write, names):
    task = ner_task(write(CONLL, "Rome X I-ORG\nRome X B-ORG\n\na X O\n", names))
    assert task.labels == ("O", "B-MISC", "I-MISC", "B-ORG", "I-ORG", "B-PER", "I-PER")
    assert list(task.splits) == ["train", "dev"]
    assert task.splits["train"].to_dict() == {"words": [words for words, _ in READ], "tags": [[3, 0, 1], [5, 6]]}
    assert task.splits["dev"].to_dict() == {"words": [["Rome", "Rome"], ["a"]], "tags": [[3, 3], [0]]}
    assert task.notes == ("train: IOB2", "dev: IOB1")
    assert (task.name, task.head, task.headline) == ("ner", AutoModelForTokenClassification, "f1")
    assert (task.learning_rate, task.batch, task.epochs, task.length) == (5e-5, 32, 3, 512)
    assert isinstance(task.collator(TOKENIZER), DataCollatorForTokenClassification)


# ------------------------------------------------------------------------------------------------------- IOB1 and IOB2


@pytest.mark.parametrize(
    ("written", "expected", "name"),
    [
        ("I-PER I-PER O I-LOC", "B-PER I-PER O B-LOC", "IOB1"),
        ("I-PER B-PER I-PER B-PER", "B-PER B-PER I-PER B-PER", "IOB1"),  # three persons, one after another
        ("I-PER I-LOC I-LOC", "B-PER B-LOC I-LOC", "IOB1"),
        ("O I-LOC", "O B-LOC", "IOB1"),
        ("B-PER I-PER O B-LOC", "B-PER I-PER O B-LOC", "IOB2"),
        ("B-PER B-PER I-PER", "B-PER B-PER I-PER", "IOB2"),
        ("B-PER B-LOC", "B-PER B-LOC", "IOB2"),
        ("O O", "O O", "IOB2"),
        ("B-PER O I-LOC", "B-PER O B-LOC", "mixed"),
        ("B-PER I-LOC", "B-PER B-LOC", "mixed"),
        ("I-PER B-LOC", "B-PER B-LOC", "mixed"),
    ],
)
def test_schemes_by_hand(written, expected, name):
    assert to_iob2(written.split()) == expected.split()
    assert scheme([written.split()]) == name
    assert scheme([["O"], written.split(), ["O"]]) == name


def test_a_scheme_is_one_of_all_sentences_and_no_entity_reaches_over_their_ends(write):
    assert scheme([["O", "I-LOC"], ["I-LOC", "B-LOC"]]) == "IOB1"
    assert scheme([["O", "B-LOC"], ["I-LOC"]]) == "mixed"
    task = ner_task(write("a I-LOC\n\na I-LOC\na B-LOC\n", "a O\na B-LOC\n\na I-LOC\n"))
    assert task.notes == ("train: IOB1", "dev: mixed")
    assert task.splits["train"]["tags"][:] == [[1], [1, 1]] and task.splits["dev"]["tags"][:] == [[0, 1], [1]]


@st.composite
def entities(draw):
    """A sentence as runs of words: (type or "", words); next to each other often enough."""
    return draw(st.lists(st.tuples(st.sampled_from(["", "LOC", "PER", "X-Y"]), st.integers(1, 3)), min_size=1, max_size=8))


def tags_of(runs, *, iob1):
    tags, before = [], ""
    for kind, words in runs:
        if kind:
            first = "I" if iob1 and kind != before else "B"
            tags += [f"{first}-{kind}", *[f"I-{kind}"] * (words - 1)]
        else:
            tags += ["O"] * words
        before = kind
    return tags


@settings(max_examples=100, deadline=None)
@given(st.lists(entities(), min_size=1, max_size=4))
def test_both_schemes_of_the_same_spans_read_back_equal(sentences):
    for runs in sentences:
        iob1, iob2 = tags_of(runs, iob1=True), tags_of(runs, iob1=False)
        assert to_iob2(iob1) == to_iob2(iob2) == iob2
        ends = np.cumsum([words for _, words in runs]).tolist()
        spans = [(kind, end - words, end - 1) for (kind, words), end in zip(runs, ends, strict=True) if kind]
        assert get_entities(to_iob2(iob1)) == spans
    any_entity = any(kind for runs in sentences for kind, _ in runs)
    assert scheme([tags_of(runs, iob1=True) for runs in sentences]) == ("IOB1" if any_entity else "IOB2")
    assert scheme([tags_of(runs, iob1=False) for runs in sentences]) == "IOB2"


# ------------------------------------------------------------------------------------------------------------- the hub


class Hub:
    """Stands in for ``datasets.load_dataset``."""

    def __init__(self, tags, feature, columns=("tokens", "ner_tags")):
        self.tags, self.columns, self.asked = tags, columns, []
        self.features = datasets.Features(
            dict(zip(columns, (datasets.List(datasets.Value("string")), datasets.List(feature)), strict=True))
        )

    def __call__(self, name, config=None, *, split):
        self.asked.append((name, config, split))
        values = [[f"w{index}" for index in range(len(row))] for row in self.tags[split]], self.tags[split]
        return datasets.Dataset.from_dict(dict(zip(self.columns, values, strict=True)), features=self.features)


@pytest.mark.parametrize(
    ("feature", "train", "labels", "tags", "name"),
    [
        # B-PER I-PER O B-MISC by the usual order
        (datasets.Value("int64"), [1, 2, 0, 7], ("O", "B-MISC", "I-MISC", "B-PER", "I-PER"), [3, 4, 0, 1], "IOB2"),
        # I-LOC O I-ORG B-ORG by the dataset's own
        (
            datasets.ClassLabel(names=["B-ORG", "I-ORG", "I-LOC", "O"]),
            [2, 3, 1, 0],
            ("O", "B-LOC", "I-LOC", "B-ORG", "I-ORG"),
            [1, 0, 3, 3],
            "IOB1",
        ),
    ],
)
def test_the_hub_is_read_with_or_without_names_of_its_tags(monkeypatch, feature, train, labels, tags, name):
    hub = Hub({"train": [train, []], "validation": [train[:1]]}, feature)  # some copies hold a row without words
    monkeypatch.setattr(datasets, "load_dataset", hub)
    task = ner_task(None)
    assert hub.asked == [(HUB, None, "train"), (HUB, None, "validation")]
    assert task.labels == labels
    assert task.splits["train"].to_dict() == {"words": [["w0", "w1", "w2", "w3"]], "tags": [tags]}
    assert task.splits["dev"].to_dict() == {"words": [["w0"]], "tags": [tags[:1]]}
    assert task.notes == (f"train: {name}", f"dev: {name}")


INTEGER = datasets.Value("int64")


@pytest.mark.parametrize(
    ("hub", "sentence"),
    [
        (
            Hub({"train": [[1]], "validation": [[1], [0, 9]]}, INTEGER),
            "lhoestq/conll2003, split validation, row 2: ner_tags [0, 9] are not all from 0 to 8",
        ),
        (
            Hub({"train": [[1], [-1]], "validation": [[1]]}, INTEGER),
            "lhoestq/conll2003, split train, row 2: ner_tags [-1] are not all from 0 to 8",
        ),
        (
            Hub({"train": [[1], [0]], "validation": [[1]]}, datasets.ClassLabel(names=["none", "B-PER"])),
            "lhoestq/conll2003, split train, row 2: 'none' is not a tag; it should be O, B-TYPE or I-TYPE",
        ),
        (
            Hub({"train": [[1]], "validation": [[1]]}, INTEGER, ("tokens", "tags")),
            "lhoestq/conll2003, split train: no column ner_tags, only tokens, tags; give a local folder with --data",
        ),
        (
            Hub({"train": [[1]], "validation": [[]]}, INTEGER),
            "lhoestq/conll2003, split validation: no sentence; a sentence is one line or more, each with a word and its tag",
        ),
        (
            Hub({"train": [[1]], "validation": [[3]]}, INTEGER),
            "lhoestq/conll2003, split validation: tag B-ORG, but lhoestq/conll2003, split train has entities of type PER only",
        ),
    ],
)
def test_what_the_hub_may_not_hold(monkeypatch, hub, sentence):
    monkeypatch.setattr(datasets, "load_dataset", hub)
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        ner_task(None)


def test_each_token_of_the_hub_needs_a_tag(monkeypatch):
    rows = datasets.Dataset.from_dict({"tokens": [["a", "b"]], "ner_tags": [[1]]})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    with pytest.raises(ValueError, match=r"split train, row 1: 2 tokens and 1 ner_tags; each token needs one$"):
        ner_task(None)


# ------------------------------------------------------------------------------------------ words, pieces and labels


N = -100


@pytest.mark.parametrize(
    ("words", "tags", "pieces", "labels", "first_tokens"),
    [
        (["Rome"], [1], [ROME], [1], [1]),
        (["unable", "a"], [3, 4], [UN, ABLE_, A], [3, N, 4], [1, 3]),
        (["ab", "unables", "b"], [0, 1, 2], [A, B_, UN, ABLE_, S_, B], [0, N, 1, N, N, 2], [1, 3, 6]),
        (["a.b.", "."], [3, 0], [A, DOT, B, DOT, DOT], [3, N, N, N, 0], [1, 5]),  # split at the points, still one word
        (["New York", "a"], [1, 2], [UNK, UNK, A], [1, N, 2], [1, 3]),
        ([NOTHING, "a"], [3, 4], [A], [4], [-1, 1]),
        (["a", NOTHING, "", "ab", NOTHING], [3, 4, 4, 0, 1], [A, A, B_], [3, 0, N], [1, -1, -1, 2, -1]),
        ([NOTHING], [1], [], [], [-1]),
        (["[SEP]", "a"], [0, 1], [SEP, A], [0, 1], [1, 2]),
    ],
)
def test_the_first_piece_carries_the_tag(words, tags, pieces, labels, first_tokens):
    rows = {"words": [words, ["rome", "rome"]], "tags": [tags, [1, 2]]}
    size = len(pieces) + 2
    assert encode(rows, TOKENIZER, 512) == {
        "input_ids": [[CLS, *pieces, SEP], [CLS, ROME, ROME, SEP]],
        "attention_mask": [[1] * size, [1] * 4],
        "token_type_ids": [[0] * size, [0] * 4],
        "labels": [[N, *labels, N], [N, 1, 2, N]],
        "first_tokens": [first_tokens, [1, 2]],
    }


def test_token_types_only_where_the_tokenizer_gives_them():
    plain = word_pieces(model_input_names=["input_ids"])
    features = encode({"words": [["a"]], "tags": [[1]]}, plain, 512)
    assert set(features) == {"input_ids", "attention_mask", "labels", "first_tokens"}


@pytest.mark.parametrize(
    ("length", "labels", "first_tokens"),
    [
        (7, [N, 3, N, 4, N, 0, N], [1, 3, 5]),
        (6, [N, 3, N, 4, N, N], [1, 3, -1]),
        (5, [N, 3, N, 4, N], [1, 3, -1]),  # the second word loses its second piece
        (4, [N, 3, N, N], [1, -1, -1]),
        (2, [N, N], [-1, -1, -1]),
    ],
)
def test_a_sentence_is_cut_at_the_length(length, labels, first_tokens):
    features = encode({"words": [["ab", "ba", "rome"]], "tags": [[3, 4, 0]]}, TOKENIZER, length)
    assert features["labels"] == [labels] and features["first_tokens"] == [first_tokens]
    assert features["input_ids"] == [[*[CLS, A, B_, B, A_, ROME][: length - 1], SEP]]


def byte_level(**keywords):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *alphabet, "ab", "Ġa", "Ġab"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    return RobertaTokenizer(vocab=vocabulary, merges=[("Ġ", "a"), ("Ġa", "b"), ("a", "b")], **keywords)


def test_words_of_a_byte_level_tokenizer_begin_with_a_space():
    rows = {"words": [["ab", "abab", "a"]], "tags": [[3, 4, 0]]}
    tokenizer = byte_level()
    features = encode(rows, tokenizer, 512)
    assert tokenizer.convert_ids_to_tokens(features["input_ids"][0]) == ["<s>", "Ġab", "Ġab", "ab", "Ġa", "</s>"]
    assert features["labels"] == [[N, 3, 4, N, 0, N]] and features["first_tokens"] == [[1, 2, 4]]
    assert encode(rows, byte_level(add_prefix_space=True), 512) == features


def test_a_tokenizer_without_a_pre_tokenizer_gets_the_words_as_they_are():
    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "New York": 2}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    assert encode({"words": [["a", "New York"]], "tags": [[0, 1]]}, tokenizer, 9)["input_ids"] == [[1, 2]]


def test_a_slow_tokenizer_is_refused():
    with pytest.raises(ValueError, match=r"CanineTokenizer does not say which word a piece belongs to; ner needs .*fast"):
        encode({"words": [["a"]], "tags": [[0]]}, CanineTokenizer(), 512)


# ----------------------------------------------------------------------------------------------------------- the scores


def task_of(write, sentences, labels=LABELS):
    """A task whose development split holds ``sentences``, (words, tag names), and its features."""
    train = "".join(f"a {label}\n" for label in labels)
    dev = "\n".join("".join(f"{word}\t{tag}\n" for word, tag in zip(words, tags, strict=True)) for words, tags in sentences)
    task = ner_task(write(train, dev))
    assert task.labels == labels
    return task


def features_of(task, length=512):
    rows = task.splits["dev"]
    return rows.map(lambda batch: task.encode(batch, TOKENIZER, length), batched=True, remove_columns=rows.column_names)


def logits_of(features, predicted):
    """Logits whose argmax on first pieces are the predicted names; elsewhere they speak for another label, loudly."""
    made = []
    for ids, first_tokens, names in zip(features["input_ids"], features["first_tokens"], predicted, strict=True):
        logits = np.zeros((len(ids), len(LABELS)), dtype=np.float32)
        logits[:, 4] = 9
        for token, name in zip(first_tokens, names, strict=True):
            if token >= 0:
                logits[token] = np.arange(len(LABELS)) == LABELS.index(name)
        made.append(logits)
    return made


WORDS = ["ab", "unable", "rome", "a", "b", "unables"]
TRUE = ["B-LOC", "O", "B-PER", "I-PER", "O", "B-LOC"]


def score(write, predicted, true=TRUE):
    task = task_of(write, [(WORDS, true), (["a"], ["O"])])
    features = features_of(task)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = task.score(task.splits["dev"], features, logits_of(features, [predicted, ["O"]]))
    assert scores.predictions == [predicted, ["O"]]
    assert all(type(value) is float or value is None for value in scores.metrics.values())
    return scores.metrics


def metrics(accuracy, f1, f1_macro, precision, recall):
    expected = {"accuracy": accuracy, "f1": f1, "f1_macro": f1_macro, "precision": precision, "recall": recall}
    return {name: value if value is None else pytest.approx(value) for name, value in expected.items()}


@pytest.mark.parametrize(
    ("predicted", "expected"),
    [
        (TRUE, (100, 100, 100, 100, 100)),
        # 1 of 3 entities, 1 of 2 predicted (the person is too short): 2 x 1 / 5; LOC 2 x 1 / 3, PER 0; 5 of 7 words
        (["B-LOC", "O", "B-PER", "O", "O", "O"], (500 / 7, 40, 100 / 3, 50, 100 / 3)),
        # persons are missed entirely: both places, nothing wrong: 2 x 2 / 5; LOC 1, PER 0; 5 of 7 words
        (["B-LOC", "O", "O", "O", "O", "B-LOC"], (500 / 7, 80, 50, 100, 200 / 3)),
        # the right words with the wrong type: 0 of 1 predicted; 3 of 7 words (three O)
        (["O", "O", "B-LOC", "I-LOC", "O", "O"], (300 / 7, 0, 0, 0, 0)),
        (["O"] * 6, (300 / 7, 0, 0, 0, 0)),
        # an I- that begins an entity counts, as conlleval has it; 5 of 7 words
        (["I-LOC", "O", "I-PER", "I-PER", "O", "B-LOC"], (500 / 7, 100, 100, 100, 100)),
        # a person beside the three entities: precision 3 of 4, 2 x 3 / 7; LOC 1, PER 2 x 1 / 3; 6 of 7 words
        (["B-LOC", "O", "B-PER", "I-PER", "B-PER", "B-LOC"], (600 / 7, 600 / 7, 250 / 3, 75, 100)),
    ],
)
def test_scores_by_hand(write, predicted, expected):
    assert score(write, predicted) == metrics(*expected)


def test_scores_where_there_is_no_entity(write):
    assert score(write, ["O"] * 6, true=["O"] * 6) == metrics(100, 0, None, 0, 0)
    assert score(write, ["B-PER"] + ["O"] * 5, true=["O"] * 6) == metrics(600 / 7, 0, 0, 0, 0)


def test_words_that_are_cut_off_or_have_no_piece_are_predicted_o(write):
    """Length 5 keeps three pieces: ab (two), rome; the rest of the sentence counts, as O."""
    task = task_of(write, [(["ab", NOTHING, "rome", "a", "b"], ["B-LOC", "I-LOC", "O", "B-PER", "O"])])
    features = features_of(task, length=5)
    assert features["first_tokens"][:] == [[1, -1, 3, -1, -1]]
    scores = task.score(task.splits["dev"], features, logits_of(features, [["B-LOC", "I-LOC", "I-PER", "B-PER", "O"]]))
    assert scores.predictions == [["B-LOC", "O", "I-PER", "O", "O"]]
    # words 1 and 5 are right; LOC is too short, a PER of one word stands where none is
    assert scores.metrics == metrics(40, 0, 0, 0, 0)


def test_the_baseline_answers_o(write):
    task = task_of(write, [(WORDS, TRUE), (["a"], ["O"])])
    assert task.baseline(task.splits["train"], task.splits["dev"]) == metrics(300 / 7, 0, 0, 0, 0)


words = st.sampled_from(["a", "ab", "unable", "Rome", "U.S.", "unables", NOTHING, "xyz"])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.tuples(words, st.sampled_from(range(5))), min_size=1, max_size=9), min_size=1, max_size=4), st.data()
)
def test_one_hot_logits_of_the_labels_give_back_the_tags(tmp_path_factory, sentences, data):
    folder = tmp_path_factory.mktemp("ner")
    (folder / "train.txt").write_text("".join(f"a {label}\n" for label in LABELS))
    (folder / "dev.txt").write_text("a O\n")
    task = ner_task(str(folder))
    tags = [to_iob2([LABELS[tag] for _, tag in sentence]) for sentence in sentences]
    rows = {
        "words": [[word for word, _ in sentence] for sentence in sentences],
        "tags": [[LABELS.index(tag) for tag in sentence] for sentence in tags],
    }
    features = encode(rows, TOKENIZER, data.draw(st.sampled_from([512, 6])))
    logits = []
    for labels in features["labels"]:
        noise = np.random.default_rng(len(labels)).normal(size=(len(labels), len(LABELS))).astype(np.float32)
        known = np.array(labels) >= 0
        noise[known] = np.eye(len(LABELS), dtype=np.float32)[np.array(labels)[known]]
        logits.append(noise)
    scores = task.score(datasets.Dataset.from_dict(rows), datasets.Dataset.from_dict(features), logits)
    expected = [
        [tag if token >= 0 else "O" for tag, token in zip(names, first, strict=True)]
        for names, first in zip(tags, features["first_tokens"], strict=True)
    ]
    assert scores.predictions == expected
    assert sum(label >= 0 for row in features["labels"] for label in row) == sum(
        token >= 0 for row in features["first_tokens"] for token in row
    )
    if expected == tags:
        assert scores.metrics["accuracy"] == 100
        assert scores.metrics["f1"] == (100 if any(tag != "O" for row in tags for tag in row) else 0)


def test_through_a_model(write):
    """Encode, pad, run a tiny random model, score: padding changes nothing, and the loss is over first pieces only."""
    task = task_of(write, [(WORDS, TRUE), (["a", NOTHING], ["B-PER", "O"]), (["rome", "ab"], ["B-LOC", "I-LOC"])])
    features = features_of(task)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        config = BertConfig(vocab_size=len(PIECES), num_labels=len(LABELS), max_position_embeddings=32, **sizes)
        model = BertForTokenClassification(config).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter)
    batch = task.collator(TOKENIZER)([{k: v for k, v in row.items() if k != "first_tokens"} for row in features])
    lengths = [len(ids) for ids in features["input_ids"]]
    assert batch["labels"].shape == batch["input_ids"].shape == (3, max(lengths))
    assert batch["labels"][1].tolist() == [N, 3, N, *[N] * (max(lengths) - 3)]
    with torch.no_grad():
        output = model(**batch)
        alone = [model(torch.tensor([ids])).logits[0] for ids in features["input_ids"]]
    padded = task.logits(output).numpy()
    scores = task.score(task.splits["dev"], features, [padded[row, :length] for row, length in enumerate(lengths)])
    assert scores.predictions == task.score(task.splits["dev"], features, [values.numpy() for values in alone]).predictions
    starts = [[1, 3, 5, 6, 7, 8], [1], [1, 2]]
    by_hand = [[LABELS[values[token].argmax()] for token in tokens] for values, tokens in zip(alone, starts, strict=True)]
    assert scores.predictions == [by_hand[0], [by_hand[1][0], "O"], by_hand[2]]
    chosen = torch.cat([values[tokens] for values, tokens in zip(alone, starts, strict=True)])
    wanted = torch.tensor([1, 0, 3, 4, 0, 1, 3, 1, 2])
    assert torch.allclose(output.loss, torch.nn.functional.cross_entropy(chosen, wanted), atol=1e-5)


GERMEVAL = """#\thttp://de.wikipedia.org/wiki/Manfred_Korfmann [2009-10-17]
1\tAufgrund\tO\tO
2\tTübinger\tB-LOC\tB-LOC
3\tUniversität\tI-LOC\tO

# another sentence
1\t#\tO\tO
2\tKorfmann\tB-PER\tO
"""


def test_running_numbers_nested_columns_and_comments(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text(GERMEVAL, encoding="utf-8")
    assert read_columns(path) == [
        (["Aufgrund", "Tübinger", "Universität"], ["O", "B-LOC", "I-LOC"]),
        (["#", "Korfmann"], ["O", "B-PER"]),
    ]


def test_both_files_are_read_from_the_same_columns_and_it_is_said(tmp_path):
    (tmp_path / "train.txt").write_text(GERMEVAL, encoding="utf-8")
    (tmp_path / "dev.txt").write_text("7\tin\tO\tO\n9\tTroja\tB-LOC\tO\n", encoding="utf-8")  # no evidence of its own
    task = ner_task(str(tmp_path))
    assert task.splits["dev"]["words"][:] == [["in", "Troja"]]
    assert task.splits["dev"]["tags"][0] != [0, 0]
    assert "words from column 2 and tags from column 3 of 4" in task.notes


def test_chunks_before_the_tags_are_not_read_and_a_sign_is_a_word(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text("# NN I-NP O\n5 CD I-NP O\n6 CD I-NP O\n", encoding="utf-8")
    assert read_columns(path) == [(["#", "5", "6"], ["O", "O", "O"])]
