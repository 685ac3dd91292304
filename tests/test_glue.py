"""GLUE: the nine official file layouts, the same rows from the hub, scores worked by hand, and every refusal's sentence."""

import gzip
import lzma
import math
import re

import datasets
import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from diito.suites.data import find_file, has_file, hub_split, read_lines
from diito.suites.glue import HUB, MEAN, METRICS, TASKS, glue_mean, glue_task

MNLI_HEADER = (
    "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse"
    "\tsentence1\tsentence2\t"
)
PARSES = "( a b )\t( c )\t(ROOT (S a))\t(ROOT (S c))"
STSB_HEADER = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore"
QQP_HEADER = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"
RTE_HEADER = "index\tsentence1\tsentence2\tlabel"
STSB_SOURCES = "0\tmain-captions\tMSRvid\t2012test\t0001\tnone\tnone"

FILES = {
    "CoLA/train.tsv": [
        "gj04\t1\t\tOur friends won't buy this analysis.",
        'gj04\t0\t*\tThey drank the "pub.',
        "gj04\t1\t\tThe more I know, the less.",
    ],
    "CoLA/dev.tsv": ["ks08\t0\t*\tBooks sent was.", "ks08\t1\t\tIt is \u2028 here."],
    "MNLI/train.tsv": [
        MNLI_HEADER + "label1\tgold_label",
        f'0\t31193\t31193n\tgovernment\t{PARSES}\tA "quoted premise.\tA claim.\tcontradiction\tneutral',
        f"1\t101457\t101457e\ttelephone\t{PARSES}\tPremise two.\tClaim two.\tneutral\tentailment",
        f"2\t134793\t134793c\tfiction\t{PARSES}\tPremise three.\tClaim three.\tentailment\tcontradiction",
    ],
    "MNLI/dev_matched.tsv": [
        MNLI_HEADER + "label1\tlabel2\tlabel3\tlabel4\tlabel5\tgold_label",
        f"0\t63735\t63735n\tslate\t{PARSES}\tMatched.\tYes.\tneutral\tneutral\tneutral\tneutral\tneutral\tcontradiction",
    ],
    "MNLI/dev_mismatched.tsv": [
        MNLI_HEADER + "label1\tlabel2\tlabel3\tlabel4\tlabel5\tgold_label",
        f"0\t75290\t75290c\tletters\t{PARSES}\tOther.\tNo.\tneutral\tneutral\tneutral\tneutral\tneutral\tentailment",
        f"1\t133794\t133794c\tverbatim\t{PARSES}\tThird.\tNo.\tneutral\tneutral\tneutral\tneutral\tneutral\tneutral",
    ],
    "MRPC/train.tsv": [
        "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
        '1\t702876\t702977\tAmrozi accused "the witness" .\tReferring to him as only " the witness .',
        "0\t2108705\t2108831\tYucaipa owned.\tYucaipa bought.",
    ],
    "MRPC/dev.tsv": ["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", "1\t1355540\t1355592\tHe said.\tThe foodservice pie."],
    "QNLI/train.tsv": [
        "index\tquestion\tsentence\tlabel",
        "0\tWhen did it begin?\tBeginning in 1959.\tentailment",
        '1\tWhich "one?\tThe other one.\tnot_entailment',
    ],
    "QNLI/dev.tsv": ["index\tquestion\tsentence\tlabel", "0\tWhat came?\tAs of that day.\tnot_entailment"],
    "QQP/train.tsv": [
        QQP_HEADER,
        "133273\t213221\t213222\tHow is life?\tHow was it?\t0",
        '402555\t536040\t536041\tHow "do I?\tHow can I?\t1',
    ],
    "QQP/dev.tsv": [QQP_HEADER, "201359\t303345\t303346\tWhy are hexagons?\tWhy six sides?\t1"],
    "RTE/train.tsv": [RTE_HEADER, "0\tNo weapons.\tWeapons.\tnot_entailment", '1\t"A" place.\tA place.\tentailment'],
    "RTE/dev.tsv": [RTE_HEADER, "0\tDana died.\tDana is dead.\tentailment"],
    "SST-2/train.tsv": ["sentence\tlabel", "hide new secretions \t0", '"contains no wit \t0', "that loves its characters \t1"],
    "SST-2/dev.tsv": ["sentence\tlabel", "it 's a charming journey . \t1"],
    "STS-B/train.tsv": [
        STSB_HEADER,
        f"{STSB_SOURCES}\tA plane is taking off.\tAn air plane is.\t5.000",
        f'{STSB_SOURCES}\tA man plays "flute.\tA man plays.\t3.800',
    ],
    "STS-B/dev.tsv": [STSB_HEADER, f"{STSB_SOURCES}\tA hat.\tA hard hat.\t0.000", f"{STSB_SOURCES}\tA child.\tA kid.\t4.750"],
    "WNLI/train.tsv": [RTE_HEADER, "0\tI stuck a pin.\tThe carrot had a hole.\t1", "1\tJohn couldn't.\tHe is short.\t0"],
    "WNLI/dev.tsv": [RTE_HEADER, '0\tThe "drain is clogged.\tThe hair.\t0'],
}
"""A few rows of every official file."""

