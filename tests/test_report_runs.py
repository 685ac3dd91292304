"""``diito report`` of single runs: of one that was really made, and of folders written by hand, stopped and resumed too."""

import json
import re

import pytest
import tiny

from diito import cli
from diito.locks import hold
from diito.report.runs import read_runs

PAIR = {"iia": 0.5, "effective_iia": 0.25, "counterfactual_kl": 1.0, "efficacy": 0.1}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run, measured on the way, and its report."""
    run = tiny.run(tmp_path_factory.mktemp("runs"), {"training.evaluate_every": 3})
    assert cli.main(["report", str(run)]) == 0
    return run


def written(folder, *, teacher="some/teacher", lines=(), **files):
    """A run's folder with the loss of each of ``lines``; other files by their names without an ending."""
    folder.mkdir(parents=True)
    recipe = f"name: {folder.name}\nteacher: {{model: '{teacher}'}}\nstudent: {{layers: 2}}\ntraining: {{steps: 9}}\n"
    (folder / "recipe.yaml").write_text(recipe)
    texts = [json.dumps({"step": step, "loss": loss, "ce": loss, "learning_rate": 0.1, **more}) for step, loss, more in lines]
    (folder / "metrics.jsonl").write_text("\n".join([*texts, '{"step": 9, "lo']))  # the last line is being written
    for name, content in files.items():
        many = isinstance(content, list)
        text = "\n".join(map(json.dumps, content)) if many else json.dumps(content)
        (folder / f"{name}.json{'l' if many else ''}").write_text(text)
    return folder


def stopped(folder):
    """At step 4 of 9, resumed once, the learning rate unlike before, with a map that was measured of its student."""
    resume = {"step": 2, "time": "2025-01-01", "changed": {"training.report_to": [[], ["wandb"]]}, "damaged": {}}
    pairs = [{"student": [ours], "teacher": [theirs], "unswapped": PAIR} for ours in range(2) for theirs in range(3)]
    result = {"map": True, "models": {"student": {"pairs": pairs, "unswapped": PAIR}}}
    found = [{"model": "x", "settings": {"alignment": {"kind": "full"}}, "result": result}]
    found.append({**found[0], "result": {"map": False, "models": {"student": {"unswapped": {"iia": 0.625}}}}})
    return written(
        folder,
        teacher="<script>alert(1)</script>",
        lines=[(step, 8.0 / step, {"eval_iia": 0.5} if step == 3 else {}) for step in (1, 2, 3, 4)],
        plan={"steps": 9, "flops_per_step": 2e15},
        results={"teacher": {"perplexity": 10.0}, "before": {"perplexity": 512.0, "iia": 0.25}},
        resumes=[resume],
        measured={"measurements": found},
    )


def test_a_run_says_what_a_step_costs(made):
    parts, _ = tiny.parts_and_trainer(tiny.recipe(made.parent, {"training.evaluate_every": 3}))
    plan = json.loads((made / "plan.json").read_text())
    assert plan["steps"] == 6 and plan["flops_per_step"] == parts.plan.cost.total * plan["tokens_per_step"]


def test_the_report_of_a_run(made):
    folder = made / "report"
    pictures = {"losses", "losses-by-flops", "training", "held-out"}
    assert {path.stem for path in folder.glob("*.png")} == pictures
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 4 and not re.search(r"""(src|href)=['"](?!data:)""", page)
    text = (folder / "report.md").read_text()
    assert "| tiny | finished | masked-lm | 6 of 6 |" in text
    assert all(f"\n| {name} |" in text for name in ("teacher", "student before", "step 3", "step 6", "student after"))
    assert "| training.max_steps | 6 |" in text and "| training.weight_decay |" not in text
    assert all((folder / name).is_file() for name in re.findall(r"!\[.*?\]\((.*?)\)", text))
    (run,) = read_runs([made])
    steps, losses = run.curve("causal_ce")
    assert steps == [1, 2, 3, 4, 5, 6] and losses == [line["causal_ce"] for line in run.lines]
    assert run.held_out("iia")[0] == [0, 3, 6]


@pytest.mark.soak
def test_runs_are_shown_as_they_are_beside_each_other(tmp_path, capsys):
    one, two = stopped(tmp_path / "one"), written(tmp_path / "two", lines=[(1, 5.0, {})])
    with hold(two / ".lock"):
        assert cli.main(["report", str(one), str(two)]) == 0
    assert "written" in capsys.readouterr().out
    folder = tmp_path / "report"
    text, page = (folder / "report.md").read_text(), (folder / "report.html").read_text()
    assert "| one | stopped | masked-lm | 4 of 9 | – | 8 | – | 1 |" in text
    assert "| two | running, process " in text and "| – | 0 |" in text
    assert "| one | 2 | 2025-01-01 | training.report_to: [] → [wandb] | nothing |" in text
    assert "| student before | 512.00 | 0.250 |" in text and "| step 3 | – | 0.500 |" in text and "| student | 0.625 |" in text
    assert "| teacher.model | &lt;script>alert(1)&lt;/script> | some/teacher |" in text and "| seed |" not in text
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert {path.name for path in folder.glob("*.png")} == {
        "losses.png", "losses-by-flops.png", "training.png", "held-out.png", "map-1-one.png",
    }  # fmt: skip


def test_figures_as_pdf_too(tmp_path):
    run = written(tmp_path / "run")
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}')
    assert cli.main(["report", str(run), "--pdf", "--output", str(tmp_path / "made")]) == 0
    assert sorted(path.name for path in (tmp_path / "made").glob("losses.p*")) == ["losses.pdf", "losses.png"]


def test_a_run_that_has_not_begun_gives_a_page_without_pictures(tmp_path):
    assert cli.main(["report", str(written(tmp_path / "new"))]) == 0
    assert "| new | stopped | masked-lm | 0 of 9 |" in (tmp_path / "new" / "report" / "report.md").read_text()
    assert not list((tmp_path / "new" / "report").glob("*.png"))


def test_two_runs_of_one_name_are_told_apart_by_their_folders(tmp_path):
    folders = [written(tmp_path / place / "same") for place in ("a", "b")]
    assert [run.name for run in read_runs(folders)] == [str(folder) for folder in folders]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"recipe.yaml": "nonsense: 1"}, "no run that can be read"),
        ({"results.json": "{"}, "damaged run"),
        ({}, "no folder of a run"),
    ],
)
def test_what_is_no_run_is_refused(content, said, tmp_path, capsys):
    good, bad = written(tmp_path / "good"), written(tmp_path / "bad")
    if not content:
        (bad / "recipe.yaml").unlink()
    for name, text in content.items():
        (bad / name).write_text(text)
    assert cli.main(["report", str(good), str(bad)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("diito: MEASURED: ") and said in error and str(bad) in error and error.count("\n") == 1


def test_a_finished_run_took_all_its_steps_logged_or_not(tmp_path, capsys):
    words = ["distill", tiny.recipe_file(), "--output", str(tmp_path), "--training.steps", "2", "--training.logging_steps", "5"]
    assert cli.main([*words, "--evaluation.sources", "[]"]) == 0
    assert cli.main(["report", str(tmp_path / "tiny")]) == 0
    assert "2 of 2" in capsys.readouterr().out
