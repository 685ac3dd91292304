"""The results file (found, replaced, written whole or not at all) and the printed tables, letter by letter."""

import json
import os
import re
import textwrap

import pytest

from diito.evaluation.results import Measurement, ResultsFile
from diito.evaluation.settings import GlueSettings, InterchangeSettings, NerSettings, PerplexitySettings
from diito.evaluation.tables import (
    fine_tuning_tables,
    glue_tables,
    interchange_tables,
    mean_and_deviation,
    perplexity_tables,
)
from diito.suites.glue import TASKS
from diito.tables import Table


def measurement(seed=1, **changes):
    identity = {"kind": "glue", "task": "rte", "seed": seed, "data": {"train": "abc"}}
    values = {
        "identity": identity,
        "settings": {"seeds": [1]},
        "model": "tiny",
        "result": {"score": 50.0},
        "examples": {"predictions": [1, 0]},
    }
    return Measurement(**values | {"environment": {"torch": "2"}} | changes)


def visible(folder):
    """The files of a folder, without the hidden lock."""
    return [path.name for path in folder.iterdir() if not path.name.startswith(".")]


def text(tables):
    return "\n\n".join(table.text() for table in tables)


def interchange_text(measurement):
    return text(interchange_tables(InterchangeSettings(), [measurement]))


def lines(text):
    return textwrap.dedent(text).strip("\n")


# ------------------------------------------------------------------------------------------------ the results file


def test_what_is_added_is_found_and_survives_reading_back(tmp_path):
    path = tmp_path / "new" / "folder" / "results.json"
    results = ResultsFile(path)
    assert list(results) == [] and not path.exists() and not path.parent.exists(), "reading writes nothing"
    one, two = measurement(1), measurement(2, model="Café – \u2028")
    results.add(one)
    results.add(two)
    for each in (results, ResultsFile(str(path))):
        assert list(each) == [one, two]
        assert each.find(one.identity) == one and each.find(two.identity) == two
        assert each.find(measurement(3).identity) is None
        assert each.find({**one.identity, "more": None}) is None, "the whole identity counts"
        assert each.find(dict(reversed(one.identity.items()))) == one, "its order does not"


def test_tuples_are_lists_in_the_file_and_are_found(tmp_path):
    identity = {"kind": "interchange", "layers": (0, (1, 2)), "map": {3: "x"}}
    results = ResultsFile(tmp_path / "results.json")
    results.add(measurement(identity=identity, examples={"counts": (1, 2)}))
    for each in (results, ResultsFile(results.path)):
        assert each.find(identity) is each.find({"kind": "interchange", "layers": [0, [1, 2]], "map": {"3": "x"}}) is not None
        assert next(iter(each)).identity["layers"] == [0, [1, 2]]
        assert next(iter(each)).examples == {"counts": [1, 2]}


def test_one_of_the_same_identity_is_replaced(tmp_path):
    results = ResultsFile(tmp_path / "results.json")
    for each in (measurement(1), measurement(2), measurement(1, result={"score": 60.0}, model="renamed")):
        results.add(each)
    assert [(each.identity["seed"], each.result["score"]) for each in results] == [(2, 50.0), (1, 60.0)]
    assert list(ResultsFile(results.path)) == list(results)


def test_two_that_write_into_one_file_keep_what_the_other_put_in(tmp_path):
    one, other = (ResultsFile(tmp_path / "results.json") for _ in range(2))
    one.add(measurement(1))
    other.add(measurement(2))
    one.add(measurement(3))
    assert list(ResultsFile(one.path)) == list(one) == [measurement(1), measurement(2), measurement(3)]