ROWS = {
    "cola": {
        "train": [
            ("Our friends won't buy this analysis.", 1),
            ('They drank the "pub.', 0),
            ("The more I know, the less.", 1),
        ],
        "dev": [("Books sent was.", 0), ("It is \u2028 here.", 1)],
    },
    "mnli": {
        "train": [
            ('A "quoted premise.', "A claim.", 1),
            ("Premise two.", "Claim two.", 0),
            ("Premise three.", "Claim three.", 2),
        ],
        "matched": [("Matched.", "Yes.", 2)],
        "mismatched": [("Other.", "No.", 0), ("Third.", "No.", 1)],
    },
    "mrpc": {
        "train": [
            ('Amrozi accused "the witness" .', 'Referring to him as only " the witness .', 1),
            ("Yucaipa owned.", "Yucaipa bought.", 0),
        ],
        "dev": [("He said.", "The foodservice pie.", 1)],
    },
    "qnli": {
        "train": [("When did it begin?", "Beginning in 1959.", 0), ('Which "one?', "The other one.", 1)],
        "dev": [("What came?", "As of that day.", 1)],
    },
    "qqp": {
        "train": [("How is life?", "How was it?", 0), ('How "do I?', "How can I?", 1)],
        "dev": [("Why are hexagons?", "Why six sides?", 1)],
    },
    "rte": {
        "train": [("No weapons.", "Weapons.", 1), ('"A" place.', "A place.", 0)],
        "dev": [("Dana died.", "Dana is dead.", 0)],
    },
    "sst2": {
        "train": [("hide new secretions ", 0), ('"contains no wit ', 0), ("that loves its characters ", 1)],
        "dev": [("it 's a charming journey . ", 1)],
    },
    "stsb": {
        "train": [("A plane is taking off.", "An air plane is.", 5.0), ('A man plays "flute.', "A man plays.", 3.8)],
        "dev": [("A hat.", "A hard hat.", 0.0), ("A child.", "A kid.", 4.75)],
    },
    "wnli": {
        "train": [("I stuck a pin.", "The carrot had a hole.", 1), ("John couldn't.", "He is short.", 0)],
        "dev": [('The "drain is clogged.', "The hair.", 0)],
    },
}
"""What those rows are: the sentences and the number of the label, as on the hub."""

