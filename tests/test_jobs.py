"""A job's folder is named by all that decides its result, and by nothing else."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import classifiers
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

import grids
from diito.experiments import jobs as made
from diito.experiments.estimate import estimate
from diito.experiments.expansion import distillations, evaluations
from diito.experiments.grid import read
from diito.experiments.jobs import make_jobs

CONDITION = "[{name: a, method: full}]"


def hashes(path, overrides=None, recipe_overrides=None):
    """Title -> hash of every job."""
    grid = read(path, overrides or {}, recipe_overrides or {})
    students = distillations(grid)
    return {job.planned.title: job.hash for job in make_jobs(students, evaluations(grid, students), resources=grid.resources)}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return grids.write(tmp_path_factory.mktemp("grid"), conditions=CONDITION)


@pytest.fixture(scope="module")
def before(path):
    """The hashes of the grid as it stands."""
    return hashes(path)


@pytest.mark.soak  # a grid that is run again and does nothing shows it too
def test_hashes_are_the_same_in_another_process(path):
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); sys.argv = sys.argv[1:]\n"
        "import json, test_jobs; print(json.dumps(test_jobs.hashes(sys.argv[1])))"
    )
    command = [sys.executable, "-c", program, str(Path(__file__).parent), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": "7"}, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == hashes(path)


def test_what_cannot_change_a_result_changes_no_hash(before, path, tmp_path):
    assert len(set(before.values())) == 5
    free = {"name": "h", "output": str(tmp_path / "elsewhere"), "retries": "3"}
    recipe = {"training.log_every": "3", "training.save_every": "5", "corpus.workers": "2", "training.keep": "1"}
    moved = {kind: tmp_path / f"moved-{kind}" for kind in ("teacher", "corpus", "glue")}
    shutil.copytree(tiny.teacher(), moved["teacher"])
    shutil.copy(tiny.corpus(), moved["corpus"].with_suffix(".txt"))
    shutil.copytree(path.parent / "glue", moved["glue"])
    places = {"teacher.model": str(moved["teacher"]), "corpus.sources": f"[{moved['corpus']}.txt]"}
    evaluated = {"evaluations.glue.data": str(moved["glue"]), "evaluations.perplexity.batch": "3"}
    defaults = {"objective.weights.cos": "0.25"}  # what saying nothing means, said
    assert hashes(path, free | evaluated, recipe | places | defaults) == before


CHANGES = (
    "training.learning_rate: 2e-3",
    "training.steps: 7",
    "objective.weights.causal_ce: 0.3",
    "student.layers: [1, 2]",
    "alignment.kind: middle",
    "alignment.shuffled: true",
    "intervention.control: token-swap",
    "masking.smoothing: 0",
    "corpus.length: 12",
    "corpus.share: 0.5",
    "training.arguments: {lr_scheduler_type: cosine}",
)


def test_another_recipe_or_seed_is_another_student_and_other_evaluations(before, tmp_path):
    changed = "".join(f", {{name: c{index}, method: full, overrides: {{{change}}}}}" for index, change in enumerate(CHANGES))
    path = grids.write(tmp_path, conditions=f"{CONDITION[:-1]}{changed}]", text="seeds: [1, 2]\nfine_tuning_seeds: [7]")
    found = hashes(path)
    assert before.items() <= found.items()
    assert len(found) == len(set(found.values())) == 2 * (1 + len(CHANGES)) * len(before)


def test_examples_that_are_drawn_by_seed_are_other_data_for_each_seed(tmp_path):
    dev = json.dumps([classifiers.source(classifiers.table(20, seed=1))])
    given = {
        "task": "sequence-classification",
        "teacher.model": classifiers.teacher(),
        "corpus.sources": [classifiers.source(classifiers.table())],
        "corpus.examples": 12,
        "evaluation.sources": [],
    }
    text = f"overrides: {json.dumps(given)}\nseeds: [1, 2]\n"
    text += f"evaluations: {{parts: [classification], classification: {{sources: {dev}, length: 24}}}}\n"
    grid = read(grids.write(tmp_path, conditions=CONDITION, text=text), {}, {})
    students = distillations(grid)
    one, measured, other, _ = make_jobs(students, evaluations(grid, students), resources=grid.resources)
    assert one.identity["corpus"] != other.identity["corpus"]
    assert (measured.kind, measured.student) == ("classification", one.hash)


def test_other_weights_or_text_or_code_are_another_student(before, path, tmp_path, monkeypatch):
    before = set(before.values())
    teacher = shutil.copytree(tiny.teacher(), tmp_path / "teacher")
    weights = load_file(teacher / "model.safetensors")
    first = next(iter(weights))
    weights[first] = (
        weights[first] + torch.eye(*weights[first].shape) * 1e-6 if weights[first].ndim == 2 else weights[first] + 1e-6
    )
    save_file(weights, teacher / "model.safetensors", metadata={"format": "pt"})
    assert not before & set(hashes(path, {}, {"teacher.model": str(teacher)}).values())
    text = tmp_path / "text.txt"
    text.write_text(Path(tiny.corpus()).read_text().replace("w1 ", "w2 ", 1))
    assert not before & set(hashes(path, {}, {"corpus.sources": f"[{text}]"}).values())
    monkeypatch.setitem(made.VERSIONS, "distil", made.VERSIONS["distil"] + 1)
    assert not before & set(hashes(path).values())


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        ({"evaluations.perplexity.draws": "2"}, {"a, seed 1: perplexity"}),
        ({"evaluations.perplexity.seed": "2"}, {"a, seed 1: perplexity"}),
        ({"evaluations.interchange.share": "0.5"}, {"a, seed 1: interchange"}),
        ({"evaluations.interchange.alignment.kind": "middle"}, {"a, seed 1: interchange"}),
        ({"evaluations.interchange.student_layers": "[0, 1]"}, {"a, seed 1: interchange"}),
        ({"evaluations.glue.learning_rate": "1e-3"}, {"a, seed 1: rte, seed 7", "a, seed 1: stsb, seed 7"}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_other_settings_are_other_evaluations_of_the_same_student(change, changed, before, path):
    after = hashes(path, change)
    assert {title for title in before if before[title] != after[title]} == changed


def test_other_rows_of_a_task_are_another_evaluation_of_that_task(before, tmp_path):
    path = grids.write(tmp_path, conditions=CONDITION)
    file = tmp_path / "glue" / "RTE" / "dev.tsv"
    file.write_text(file.read_text().replace("w1", "w2"))
    after = hashes(path)
    assert {title for title in before if before[title] != after[title]} == {"a, seed 1: rte, seed 7"}


def test_conditions_that_are_the_same_share_their_jobs(tmp_path):
    path = grids.write(tmp_path, conditions="[{name: a}, {name: b}, {name: c, overrides: {alignment.kind: middle}}]")
    found = hashes(path)
    assert found["a, seed 1"] == found["b, seed 1"] != found["c, seed 1"]


def test_a_reference_is_known_by_its_weights(tmp_path):
    text = f"references: [{{name: teacher, model: {tiny.teacher()}, parts: [perplexity]}}]"
    path = grids.write(tmp_path, conditions=CONDITION, text=text)
    before = hashes(path)["teacher: perplexity"]
    assert (
        hashes(path, {"references": f"[{{name: t, model: {tiny.teacher(layers=3)}, parts: [perplexity]}}]"})["t: perplexity"]
        != before
    )


def test_what_does_not_fit_is_refused_while_the_jobs_are_made(path):
    for overrides, recipe, sentence in (
        ({"evaluations.glue.data": "/nowhere"}, {}, r"^a: evaluations\.glue\.data: .*nowhere"),
        ({"evaluations.glue.length": "4096"}, {}, r"^a: evaluations\.glue\.length"),
        ({"evaluations.perplexity.length": "4096"}, {}, r"^a: evaluations\.perplexity\.length: 4096 tokens"),
        ({"evaluations.interchange.share": "0"}, {}, r"^evaluations\.interchange\.share: 0\.0 must"),
        ({"evaluations.interchange.blocks": "2"}, {}, r"^a: evaluations\.interchange\.limit: interchange needs at least 3"),
        ({}, {"teacher.tokenizer": tiny.teacher()}, r"^a: teacher\.tokenizer: evaluations are planned with"),
        ({}, {"student.layers": "9"}, r"^a: student\.layers"),
        ({}, {"teacher.model": "/nowhere"}, r"^a: teacher\.model"),
        ({}, {"training.batch": "4000"}, r"^a: training\.batch"),
    ):
        with pytest.raises(ValueError, match=sentence):
            hashes(path, overrides, recipe)


def test_the_estimate_counts_tokens_and_flops_and_takes_hours_from_what_is_done(path, tmp_path):
    grid = read(path, {"evaluations.parts": "[perplexity]", "seeds": "[1, 2]"})
    students = distillations(grid)
    jobs = make_jobs(students, evaluations(grid, students), resources=grid.resources)
    assert [job.numbers.tokens for job in jobs if job.numbers] == [6 * 8 * 16] * 2  # steps × rows × tokens
    text = estimate(jobs, tmp_path, grid.resources)
    assert "4 jobs: 2 distillations of 0.0 M tokens" in text and "2 evaluations" in text
    assert (
        "2 evaluations are not in that figure" in text and "of a matrix product on this machine" in text
    )  # evaluations of a kind that was never run
    first, measured = jobs[0], jobs[1]
    folder = tmp_path / "jobs"
    (folder / first.hash / "run").mkdir(parents=True)
    (folder / measured.hash).mkdir()
    (folder / first.hash / "run" / "metrics.jsonl").write_text(
        json.dumps({"step": 6, "tokens": 768, "tokens_per_second": 0.32}) + "\n"
    )
    for job, seconds in ((first, 3000), (measured, 1800)):
        (folder / job.hash / "done.json").write_text(json.dumps({"seconds": seconds}))
    lines = {line.split("  ")[0]: line.split() for line in estimate(jobs, tmp_path, grid.resources).splitlines()}
    assert lines["a, seed 1"][-2:] == ["0.83", "done"] and lines["a, seed 1: perplexity"][-2:] == ["0.50", "done"]
    assert lines["a, seed 2"][-1] == "0.67"  # 768 tokens at 0.32 a second are 2,400 seconds
    assert lines["a, seed 2: perplexity"][-1] == "0.50"
    assert "to do: 1.2 hours of jobs, one after another (rate: the distillations that are done)" in estimate(
        jobs, tmp_path, grid.resources
    )


def test_a_changed_part_of_the_users_own_is_another_student(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = tmp_path / "own_choice.py"
    module.write_text("def last(eligible, masked, share, generator):\n    return eligible\n")
    own = {"intervention.positions": "own_choice:last"}
    before = hashes(path, {}, own)
    module.write_text("def last(eligible, masked, share, generator):\n    return eligible & masked\n")
    assert not set(before.values()) & set(hashes(path, {}, own).values())
    sys.modules.pop("own_choice", None)