def test_the_file_is_json_with_the_examples_in_one_line(tmp_path):
    results = ResultsFile(tmp_path / "results.json")
    examples = {"predictions": {"dev": {"id": 'a "word"\n', "other": ["é", 1.5, None]}}}
    results.add(measurement(1, examples=examples))
    results.add(measurement(2, examples={}))
    text = results.path.read_text(encoding="utf-8")
    content = json.loads(text)
    assert list(content) == ["measurements"]
    assert [list(entry) for entry in content["measurements"]] == [
        ["identity", "settings", "model", "result", "environment", "examples"]
    ] * 2
    assert content["measurements"][0]["examples"] == examples
    assert [line for line in text.splitlines() if line.startswith(' "examples"')] == [
        ' "examples": {"predictions":{"dev":{"id":"a \\"word\\"\\n","other":["é",1.5,null]}}}',
        ' "examples": {}',
    ]
    assert ' "model": "tiny",\n' in text, "the rest is for reading"
    assert visible(tmp_path) == ["results.json"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b'{"measurements": [',
        b"[]",
        b"3",
        b'"measurements"',
        b'{"other": []}',
        b'{"measurements": 5}',
        b'{"measurements": [1]}',
        b'{"measurements": [{"model": "x"}]}',
        b'{"measurements": [{"identity": {}, "model": "", "result": {}, "examples": {}, "environment": {}, "extra": 1}]}',
        b"\xff\xfe",
        pytest.param(
            b'{"measurements": {}, "of": "another program"}',
        ),
    ],
)
def test_a_file_of_another_kind_is_refused_and_left_alone(content, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    message = f"--output: {path} exists and is no results file of diito; give another file"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ResultsFile(path)
    assert path.read_bytes() == content
    assert [each.name for each in tmp_path.iterdir()] == ["config.json"]


def test_a_folder_is_no_results_file(tmp_path):
    with pytest.raises(ValueError, match=r"exists and is no results file of diito; give another file$"):
        ResultsFile(tmp_path)


def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    results = ResultsFile(tmp_path / "results.json")
    results.add(measurement(1))
    before = results.path.read_bytes()

    def crash(*arguments, **keywords):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            results.add(measurement(2))
    assert results.path.read_bytes() == before
    again = ResultsFile(results.path)
    assert list(again) == [measurement(1)]
    again.add(measurement(2))
    assert list(ResultsFile(results.path)) == [measurement(1), measurement(2)]
    assert visible(tmp_path) == ["results.json"], "what the crash left is gone"


def test_what_json_cannot_hold_leaves_the_old_file(tmp_path):
    results = ResultsFile(tmp_path / "results.json")
    results.add(measurement(1))
    before = results.path.read_bytes()
    with pytest.raises(TypeError):
        results.add(measurement(2, result={"score": object()}))
    assert results.path.read_bytes() == before and list(results) == [measurement(1)]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_in_is_refused(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o500)
    try:
        for path in (folder / "results.json", folder / "deeper" / "results.json"):
            with pytest.raises(ValueError, match=f"^--output: cannot write in {re.escape(str(folder))}; give another one$"):
                ResultsFile(path)
    finally:
        folder.chmod(0o700)


def test_a_folder_that_the_system_calls_locked_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ValueError, match=f"^--output: cannot write in {re.escape(str(tmp_path))}; give another one$"):
        ResultsFile(tmp_path / "deeper" / "results.json")
    assert not list(tmp_path.iterdir())


def test_a_place_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=f"^--output: cannot write in {re.escape(str(tmp_path / 'file'))}; give another one$"):
        ResultsFile(tmp_path / "file" / "results.json")


# ------------------------------------------------------------------------------------------------- means and columns


def test_mean_and_deviation_worked_by_hand():
    mean, deviation = mean_and_deviation([2.0, 4.0, 9.0])
    assert mean == 5.0 and deviation == pytest.approx(13**0.5)  # squares 9 + 1 + 16, over n − 1 = 2
    assert mean_and_deviation([7.5]) == (7.5, None)
    assert mean_and_deviation([3.0, 3.0]) == (3.0, 0.0)
    assert mean_and_deviation([3.0, None]) == mean_and_deviation([None]) == mean_and_deviation([]) == (None, None)
    assert mean_and_deviation(iter([1.0, 3.0]))[0] == 2.0


def test_the_first_column_stands_to_the_left_and_the_others_to_the_right():
    table = Table("t", "not shown", "", ("a", "long", ""), [("", [("bcd", "1", "2"), ("", "", "")])])
    assert table.text() == "a    long\nbcd     1  2\n"


def test_on_the_screen_rows_under_a_heading_are_indented_and_the_note_stands_below():
    table = Table("t", "", "a note", ("", "x"), [("some", [("a", "1")]), ("none", []), ("others", [("b", "22")])])
    assert table.text() == "         x\nsome\n  a      1\nothers\n  b     22\na note"


# ------------------------------------------------------------------------------------------------------- fine-tuning