HUB_COLUMNS = {
    "cola": ("sentence",),
    "mnli": ("premise", "hypothesis"),
    "qnli": ("question", "sentence"),
    "qqp": ("question1", "question2"),
    "sst2": ("sentence",),
}
"""The hub's names of the sentences, where they are not sentence1 and sentence2."""
HUB_CLASSES = {
    "cola": ("unacceptable", "acceptable"),
    "mnli": ("entailment", "neutral", "contradiction"),
    "mrpc": ("not_equivalent", "equivalent"),
    "qnli": ("entailment", "not_entailment"),
    "qqp": ("not_duplicate", "duplicate"),
    "rte": ("entailment", "not_entailment"),
    "sst2": ("negative", "positive"),
    "wnli": ("not_entailment", "entailment"),
}
HUB_SPLITS = {
    "train": "train",
    "validation": "dev",
    "validation_matched": "matched",
    "validation_mismatched": "mismatched",
}


@pytest.fixture
def write(tmp_path):
    """Writes the files of FILES, with changes: another list of lines, or None for no file."""

    def writer(changes=None, *, end="\n"):
        for name, lines in {**FILES, **(changes or {})}.items():
            if lines is not None:
                path = tmp_path / name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes("".join(line + end for line in lines).encode())
        return tmp_path

    return writer


@pytest.fixture
def hub(monkeypatch):
    """The hub holds ROWS, with changes by (task, split on the hub): other rows."""

    def fill(changes=None):
        asked = []

        def load_dataset(dataset, config, split):
            asked.append((dataset, config, split))
            rows = (changes or {}).get((config, split), ROWS[config][HUB_SPLITS[split]])
            names = (*HUB_COLUMNS.get(config, ("sentence1", "sentence2")), "label")
            columns = {name: [row[place] for row in rows] for place, name in enumerate(names)}
            label = datasets.ClassLabel(names=HUB_CLASSES[config]) if config in HUB_CLASSES else datasets.Value("float32")
            features = {name: datasets.Value("string") for name in names} | {"label": label, "idx": datasets.Value("int32")}
            return datasets.Dataset.from_dict({**columns, "idx": range(len(rows))}, features=datasets.Features(features))

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return asked

    return fill


def rows_of(task):
    """The splits as lists of (sentences, label)."""
    return {
        split: list(zip(*(rows[name] for name in ("first", "second", "label") if name in rows.column_names), strict=True))
        for split, rows in task.splits.items()
    }


def refusal(name, data):
    with pytest.raises(ValueError) as caught:
        glue_task(name, None if data is None else str(data))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def scored(task, labels, logits):
    """The scores of a task for examples of these labels and logits."""
    rows = datasets.Dataset.from_dict({"first": [""] * len(labels), "label": labels})
    return task.score(rows, rows, [np.asarray(values, dtype=np.float32) for values in logits])


# -------------------------------------------------------------------------------------------------------- the files


@pytest.mark.parametrize("name", TASKS)
def test_official_files_give_the_sentences_and_the_labels(name, write):
    task = glue_task(name, str(write()))
    assert rows_of(task) == ROWS[name]
    assert task.notes == ()


