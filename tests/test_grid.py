"""Grids as data: hand-worked expansions, and what is refused before anything is loaded."""

from collections import Counter
from pathlib import Path

import pytest
import tiny

from diito import cli
from diito.experiments.expansion import Evaluation, distillations, evaluations
from diito.experiments.grid import read
from diito.report.metrics import METHODS

GRIDS = Path(__file__).parent.parent / "grids"


def expand(grid):
    students = distillations(grid)
    return students, evaluations(grid, students)


def grid_file(tmp_path, text="", *, conditions="[{name: a, method: standard}]"):
    path = tmp_path / "grid.yaml"
    text += "" if "evaluations:" in text else "\nevaluations: {parts: []}"
    path.write_text(f"name: g\nrecipe: {tiny.recipe_file()}\nconditions: {conditions}\n{text}", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def papers():
    """The students and evaluations of the paper's grid."""
    return expand(read(GRIDS / "paper.yaml"))


def test_the_papers_grid_has_the_jobs_that_were_counted_by_hand(papers):
    students, measurements = papers
    # seven conditions of 6 layers, four of 3, four on 15 % of the corpus, two of 9, each with three seeds
    assert len(students) == (7 + 4 + 4 + 2) * 3
    kinds = Counter(each.kind for each in measurements)
    # eight GLUE tasks with five seeds each: 17 - 4 conditions by three seeds, and two references
    assert kinds["glue"] == (13 * 3 + 2) * 8 * 5
    # CoNLL and SQuAD: not of the 9 layers of Figure 3
    assert kinds["ner"] == kinds["squad"] == (11 * 3 + 2) * 5
    assert kinds["perplexity"] == 17 * 3 + 2
    assert kinds["interchange"] == 17 * 3
    assert kinds["map"] == 2
    assert len(measurements) == 1640 + 175 + 175 + 53 + 51 + 2


def test_the_papers_grid_distils_what_the_paper_says(papers):
    students = {(each.condition.name, each.seed): each.recipe for each in papers[0]}
    assert {seed for _, seed in students} == {42, 66, 88}
    for name, recipe in ((name, recipe) for (name, _), recipe in students.items()):
        assert recipe.teacher.model == "google-bert/bert-base-uncased"
        assert recipe.corpus.sources[0].config == "wikitext-103-v1"
        assert recipe.corpus.share == (0.15 if name.endswith("low") else 1)
    layers = {name: recipe.student.layers for (name, _), recipe in students.items()}
    assert layers["full-6"] == [0, 2, 4, 7, 9, 11] and layers["full-3"] == layers["late-3-low"] == 3
    assert layers["standard-9"] == "released-9"
    assert students["standard-3", 66].objective.weights.causal_ce == 0
    assert students["full-cos-6", 66].objective.weights.causal_cos == 0.2


def test_the_small_grid_has_the_seven_conditions_and_the_four_controls():
    grid = read(GRIDS / "small.yaml")
    students, measurements = expand(grid)
    of_structure = {"site", "other-site", "random-swap", "hint"}
    assert {each.method for each in grid.conditions} == set(METHODS) - of_structure
    assert {each.method for each in read(GRIDS / "structured.yaml").conditions} >= of_structure
    assert len(students) == 11 * 3
    assert len(measurements) == 33 * (1 + 1 + 2) + 1 + 2  # two tasks, one seed; the teacher; two maps
    recipes = {each.condition.name: each.recipe for each in students if each.seed == 42}
    assert {recipe.training.steps for name, recipe in recipes.items() if name != "standard-equal-flops"} == {500}
    assert {(recipe.training.batch, recipe.seed, recipe.masking.smoothing) for recipe in recipes.values()} == {(8, 42, 0)}
    assert recipes["token-swap"].intervention.control == "token-swap" and recipes["shuffled"].alignment.shuffled
    doubled = recipes["standard-double-kl"].objective.weights.as_dict()
    assert {name: weight for name, weight in doubled.items() if weight} == {"task": 0.25, "ce": 0.5, "cos": 0.25}


def test_the_grid_of_classifiers_compares_four_conditions_at_two_depths_and_two_sizes():
    students, measurements = expand(read(GRIDS / "sst2.yaml"))
    assert len(students) == 4 * 2 * 2 * 5
    assert Counter(each.kind for each in measurements) == {"classification": 80 + 1, "interchange": 80}
    assert {each.recipe.corpus.examples for each in students} == {500, 1000}
    assert {each.settings.teacher for each in measurements} == {students[0].recipe.teacher.model}


def test_all_conditions_of_a_seed_stand_together_and_each_student_is_measured_alike(tmp_path):
    text = "seeds: [1, 2]\nfine_tuning_seeds: [7, 8]\nevaluations: {parts: [perplexity, glue], glue: {tasks: [rte, cola]}}\n"
    grid = read(grid_file(tmp_path, text, conditions="[{name: a}, {name: b, parts: [perplexity]}]"))
    students, measurements = expand(grid)
    assert [each.title for each in students] == ["a, seed 1", "b, seed 1", "a, seed 2", "b, seed 2"]
    of_a = [each.title for each in measurements if each.of is students[0]]
    assert of_a == ["a, seed 1: perplexity"] + [
        f"a, seed 1: {task}, seed {seed}" for task in ("rte", "cola") for seed in (7, 8)
    ]
    assert [each.kind for each in measurements if each.of is students[1]] == ["perplexity"]
    assert all(each.settings.seeds == [each.seed] and each.settings.tasks == [each.task] for each in measurements if each.task)


def test_overrides_go_from_the_grid_over_the_condition_to_the_command(tmp_path):
    conditions = "[{name: a, overrides: {training.batch: 2, training.steps: 3}}, {name: b}]"
    grid = read(
        grid_file(tmp_path, "overrides: {training.batch: 3}\nseeds: [5]\n", conditions=conditions), {}, {"training.steps": "4"}
    )
    a, b = (each.recipe for each in distillations(grid))
    assert (a.training.batch, a.training.steps, b.training.batch, b.training.steps, a.seed) == (2, 4, 3, 4, 5)


def test_a_section_on_top_replaces_single_fields_below(tmp_path):
    path = grid_file(tmp_path, "overrides: {objective.weights.mlm: 0.5, training.steps: 3}\nseeds: [5]\n")
    (only,) = distillations(read(path, {}, {"objective.weights": "{ce: 0.7}"}))
    assert (only.recipe.objective.weights.mlm, only.recipe.objective.weights.ce, only.recipe.training.steps) == (0.25, 0.7, 3)
    (only,) = distillations(read(path, {}, {"objective.weights.ce": "0.7"}))
    assert (only.recipe.objective.weights.mlm, only.recipe.objective.weights.ce) == (0.5, 0.7)


def test_precision_is_decided_by_the_grid_and_not_by_the_machine_that_plans(tmp_path):
    text = "evaluations: {parts: [ner]}\nfine_tuning_seeds: [1]\nseeds: [1]\nresources: {evaluate: {cpus: 1, gpus: %s}}\n"
    for gpus, precision in ((0, "fp32"), (0.5, "bf16")):
        (only,) = expand(read(grid_file(tmp_path, text % gpus)))[1]
        assert isinstance(only, Evaluation) and only.settings.precision == precision


REFUSED = {
    "seeds: []": "seeds: the list is empty",
    "seeds: [1, 1]": "seeds: 1 must be given once",
    "fine_tuning_seeds: [-1]": "fine_tuning_seeds: -1 must be given once, at least 0",
    "retries: -1": "retries: -1 must be at least 0",
    "maps: [b]": "maps: 'b' is no condition of the grid",
    "evaluations: {parts: [perplexitty]}": "evaluations.parts: 'perplexitty' is not one of perplexity, classification",
    "evaluations: {parts: [glue]}": "evaluations.glue.tasks: name the tasks",
    "evaluations: {parts: [perplexity], perplexity: {against: x}}": "evaluations.perplexity.against",
    "evaluations: {parts: [interchange], interchange: {map: true}}": "evaluations.interchange.map: name the conditions",
    "references: [{name: a, model: x}]": "conditions: 'a' is named twice",
    "references: [{name: r, model: x, parts: [interchange]}]": "r.parts: interchange needs",
    "resources: {distil: {cpus: 0}}": "resources.distil: a job must take something",
    "resources: {evaluate: {processes: 2}}": "resources.evaluate.processes: 2 is not possible",
    "override: {}": "override: unknown key; did you mean overrides?",
    "overrides: {training.step: 3}": "conditions, a: training.step: unknown key; did you mean training.steps?",
    "overrides: {seed: 3}": "a.overrides: seed is the grid's to give",
    "evaluations: {parts: [glue], glue: {tasks: [wnli]}}": "evaluations.glue.tasks: 'wnli' is not one of the paper's, cola,",
    "resources: {distil: {cpus: 1, gpus: 1, processes: 2}}": "resources.distil.processes: 2 is not possible",
    "overrides: {training.steps: 0}": "conditions, a: training.steps: 0",
}


@pytest.mark.parametrize("text", REFUSED)
def test_refused_with_one_sentence_and_nothing_written(text, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = grid_file(tmp_path, text)
    assert cli.main(["reproduce", str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("diito: ") and captured.err.count("\n") == 1 and REFUSED[text] in captured.err
    assert [entry.name for entry in tmp_path.iterdir()] == ["grid.yaml"]


def test_refused_conditions(tmp_path):
    for conditions, sentence in {
        "[]": "conditions: the list is empty",
        "[{name: a}, {name: a}]": "conditions: 'a' is named twice",
        "[{name: a b}]": "conditions: 'a b' is no name",
        "[{name: a, paper: 6/ful}]": "a.paper: '6/ful' is not one of 6/standard, ",
        "[{name: a, method: ful}]": "a.method: 'ful' is not one of standard, middle",
        "[{name: a, recipe: nowhere.yaml}]": "conditions, a: there is no recipe",
        "[{method: full}]": r"conditions\[0\].name: missing",
    }.items():
        with pytest.raises(ValueError, match=sentence):
            distillations(read(grid_file(tmp_path, conditions=conditions)))
    with pytest.raises(ValueError, match=r"there is no grid .*no\.yaml"):
        read(tmp_path / "no.yaml")
    with pytest.raises(ValueError, match="name: 'jobs' must be the plain name of a folder, and not 'jobs'"):
        read(grid_file(tmp_path), {"name": "jobs"})


def test_grids_that_come_with_diito_are_read_by_their_names(tmp_path):
    by_name, by_path = (distillations(read(grid)) for grid in ("grid:smoke", GRIDS / "smoke.yaml"))
    assert [each.recipe for each in by_name] == [each.recipe for each in by_path]
    with pytest.raises(ValueError, match="diito has no grid of the name smke; did you mean grid:smoke"):
        read("grid:smke")
    (only,) = distillations(read(grid_file(tmp_path, "seeds: [1]", conditions="[{name: a, recipe: 'recipe:standard'}]")))
    assert only.recipe.objective.weights.causal_ce == 0


def test_a_field_on_top_replaces_it_below_under_another_name(tmp_path):
    path = grid_file(tmp_path, "overrides: {training.steps: 3, training.betas: [0.5, 0.6]}\nseeds: [5]\n")
    (only,) = distillations(read(path, {}, {"training.max_steps": "2", "training.adam_beta1": "0.7"}))
    assert (only.recipe.training.max_steps, only.recipe.training.betas) == (2, (0.7, 0.6))
