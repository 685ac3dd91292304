"""The report: literal JSON to literal Markdown, intervals worked by hand, verdicts, and files that stand on their own."""

import csv
import json
import re

import pytest

from diito import cli
from diito.evaluation.kinds import find
from diito.experiments import gather
from diito.report.claims import verdicts
from diito.report.metrics import Measured
from diito.report.paper import PAPER
from diito.report.statistics import difference, summary, t_interval
from diito.report.tables import against_standard, cost, interchange, table_1, table_2
from diito.tables import Table

ENVIRONMENT = {"commit": "0123456789abcdef", "accelerator": None, "threads": 2}


def row(name, method, *, group="6 layers", paper=None, layers=6, label=None, share=1.0):
    return {"name": name, "method": method, "group": group, "paper": paper, "layers": layers, "label": label, "share": share}


def evaluation(row_name, kind, result, *, seed=1, task=None, tuned=None, done=True):
    entry = {"row": row_name, "kind": kind, "seed": seed, "task": task, "fine_tuning_seed": tuned, "done": done}
    return {**entry, **({"result": result, "environment": ENVIRONMENT, "seconds": 1.0} if done else {})}


def perplexities(row_name, *values):
    """A value a distillation seed; None is a run that is not done."""
    return [
        evaluation(row_name, "perplexity", {"perplexity": value}, seed=seed, done=value is not None)
        for seed, value in enumerate(values, start=1)
    ]


def scores(row_name, task, values):
    """``values``: (distillation seed, fine-tuning seed) -> score."""
    return [
        evaluation(
            row_name,
            "glue",
            {"headline": "accuracy", "scores": {"dev": {"accuracy": value}}},
            seed=seed,
            task=task,
            tuned=tuned,
        )
        for (seed, tuned), value in values.items()
    ]


def measured(rows, evaluations, students=()):
    content = {"format": 1, "name": "g", "rows": rows, "students": list(students), "evaluations": evaluations}
    return Measured(json.loads(json.dumps(content)))


STANDARD, FULL = row("s", "standard", paper="6/standard"), row("f", "full", paper="6/full")


def test_literal_json_to_literal_markdown():
    evaluations = perplexities("s", 16.0, 17.0, 15.0) + perplexities("f", 14.0, 14.5, None)
    evaluations += perplexities("m", None, None, None)
    text = table_1(measured([STANDARD, FULL, row("m", "middle", paper="6/middle")], evaluations)).markdown()
    assert text == (
        "### All conditions (the paper's Table 1)\n"
        "\n"
        "|  | Perplexity |\n"
        "|---|--:|\n"
        "| **6 layers** |  |\n"
        "| Standard | 16.00 ± 1.00 [15.69 ± 1.51] |\n"
        "| DIITO FULL | 14.25 ± 0.35 (2/3) [13.59 ± 0.25] |\n"
        "| DIITO MIDDLE | – [14.32 ± 0.12] |\n"
        "\n"
        "Mean ± standard deviation over the runs. In brackets the paper's figure, where there is one for the row. –: no "
        "finished run, or a figure that the row does not have; a count such as (2/3): runs are missing.\n"
    )


def test_the_table_of_differences_word_for_word():
    evaluations = perplexities("s", 16.0, 17.0, 15.0) + perplexities("f", 14.0, 14.0, 14.0)
    lines = against_standard(measured([STANDARD, FULL], evaluations)).csv().splitlines()
    assert lines[0] == "group,condition,figure,standard,this,difference,relative,95 % interval,seeds"
    # Differences -2, -3, -1: mean -2, standard deviation 1, so the half width is 4.3027 / sqrt(3) = 2.4841; -2 / 16 = -12.5 %.
    assert lines[1] == '6 layers,DIITO FULL,Perplexity,16.00,14.00,-2.00,-12.50%,"[-4.48, +0.48]",3'


def test_what_is_missing_stays_in_the_table_of_differences():
    evaluations = perplexities("s", 16.0) + perplexities("f", 14.0) + perplexities("m", None)
    evaluations += [evaluation("f", "interchange", None, done=False)]
    text = against_standard(measured([STANDARD, FULL, row("m", "middle")], evaluations)).markdown()
    assert "| DIITO FULL | Perplexity | 16.00 | 14.00 | -2.00 | -12.50% | – | 1 |" in text
    assert "| DIITO FULL | IIA | – | – | – | – | – | – |" in text
    assert "| DIITO MIDDLE | – | – | – | – | – | – | – |" in text  # one line where nothing is there