@pytest.mark.parametrize("name", TASKS)
def test_line_ends_of_windows_and_a_byte_order_mark_are_no_part_of_the_rows(name, write):
    folder = write(end="\r\n")
    for path in folder.rglob("*.tsv"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert rows_of(glue_task(name, str(folder))) == ROWS[name]


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize(("ending", "opener"), [(".gz", gzip.open), (".xz", lzma.open)])
def test_compressed_files_are_read_as_well(name, ending, opener, write):
    folder = write()
    for path in folder.rglob("*.tsv"):
        with opener(f"{path}{ending}", "wb") as stream:
            stream.write(path.read_bytes())
        path.unlink()
    assert rows_of(glue_task(name, str(folder))) == ROWS[name]


def test_a_folder_in_the_home_folder(write, monkeypatch):
    monkeypatch.setenv("HOME", str(write()))
    assert rows_of(glue_task("rte", "~")) == ROWS["rte"]


def test_incomplete_rows_of_qqp_are_left_out_and_noted(write):
    changes = {
        "QQP/train.tsv": [*FILES["QQP/train.tsv"][:2], "1\t2\t3\tOnly one?", "1", FILES["QQP/train.tsv"][2]],
        "QQP/dev.tsv": [*FILES["QQP/dev.tsv"], "1\t2\t3\tOne?\tTwo?\tThree?\t1"],
    }
    task = glue_task("qqp", str(write(changes)))
    assert rows_of(task) == ROWS["qqp"]
    assert task.notes == ("train.tsv: 2 incomplete rows left out", "dev.tsv: 1 incomplete rows left out")


# ---------------------------------------------------------------------------------------------------------- the hub


@pytest.mark.parametrize("name", TASKS)
def test_the_hub_gives_the_rows_of_the_files(name, write, hub):
    asked = hub()
    task, local = glue_task(name, None), glue_task(name, str(write()))
    for split, rows in rows_of(local).items():
        assert [row[:-1] for row in rows_of(task)[split]] == [row[:-1] for row in rows]
        numbers, expected = ([row[-1] for row in each] for each in (rows_of(task)[split], rows))
        assert numbers == expected if name != "stsb" else numbers == pytest.approx(expected, abs=1e-6)  # float32 there
    assert list(task.splits) == list(local.splits) == list(ROWS[name])
    ends = ("_matched", "_mismatched") if name == "mnli" else ("",)
    assert asked == [(HUB, name, split) for split in ("train", *(f"validation{end}" for end in ends))]


@pytest.mark.parametrize("name", HUB_CLASSES)
def test_the_names_of_the_classes_are_in_the_order_of_the_hubs_numbers(name, write):
    assert glue_task(name, str(write())).labels == HUB_CLASSES[name]


@pytest.mark.parametrize("rows", [[("A.", "B.", 0), ("C.", "D.", -1)], []])
def test_a_split_of_the_hub_without_labels_is_refused(rows, hub):
    hub({("rte", "validation"): rows})
    assert refusal("rte", None) == "nyu-mll/glue (rte), split validation: has no labels; give another copy with --data"


@pytest.mark.parametrize("rows", [[("A.", "B.", -1.0)], []])
def test_a_split_of_the_hub_without_scores_is_refused(rows, hub):
    hub({("stsb", "validation"): rows})
    assert "split validation" in refusal("stsb", None)


@pytest.mark.parametrize("error", [ConnectionError, FileNotFoundError, ValueError, RuntimeError])
def test_a_hub_that_does_not_answer(error, monkeypatch):
    def load_dataset(*arguments, **keywords):
        raise error("Couldn't reach it.\nA second line")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    sentence = refusal("rte", None)
    assert sentence.startswith("nyu-mll/glue (rte), split train: the hub dataset cannot be loaded")
    assert "(Couldn't reach it. A second line); check the network, or give a local" in sentence
    with pytest.raises(ValueError, match=r"^some/data, split train: the hub dataset cannot be loaded"):
        hub_split("some/data", "train")


def test_a_download_that_cannot_be_read(monkeypatch):
    def load_dataset(*arguments, **keywords):
        raise datasets.exceptions.DatasetGenerationError("An error occurred while generating the dataset")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert "the hub dataset cannot be loaded" in refusal("rte", None)


# -------------------------------------------------------------------------------------------------------- what a task is


def test_the_papers_settings(write):
    folder = str(write())
    tasks = {name: glue_task(name, folder) for name in TASKS}
    assert {name: task.headline for name, task in tasks.items()} == {
        "cola": "matthews",
        "mnli": "accuracy",
        "mrpc": "f1",
        "qnli": "accuracy",
        "qqp": "f1",
        "rte": "accuracy",
        "sst2": "accuracy",
        "stsb": "spearman",
        "wnli": "accuracy",
    }
    assert {name for name, task in tasks.items() if task.epochs == 25} == {"cola", "rte"}
    assert {task.epochs for task in tasks.values()} == {3, 25}
    assert {(task.learning_rate, task.batch, task.length) for task in tasks.values()} == {(2e-5, 32, 128)}
    assert [name for name in tasks["mnli"].splits if name != "train"] == ["matched", "mismatched"], "the headline is matched"
    assert tasks["stsb"].labels is None
    assert tasks["stsb"].head_arguments == {"num_labels": 1, "problem_type": "regression"}


def test_one_sentence_or_two_become_one_sequence():
    tokenizer = tiny.tokenizer()
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]  # as BERT's own
    words = {word: tokenizer.convert_tokens_to_ids(word) for word in ("w0", "w1", "w2", "[CLS]", "[SEP]")}
    encode = glue_task_without_data("sst2").encode
    one = encode({"first": ["w0 w1"], "label": [1]}, tokenizer, 8)
    assert one["input_ids"] == [[words[word] for word in ("[CLS]", "w0", "w1", "[SEP]")]]
    assert one["labels"] == [1]
    two = encode({"first": ["w0 w1 w2"], "second": ["w2"], "label": [0]}, tokenizer, 6)
    assert two["input_ids"] == [[words[word] for word in ("[CLS]", "w0", "w1", "[SEP]", "w2", "[SEP]")]], (
        "the longer one is cut"
    )
    assert two["token_type_ids"] == [[0, 0, 0, 0, 1, 1]]
    assert two["attention_mask"] == [[1] * 6]