def tuned(task, seed, scores, baseline, *, kind="glue", headline=None, rows=(24, 24), epochs=3.0, notes=()):
    result = {
        "headline": headline or next(iter(next(iter(scores.values())))),
        "scores": scores,
        "baseline": baseline,
        "train_rows": rows[0],
        "of_train_rows": rows[1],
        "notes": list(notes),
    }
    return measurement(identity={"kind": kind, "task": task, "seed": seed, "epochs": epochs}, result=result)


def test_the_table_of_glue(tmp_path):
    mnli = {"matched": {"accuracy": 62.0}, "mismatched": {"accuracy": 58.5}}
    measurements = [
        tuned("cola", 1, {"dev": {"matthews": 10.0, "accuracy": 70.0}}, {"dev": {"matthews": 0.0, "accuracy": 69.13}}),
        tuned("mnli", 1, mnli, {name: {"accuracy": 33.3} for name in mnli}, rows=(5000, 392702), epochs=0.5),
        tuned("stsb", 1, {"dev": {"spearman": 41.0}}, {"dev": {"spearman": None}}, notes=["a note"]),
        tuned("cola", 2, {"dev": {"matthews": 13.0, "accuracy": 72.0}}, {"dev": {"matthews": 0.0, "accuracy": 69.13}}),
        tuned("wnli", 1, {"dev": {"accuracy": 99.0}}, {"dev": {"accuracy": 56.34}}, epochs=25),
    ]
    # The mean is (11.5 + 62 + 41) / 3: headlines only, MNLI matched, no WNLI.
    for task in TASKS:
        if task not in ("mrpc", "rte"):
            (tmp_path / TASKS[task].folder).mkdir()
            (tmp_path / TASKS[task].folder / "train.tsv").touch()
    assert text(glue_tables(GlueSettings(data=str(tmp_path)), measurements)) == lines(
        """
        task               metric  score  s.d.  seeds  baseline                   trained on
        cola             matthews  11.50  2.12      2      0.00                  24 rows × 3
        cola             accuracy  71.00  1.41      2     69.13                  24 rows × 3
        mnli matched     accuracy  62.00     –      1     33.30  5,000 of 392,702 rows × 0.5
        mnli mismatched  accuracy  58.50     –      1     33.30  5,000 of 392,702 rows × 0.5
        stsb             spearman  41.00     –      1         –                  24 rows × 3
        wnli             accuracy  99.00     –      1     56.34                 24 rows × 25
        mean of 3 (without mrpc, qnli, qqp, rte, sst2): 38.17
        stsb: a note
        not in the folder: mrpc, rte
        """
    )


def test_a_missing_score_leaves_the_table_and_the_mean_without_it():
    measurements = [
        tuned("stsb", 1, {"dev": {"spearman": None}}, {"dev": {"spearman": None}}),
        tuned("stsb", 2, {"dev": {"spearman": 40.0}}, {"dev": {"spearman": None}}),
        tuned("rte", 1, {"dev": {"accuracy": 60.0}}, {"dev": {"accuracy": 52.7}}),
    ]
    assert text(glue_tables(GlueSettings(), measurements)) == lines(
        """
        task    metric  score  s.d.  seeds  baseline   trained on
        stsb  spearman      –     –      2         –  24 rows × 3
        rte   accuracy  60.00     –      1     52.70  24 rows × 3
        mean of 1 (without cola, mnli, mrpc, qnli, qqp, sst2, stsb): 60.00
        """
    )


def test_the_table_of_another_kind_has_no_mean():
    scores = {"dev": {"accuracy": 95.0, "f1": 80.0}}
    baseline = {"dev": {"accuracy": 83.0, "f1": 0.0}}
    measurements = [tuned("ner", 1, scores, baseline, kind="ner", headline="f1", notes=["dev: IOB2"])]
    assert text(fine_tuning_tables(NerSettings(), measurements)) == lines(
        """
        task    metric  score  s.d.  seeds  baseline   trained on
        ner   accuracy  95.00     –      1     83.00  24 rows × 3
        ner         f1  80.00     –      1      0.00  24 rows × 3
        ner: dev: IOB2
        """
    )


def test_the_headline_is_the_first_splits_and_need_not_be_the_first_metric():
    scores = {"dev": {"accuracy": 95.0, "f1": 80.0}, "other": {"accuracy": 1.0, "f1": 2.0}}
    (table,) = glue_tables(GlueSettings(), [tuned("mrpc", 1, scores, scores, headline="f1")])
    assert table.note == "mean of 1 (without cola, mnli, qnli, qqp, rte, sst2, stsb): 80.00"