def test_the_interval_of_three_differences_worked_by_hand():
    low, high = t_interval([-2.0, -3.0, -1.0])
    assert low == pytest.approx(-2 - 4.302653 / 3**0.5, abs=1e-5) and high == pytest.approx(-2 + 4.302653 / 3**0.5, abs=1e-5)
    assert t_interval([1.0]) is None


def test_fine_tuning_seeds_stand_within_distillation_seeds():
    """Two distillation seeds of two fine-tunings each: the interval has one degree of freedom, not three."""
    ours = {(1, 7): 62.0, (1, 8): 64.0, (2, 7): 70.0, (2, 8): 72.0}
    standard = {(1, 7): 60.0, (1, 8): 60.0, (2, 7): 69.0, (2, 8): 67.0}
    found = difference(ours, standard)
    assert found.by_seed == {1: 3.0, 2: 3.0} and found.mean == 3.0
    assert found.relative == pytest.approx(3 / 64)
    assert found.interval == (3.0, 3.0)
    ours[2, 8] = 76.0  # the second seed gains 5: mean 4, standard deviation sqrt(2), half width 12.7062 * sqrt(2) / sqrt(2)
    found = difference(ours, standard)
    assert found.interval == pytest.approx((4 - 12.7062, 4 + 12.7062), abs=1e-3)
    # The four runs taken as independent would have claimed far more: 3.18 * 1.826 / 2 = 2.9.
    assert found.interval[1] - found.mean > 4 * 2.9


def test_only_runs_that_both_have_are_compared():
    found = difference({(1, None): 5.0, (2, None): 7.0}, {(2, None): 6.0, (3, None): 1.0})
    assert found.by_seed == {2: 1.0} and found.interval is None
    assert difference({(1, None): 5.0}, {(2, None): 6.0}) is None


def test_a_sign_takes_an_interval_without_zero_and_knows_what_is_better():
    better = difference({(seed, None): 1.0 + seed / 100 for seed in (1, 2, 3)}, {(seed, None): 2.0 for seed in (1, 2, 3)})
    assert (better.sign(-1), better.sign(1)) == (1, -1)
    unsure = difference({(1, None): 1.0, (2, None): 3.0}, {(1, None): 2.0, (2, None): 2.5})
    assert unsure.sign(-1) == unsure.sign(1) == 0


def test_the_mean_of_glue_takes_runs_with_all_tasks_only():
    runs = {(1, 7): 60.0, (1, 8): 62.0}
    evaluations = scores("s", "rte", runs) + scores("s", "stsb", {(1, 7): 80.0, (1, 8): 90.0}) + scores("f", "rte", runs)
    evaluations += [evaluation("f", "glue", None, task="stsb", tuned=seed, done=False) for seed in (7, 8)]
    found = measured([STANDARD, FULL], evaluations)
    assert found.values("s", "glue") == {(1, 7): 70.0, (1, 8): 76.0}
    assert found.values("f", "glue") == {} and found.expected("f", "glue") == 2
    text = table_2(found).markdown()
    assert "|  | RTE | STS-B | GLUE (2 of 8 tasks) |" in text
    assert (
        "| Standard | 61.00 ± 1.41 [60.10] | 85.00 ± 7.07 [80.40] | 73.00 ± 4.24 |" in text
    )  # no figure of the paper beside 2 tasks
    assert "| DIITO FULL | 61.00 ± 1.41 | – | – |" in text


def test_interchange_stands_beside_its_references():
    def result(value):
        numbers = {name: {"unswapped": {"iia": value + shift, "counterfactual_kl": 1.0}} for name, shift in shifts.items()}
        return {"models": numbers}

    shifts = {"student": 0.0, "no swap": -0.1, "random donor": -0.2, "undistilled": -0.3}
    evaluations = [evaluation("f", "interchange", result(value), seed=seed) for seed, value in ((1, 0.5), (2, 0.6))]
    text = interchange(measured([FULL], evaluations)).markdown()
    assert "| DIITO FULL | 0.550 ± 0.071 (0.450, 0.350, 0.250) | – (–, –, –) | 1.000 ± 0.000 (1.000, 1.000, 1.000) |" in text