def glue_task_without_data(name):
    """A task whose rows do not matter, from the hub of a fixture-less test."""
    with pytest.MonkeyPatch.context() as patch:
        table = {column: ["a"] for column in ("sentence", "sentence1", "sentence2", "premise", "hypothesis")}
        table |= {column: ["a"] for column in ("question", "question1", "question2")} | {"label": [0]}
        patch.setattr(datasets, "load_dataset", lambda *arguments, **keywords: datasets.Dataset.from_dict(table))
        return glue_task(name, None)


# ------------------------------------------------------------------------------------------------------- the metrics

LABELS = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0])
PREDICTIONS = np.array([1, 1, 1, 0, 1, 1, 0, 0, 0, 0])
"""3 true positives, 1 false negative, 2 false positives, 4 true negatives."""


def test_scores_of_classes_worked_by_hand():
    assert METRICS["accuracy"](LABELS, PREDICTIONS) == pytest.approx(70)
    assert METRICS["f1"](LABELS, PREDICTIONS) == pytest.approx(100 * 2 * 3 / (2 * 3 + 2 + 1))
    # (TP·TN − FP·FN) / sqrt((TP+FP)(TP+FN)(TN+FP)(TN+FN))
    assert METRICS["matthews"](LABELS, PREDICTIONS) == pytest.approx(100 * (3 * 4 - 2 * 1) / math.sqrt(5 * 4 * 6 * 5))


def test_f1_is_that_of_class_1():
    assert METRICS["f1"](1 - LABELS, 1 - PREDICTIONS) == pytest.approx(100 * 2 * 4 / (2 * 4 + 1 + 2))
    assert METRICS["f1"](np.zeros(3, int), np.zeros(3, int)) == 0


def test_matthews_of_a_constant_of_the_truth_and_of_its_opposite():
    assert METRICS["matthews"](LABELS, np.ones(10, int)) == 0
    assert METRICS["matthews"](LABELS, LABELS) == pytest.approx(100)
    assert METRICS["matthews"](LABELS, 1 - LABELS) == pytest.approx(-100)