# --------------------------------------------------------------------------------------------------------- held-out


def test_the_table_of_perplexities():
    one = {"perplexity": 12.3456, "interval": [11.0, 14.256], "draws_sd": 0.126, "tokens": 12345, "documents": 60}
    other = {"perplexity": 9.0, "interval": None, "draws_sd": None, "tokens": 987, "documents": 6}
    difference = {"against": "teacher", "difference": 3.3456, "interval": [-0.5, 4.0]}
    measurements = [
        measurement(model="runs/one", result=one, identity={"kind": "perplexity", "layout": "blocks", "length": 128}),
        measurement(model="teacher", result=other),
        measurement(model="runs/one", result=difference),
    ]
    assert text(perplexity_tables(PerplexitySettings(), measurements)) == lines(
        """
        model     perplexity   95 % interval  s.d. of draws  tokens  texts
        runs/one       12.35  [11.00, 14.26]           0.13  12,345     60
        teacher         9.00                              –     987      6
        blocks of 128 tokens; the interval is over texts: articles where the text has headings, else lines, rows or chats
        runs/one − teacher: +3.35 (95 % interval [-0.50, 4.00], paired)
        """
    )


ALL = {
    "tokens": 1200,
    "iia": 0.75,
    "iia_interval": [0.7, 0.8004],
    "effective_iia": 0.5,
    "effective_iia_interval": [0.25, 0.75],
    "counterfactual_kl": 1.5,
    "counterfactual_kl_interval": [1.0, 2.0],
    "efficacy": 0.1,
    "efficacy_interval": [0.05, 0.15],
}
NONE = {"tokens": 0, "efficacy": None}


def test_the_table_of_interchange():
    pairs = [{"student": [0], "teacher": [0, 1], "unswapped": ALL}, {"student": [1], "teacher": [2], "unswapped": NONE}]
    student = {"unswapped": ALL, "swapped": NONE, "pairs": pairs}
    no_swap = {"unswapped": {"tokens": 8, "iia": 0.25}, "swapped": ALL}
    models = {"student": student, "no swap": no_swap}
    result = {"teacher": "a name", "models": models, "map": False, "undistilled_layers": [0, 2]}
    student_line = "1,200 0.750 [0.700, 0.800] 0.500 [0.250, 0.750] 1.500 [1.000, 2.000] 0.100 [0.050, 0.150]"
    assert [" ".join(line.split()) for line in interchange_text(measurement(result=result)).splitlines()] == [
        "tokens × pairs IIA effective KL efficacy",
        "unswapped tokens",
        f"student {student_line}",
        "no swap 8 0.250 – – –",
        "swapped tokens",
        "student 0 – – – –",
        f"no swap {student_line}",
        "undistilled: the teacher's layers [0, 2]",
        "",
        "student → teacher, unswapped tokens IIA effective KL efficacy",
        "0 → 0 1 0.750 0.500 1.500 0.100",
        "1 → 2 – – – –",
    ]
    without = interchange_text(measurement(result={**result, "undistilled_layers": None}))
    assert "undistilled: none can be made of this teacher" in without


def mapped(*values):
    """A measured map of two student and two teacher layers; a pair without a value has no IIA."""
    places = ((0, 0), (0, 1), (1, 0), (1, 1))
    pairs = [
        {"student": [ours], "teacher": [theirs], "unswapped": {} if value is None else {"iia": value}}
        for (ours, theirs), value in zip(places, values, strict=True)
    ]
    return measurement(result={"models": {"student": {"pairs": pairs}}, "map": True})


def test_the_table_of_a_map_is_a_matrix_a_score():
    iia, effective, divergence = interchange_text(mapped(0.5, 0.25, 0.125, 1.0)).split("\n\n")
    assert iia.splitlines() == [
        "IIA, unswapped tokens     T0     T1",
        "S0                     0.500  0.250",
        "S1                     0.125  1.000",
    ]
    assert effective.startswith("effective IIA") and divergence.startswith("counterfactual KL")


def test_a_pair_of_a_map_without_a_value():
    assert interchange_text(mapped(0.5, None, 0.125, 1.0)).splitlines()[1].split() == ["S0", "0.500", "–"]