def student(name, seed, *, done=True):
    entry = {"row": name, "seed": seed, "steps": 500, "tokens": 512_000.0, "flops": 3.6e13, "done": done}
    curve = [{"step": step, "tokens": step * 1000, "loss": 2.0, "mlm": 5.0 / step, "ce": 1.0} for step in range(1, 12)]
    return entry | (
        {"training_seconds": 400.0, "trained_tokens": 512_000, "environment": ENVIRONMENT, "curve": curve} if done else {}
    )


def test_cost():
    text = cost(measured([FULL], [], [student("f", 1), student("f", 2, done=False)])).markdown()
    assert "| DIITO FULL | 1/2 | 500 | 0.51 | 0.036 | 1,280 | 0.11 | CPU, 2 thread(s) |" in text


def test_verdicts():
    rows = [STANDARD, FULL, row("m", "middle"), row("l", "late"), row("t", "token-swap"), row("e", "equal-flops")]
    evaluations = (
        perplexities("s", 16.0, 16.1, 16.2) + perplexities("f", 14.0, 14.1, 14.3) + perplexities("m", 15.0, 15.1, 15.2)
    )
    evaluations += (
        perplexities("l", 15.0, 15.1, 15.1) + perplexities("t", 14.1, 14.0, 14.2) + perplexities("e", 13.0, 13.2, 13.1)
    )
    found = {each.claim: each for each in verdicts(measured(rows, evaluations))}

    def verdict(start):
        return next(each for claim, each in found.items() if claim.startswith(start))

    assert verdict("Every alignment beats").verdict == "confirmed"
    assert "DIITO FULL: -1.97 [-2.11, -1.82], 3 seeds" in verdict("Every alignment beats").evidence
    assert verdict("The richest alignment").verdict == "confirmed"
    assert verdict("Control: DIITO FULL beats token swap").verdict == "undecided"
    assert verdict("Control: DIITO FULL beats standard distillation with as many FLOPs").verdict == "refuted"
    assert verdict("Control: DIITO FULL beats a shuffled").verdict == "untested"
    assert verdict("The gains hold with 15 %").verdict == "untested"
    assert verdict("Small batches").verdict == "untested"


def test_claims_about_classifiers_are_made_on_what_classifiers_are_measured_by():
    rows = [STANDARD, FULL, row("t", "token-swap")]
    values = {"s": (0.80, 0.81, 0.80), "f": (0.90, 0.91, 0.92), "t": (0.70, 0.71, 0.70)}
    evaluations = [
        evaluation(name, "classification", {"models": {"student": {"accuracy": value}}}, seed=seed)
        for name, scores in values.items()
        for seed, value in enumerate(scores)
    ]
    found = {each.claim: each for each in verdicts(measured(rows, evaluations))}
    assert not any("perplexity" in claim or "GLUE" in claim for claim in found)
    assert found["Control: DIITO FULL beats token swap (accuracy)"].verdict == "confirmed"
    assert "DIITO FULL: +10.67" in found["Every alignment beats standard distillation (accuracy)"].evidence
    table = table_1(measured(rows, evaluations))
    assert table.title == "All conditions" and "× 100" in table.note


def test_a_verdict_needs_every_condition_and_run_and_more_than_one_seed():
    rows = [STANDARD, FULL, row("m", "middle"), row("l", "late")]
    whole = perplexities("s", 16.0) + perplexities("f", 14.0) + perplexities("l", 14.5)
    part = verdicts(measured(rows, whole + perplexities("m", None)))[0]
    assert part.verdict == "untested"
    assert part.evidence == "DIITO FULL: -2.00, 1 seed; DIITO LATE: -1.50, 1 seed; runs are missing: DIITO MIDDLE"
    one = verdicts(measured(rows, whole + perplexities("m", 15.0)))[0]
    assert one.verdict == "undecided"
    without = verdicts(measured(rows[:2], whole))[0]
    assert (without.verdict, without.evidence) == ("untested", "DIITO FULL: -2.00, 1 seed; the grid has no MIDDLE, LATE")