def test_correlations_worked_by_hand():
    labels, predictions = np.array([1.0, 2.0, 2.0, 4.0]), np.array([1.0, 3.0, 2.0, 10.0])
    # Ranks 1, 2.5, 2.5, 4 (a tie shares its ranks) and 1, 3, 2, 4: deviations −1.5, 0, 0, 1.5 and −1.5, 0.5, −0.5, 1.5.
    assert METRICS["spearman"](labels, predictions) == pytest.approx(100 * 4.5 / math.sqrt(4.5 * 5))
    # Deviations −1.25, −0.25, −0.25, 1.75 and −3, −1, −2, 6.
    assert METRICS["pearson"](labels, predictions) == pytest.approx(100 * 15 / math.sqrt(4.75 * 50))
    assert METRICS["spearman"](labels, -predictions) == pytest.approx(-100 * 4.5 / math.sqrt(4.5 * 5))


@pytest.mark.parametrize("name", ["spearman", "pearson"])
def test_there_is_no_correlation_with_a_constant(name):
    varied, constant = np.array([1.0, 2.0, 3.0]), np.full(3, 2.5)
    assert METRICS[name](varied, constant) is None
    assert METRICS[name](constant, varied) is None


@settings(deadline=None)  # the first call imports scikit-learn
@given(
    st.lists(st.integers(0, 1), min_size=1, max_size=12).flatmap(
        lambda labels: st.tuples(st.just(labels), st.permutations(labels))
    )
)
def test_scores_of_classes_equal_counting(pair):
    labels, predictions = map(np.array, pair)
    true = int(((labels == 1) & (predictions == 1)).sum())
    ones = int((labels == 1).sum()) + int((predictions == 1).sum())
    assert METRICS["accuracy"](labels, predictions) == pytest.approx(100 * (labels == predictions).mean())
    assert METRICS["f1"](labels, predictions) == pytest.approx(200 * true / ones if ones else 0)


def test_a_prediction_is_the_class_of_the_highest_logit():
    task = glue_task_without_data("mnli")
    scores = scored(task, [0, 1, 2, 2], [[2, 1, 0], [0, 1, 3], [-3, -2, -1], [0, 5, 4]])
    assert scores.predictions == [0, 2, 2, 1]
    assert scores.metrics == {"accuracy": 50.0}


def test_a_prediction_of_stsb_is_its_one_logit():
    task = glue_task_without_data("stsb")
    scores = scored(task, [1.0, 2.0, 2.0, 4.0], [[1.00004], [3], [2], [10]])
    assert scores.predictions == [1.0, 3.0, 2.0, 10.0], "to four digits"
    assert scores.metrics == {
        "spearman": pytest.approx(100 * 4.5 / math.sqrt(4.5 * 5)),
        "pearson": pytest.approx(100 * 15 / math.sqrt(4.75 * 50), rel=1e-4),
    }
    assert scored(task, [1.0, 2.0], [[3], [3]]).metrics == {"spearman": None, "pearson": None}


def test_the_two_splits_of_mnli_are_scored_apart(write):
    task = glue_task("mnli", str(write()))
    logits = [np.array([0, 0, 1], np.float32), np.array([0, 1, 0], np.float32)]
    matched, mismatched = (task.splits[split] for split in ("matched", "mismatched"))
    assert task.score(matched, matched, logits[:1]).metrics == {"accuracy": 100.0}
    assert task.score(mismatched, mismatched, logits).metrics == {"accuracy": 50.0}


@pytest.mark.parametrize(
    ("name", "train", "dev", "expected"),
    [
        ("cola", [1, 1, 0], [0, 1, 1, 1], {"matthews": 0, "accuracy": 75}),
        ("mrpc", [1, 1, 0], [0, 1, 1, 1], {"f1": 100 * 6 / 7, "accuracy": 75}),
        ("qqp", [0, 1, 0], [0, 0, 0, 1], {"f1": 0, "accuracy": 75}),
        ("mnli", [2, 2, 0, 1], [2, 0, 1, 2, 2], {"accuracy": 60}),
        ("stsb", [1.0, 4.0], [0.0, 3.0], {"spearman": None, "pearson": None}),
    ],
)
def test_baselines_are_the_majority_of_the_training_rows_or_their_mean(name, train, dev, expected):
    task = glue_task_without_data(name)
    rows = [datasets.Dataset.from_dict({"label": labels}) for labels in (train, dev)]
    assert task.baseline(*rows) == {
        metric: value if value is None else pytest.approx(value) for metric, value in expected.items()
    }


# ---------------------------------------------------------------------------------------------------------- the mean


def test_the_mean_is_over_eight_tasks_without_wnli():
    assert MEAN == ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb")
    scores = dict(zip(MEAN, (10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0), strict=True))
    assert glue_mean(scores) == ("mean of 8", 45.0)
    assert glue_mean(scores | {"wnli": 0.0}) == ("mean of 8", 45.0)


def test_a_mean_of_fewer_tasks_names_the_missing_ones():
    assert glue_mean({"rte": 60.0, "cola": 30.0, "wnli": 99.0, "stsb": None}) == (
        "mean of 2 (without mnli, mrpc, qnli, qqp, sst2, stsb)",
        45.0,
    )
    assert glue_mean({"wnli": 99.0}) == ("mean of no task", None)
    assert glue_mean({}) == ("mean of no task", None)


# ------------------------------------------------------------------------------------------------------- the refusals


def test_a_missing_folder(write):
    folder = write({"RTE/train.tsv": None, "RTE/dev.tsv": None})
    assert refusal("rte", folder) == (
        f"{folder}/RTE is not a folder; give the one with the task rte in GLUE's own layout (gluebenchmark.com/tasks)"
    )


def test_a_missing_file(write):
    folder = write({"MNLI/dev_mismatched.tsv": None})
    assert refusal("mnli", folder) == (
        f"{folder}/MNLI has no file dev_mismatched.tsv (also .gz or .xz): "
        "the task mnli in GLUE's own layout (gluebenchmark.com/tasks)"
    )


@pytest.mark.parametrize("name", [name for name in TASKS if name != "cola"])
def test_a_header_without_a_column(name, write):
    row = TASKS[name]
    folder = write({f"{row.folder}/train.tsv": ["index\tsentence1\tsomething", "0\ta\tb"]})
    missing = [column for column in row.columns if column != "sentence1"]
    assert refusal(name, folder) == (
        f"{folder}/{row.folder}/train.tsv, line 1: the header lacks {', '.join(missing)}; "
        f"it should be that of GLUE's {row.folder}"
    )


@pytest.mark.parametrize("name", [name for name in TASKS if name != "qqp"])
@pytest.mark.parametrize("change", ["{line}\tmore", "less"])
def test_a_row_with_another_number_of_columns(name, change, write):
    file = f"{TASKS[name].folder}/train.tsv"
    *lines, last = FILES[file]
    columns, wrong = last.count("\t") + 1, change.format(line=last)
    folder = write({file: [*lines, wrong]})
    found = wrong.count("\t") + 1
    message = rf"{folder}/{file}, line {len(lines) + 1}: {found} column\(s\), and {columns} are needed"
    assert re.fullmatch(message, refusal(name, folder))


@pytest.mark.parametrize(
    ("name", "place", "labels"),
    [
        ("cola", 1, "0, 1"),
        ("mnli", -1, "entailment, neutral, contradiction"),
        ("mrpc", 0, "0, 1"),
        ("qnli", -1, "entailment, not_entailment"),
        ("qqp", -1, "0, 1"),
        ("rte", -1, "entailment, not_entailment"),
        ("sst2", -1, "0, 1"),
        ("wnli", -1, "0, 1"),
    ],
)
@pytest.mark.parametrize("label", ["-", "2", "", " 1", "Neutral"])
def test_an_unknown_label(name, place, labels, label, write):
    file = f"{TASKS[name].folder}/train.tsv"
    values = FILES[file][-1].split("\t")
    values[place] = label
    folder = write({file: [*FILES[file][:-1], "\t".join(values)]})
    expected = f"{folder}/{file}, line {len(FILES[file])}: the label {label!r} is not one of {labels}"
    assert refusal(name, folder) == expected