def test_the_papers_own_figures_confirm_its_97_percent():
    rows = [
        row("c", "full-cos"),
        row("d", "reference", paper="distilbert", label="DistilBERT", group="", layers=None, share=None),
    ]
    tasks = ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb")
    runs = [(seed, tuned) for seed in (1, 2, 3) for tuned in (7, 8)]
    evaluations = []
    for task in tasks:
        mean = PAPER["6/full-cos"][task][0]
        evaluations += scores("c", task, {(seed, tuned): mean + 0.1 * (seed - 2) for seed, tuned in runs})
        evaluations += scores("d", task, {(None, tuned): PAPER["distilbert"][task][0] for tuned in (7, 8)})
    found = next(each for each in verdicts(measured(rows, evaluations)) if each.claim.startswith("97 %"))
    assert found.verdict == "confirmed" and found.evidence.startswith("DIITO FULL+Cos − DistilBERT × 0.965: +0.34")


def test_rows_of_one_name_are_told_apart():
    found = measured([row("a", "full"), row("b", "full"), row("c", "other"), row("d", "full", group="3 layers")], [])
    assert [each["title"] for each in found.rows] == ["DIITO FULL (a)", "DIITO FULL (b)", "c", "DIITO FULL"]


def test_the_smallest_student_gains_most():
    rows = [STANDARD, FULL, row("s3", "standard", group="3", layers=3), row("f3", "full", group="3", layers=3)]
    runs = [(1, 7), (2, 7), (3, 7)]
    evaluations = scores("s", "rte", dict.fromkeys(runs, 60.0)) + scores(
        "f", "rte", dict(zip(runs, (61.0, 61.1, 61.2), strict=True))
    )
    evaluations += scores("s3", "rte", dict.fromkeys(runs, 50.0)) + scores(
        "f3", "rte", dict(zip(runs, (55.0, 55.2, 55.1), strict=True))
    )
    found = next(each for each in verdicts(measured(rows, evaluations)) if each.claim.startswith("The smallest"))
    assert found.verdict == "confirmed" and "gain of 3 − gain of 6 layers: +4.00" in found.evidence