@pytest.mark.parametrize("score", ["5.001", "-0.1", "nan", "inf", "high", ""])
def test_a_score_out_of_range_or_no_number(score, write):
    folder = write({"STS-B/dev.tsv": [*FILES["STS-B/dev.tsv"], f"{STSB_SOURCES}\tOne.\tTwo.\t{score}"]})
    assert refusal("stsb", folder) == f"{folder}/STS-B/dev.tsv, line 4: the score {score!r} is not a number from 0 to 5"


@pytest.mark.parametrize("name", TASKS)
def test_a_file_without_an_example(name, write):
    file = f"{TASKS[name].folder}/train.tsv"
    folder = write({file: [] if name == "cola" else FILES[file][:1]})
    assert refusal(name, folder) == f"{folder}/{file}: has no example; give the complete file of the task {name}"


def test_an_empty_file_lacks_its_header(write):
    folder = write({"SST-2/train.tsv": []})
    assert refusal("sst2", folder) == (
        f"{folder}/SST-2/train.tsv, line 1: the header lacks sentence, label; it should be that of GLUE's SST-2"
    )


def test_a_file_with_nothing_but_incomplete_rows_has_no_example(write):
    folder = write({"QQP/train.tsv": [QQP_HEADER, "1\t2", "3"]})
    assert refusal("qqp", folder) == f"{folder}/QQP/train.tsv: has no example; give the complete file of the task qqp"


# ----------------------------------------------------------------------------------------------- files of any task


def test_the_first_name_counts_and_the_plain_file_before_the_compressed_one(tmp_path):
    for name in ("b.txt", "b.txt.gz", "c.txt.xz"):
        (tmp_path / name).touch()
    assert find_file(tmp_path, ["a.txt", "b.txt", "c.txt"], content="it") == tmp_path / "b.txt"
    assert find_file(tmp_path, ["c.txt", "b.txt"], content="it") == tmp_path / "c.txt.xz"
    assert has_file(tmp_path, ["a.txt", "c.txt"]) and not has_file(tmp_path, ["a.txt"])
    assert not has_file(tmp_path / "nowhere", ["b.txt"])
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path} has no file x.txt or y.txt (also .gz or .xz): what it is")):
        find_file(tmp_path, ["x.txt", "y.txt"], content="what it is")


def test_only_a_line_feed_ends_a_line(tmp_path):
    path = tmp_path / "text"
    path.write_bytes("\ufeffone\u2028\x0b\x85two\r\n\nthree\rfour".encode())
    assert list(read_lines(path)) == ["one\u2028\x0b\x85two", "", "three\rfour"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.tsv", b"caf\xe9\n", "is not UTF-8 text (invalid continuation byte); save it as UTF-8"),
        ("a.gz", gzip.compress(b"words " * 99)[:-12], "is damaged or not a whole .gz file"),
        ("a.gz", b"plain text", "is damaged or not a whole .gz file"),
        ("a.xz", lzma.compress(b"words " * 99)[:-12], "is damaged or not a whole .xz file"),
        ("a.xz", b"plain text", "is damaged or not a whole .xz file"),
        ("a.gz", gzip.compress("café".encode("latin-1")), "is not UTF-8 text"),
    ],
    ids=["not UTF-8", "half a gz", "no gz", "half an xz", "no xz", "gz of no UTF-8"],
)
def test_damaged_files(name, content, reason, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match="^" + re.escape(f"'{path}' {reason}")):
        list(read_lines(path))


def test_a_file_that_cannot_be_opened(tmp_path):
    with pytest.raises(ValueError, match="^" + re.escape(f"'{tmp_path}/none' cannot be read (No such file or directory)")):
        list(read_lines(tmp_path / "none"))