def test_the_papers_figures_are_those_of_the_paper():
    assert PAPER["6/full-cos"]["perplexity"] == (13.45, 0.19) and PAPER["6/standard"]["glue"] == (75.80, None)
    assert PAPER["6/full"]["squad em"][0] / PAPER["6/standard"]["squad em"][0] == pytest.approx(1.0246, abs=1e-4)
    assert PAPER["6/middle"]["ner f1"][0] / PAPER["6/standard"]["ner f1"][0] == pytest.approx(1.0038, abs=1e-4)
    assert PAPER["6/full-cos"]["glue"][0] / PAPER["distilbert"]["glue"][0] == pytest.approx(0.97, abs=0.001)
    for name, tasks in (("6/standard", 75.80), ("6/full-cos", 77.14), ("distilbert", 79.59)):
        mean = sum(PAPER[name][task][0] for task in ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb")) / 8
        assert mean == pytest.approx(tasks, abs=0.03)


def test_latex_escapes_what_it_must():
    table = Table("t", "50 % & more", "a_b", ["", "x#"], [("g", [("Π ± 1", "–")])])
    assert table.latex() == (
        "\\begin{table}\n\\centering\n\\caption{50 \\% \\& more. a\\_b}\n\\label{tab:t}\n\\begin{tabular}{lr}\n\\toprule\n"
        " & x\\# \\\\\n\\midrule\n\\multicolumn{2}{l}{\\emph{g}} \\\\\n"
        "$\\Pi$ $\\pm$ 1 & -- \\\\\n\\bottomrule\n\\end{tabular}\n\\end{table}\n"
    )


def test_hypertext_escapes_what_it_must():
    text = Table("t", "<b>", "a & b", ["", "x"], [("", [("'q'", "<i>")])]).html()
    assert "<h2>&lt;b&gt;</h2>" in text and "a &amp; b" in text and "<td>&lt;i&gt;</td>" in text


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The report of measurements with something for every figure."""
    low = [
        row(name, method, group="low resource", layers=3, share=0.15) for name, method in (("sl", "standard"), ("fl", "full"))
    ]
    rows = [STANDARD, FULL, row("s3", "standard", group="3", layers=3), row("f3", "full", group="3", layers=3), *low]
    evaluations = [each for name in ("s", "f", "s3", "f3", "sl", "fl") for each in perplexities(name, 16.0, 17.0 + len(name))]
    pair = {"iia": 0.5, "effective_iia": 0.2, "counterfactual_kl": 1.0, "efficacy": 0.1}
    pairs = [{"student": [ours], "teacher": [theirs], "unswapped": pair} for ours in range(2) for theirs in range(3)]
    evaluations.append(evaluation("f", "map", {"pairs": pairs}))
    content = {"format": gather.FORMAT, "name": "g", "rows": rows, "evaluations": evaluations}
    folder = tmp_path_factory.mktemp("report")
    path = folder / "measurements.json"
    path.write_text(json.dumps({**content, "students": [student("s", 1), student("f", 1), student("f", 2)]}))
    assert cli.main(["report", str(path), "--output", str(folder / "made")]) == 0
    return folder / "made"


def test_the_files_of_a_report(made):
    assert {path.name for path in made.glob("*.png")} == {
        "perplexity.png", "figure-2.png", "figure-3.png", "against-standard.png", "training-curves.png", "map-f.png",
    }  # fmt: skip
    page = (made / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 6
    assert not re.search(r"""(src|href)=['"](?!data:)""", page)  # nothing is fetched
    text = (made / "report.md").read_text()
    assert all((made / name).is_file() for name in re.findall(r"!\[.*?\]\((.*?)\)", text))
    assert "17.50 ± 2.12" in text and "17.50 ± 2.12" in page
    lines = list(csv.reader((made / "table-1.csv").open()))
    assert ["6 layers", "Standard", "17.00 ± 1.41 [15.69 ± 1.51]"] in lines


def test_a_report_of_a_report_is_the_same(made, tmp_path, capsys):
    assert cli.main(["report", str(made / "measurements.json"), "--output", str(tmp_path / "two")]) == 0
    assert "17.00 ± 1.41" in capsys.readouterr().out
    for name in ("report.md", "measurements.json", "table-1.tex"):
        assert (made / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize("kind", ["nothing", "a folder", "another file", "another format"])
def test_what_is_no_grid_is_refused(kind, tmp_path, capsys):
    place = tmp_path / "place"
    if kind == "a folder":
        place.mkdir()
    elif kind != "nothing":
        place.write_text('{"format": 99}' if kind == "another format" else "no JSON")
    assert cli.main(["report", str(place)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("diito: MEASURED: ") and error.count("\n") == 1
    assert not (tmp_path / "report").exists()


def test_a_grid_of_which_nothing_is_done_gives_a_report_of_gaps(tmp_path):
    evaluations = perplexities("s", None) + perplexities("f", None)
    content = {"format": gather.FORMAT, "name": "g", "rows": [STANDARD, FULL], "evaluations": evaluations}
    (tmp_path / "m.json").write_text(json.dumps({**content, "students": [student("s", 1, done=False)]}))
    assert cli.main(["report", str(tmp_path / "m.json"), "--output", str(tmp_path / "made")]) == 0
    assert "| Standard | – [15.69 ± 1.51] |" in (tmp_path / "made" / "report.md").read_text()
    assert not list((tmp_path / "made").glob("*.png"))


def test_summary_of_nothing_and_of_one():
    assert summary([]) is None
    assert (summary([3.0]).mean, summary([3.0]).deviation) == (3.0, None)


def classifier(row_name, accuracy, *, seed=1):
    student, teacher = {"accuracy": accuracy, "f1": accuracy, "agreement": 0.9}, {"accuracy": 0.9, "f1": 0.9}
    result = {"task": "sequence-classification", "examples": 8, "models": {"/folder/of/the/student": student, "t": teacher}}
    return evaluation(row_name, "classification", find("classification").kept(result), seed=seed)


def test_classifiers_are_compared_by_what_their_task_has():
    grid = measured([STANDARD, FULL], [classifier("s", 0.75), classifier("f", 0.8)])
    table = table_1(grid)
    assert table.header == ["", "Accuracy", "F1", "Agreement with the teacher"]  # no correlation
    assert [list(row) for row in table.groups[0][1]] == [
        ["Standard", "75.00", "75.00", "90.00"],
        ["DIITO FULL", "80.00", "80.00", "90.00"],
    ]
    (difference_line, *_) = against_standard(grid).groups[0][1]
    assert difference_line[:5] == ("DIITO FULL", "Accuracy", "75.00", "80.00", "+5.00")
    assert "folder" not in json.dumps(grid.content)
