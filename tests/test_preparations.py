"""What a grid makes first: names in braces, jobs of their own, and the structured grid from end to end in this process."""

import dataclasses
import json
from pathlib import Path

import pytest

from diito import cli
from diito.experiments import gather, reproduce
from diito.experiments.child import finish
from diito.experiments.expansion import distillations, evaluations
from diito.experiments.folders import JobFolder
from diito.experiments.grid import read
from diito.experiments.jobs import make_preparations
from diito.experiments.preparations import Prepared, check_preparations, preparations
from diito.refusal import Refusal
from diito.report.claims import verdicts
from diito.report.figures import figures
from diito.report.metrics import Measured

GRIDS = Path(__file__).parent.parent / "grids"
COMMANDS = {"data": "generate tables --seed {seed} --output {output}", "teacher": "pretrain {data} --output {output}/x"}


@dataclasses.dataclass
class Settings:
    place: str
    numbers: list[int]


def test_names_in_braces_stand_for_the_seed_for_folders_and_for_what_is_found(tmp_path):
    (tmp_path / "values.json").write_text(json.dumps({"layer": 2, "positions": [0, 1], "none": None}))
    prepared = Prepared(7, {"site": tmp_path})
    assert prepared.fill("{seed}") == 7 and prepared.fill("s-{seed}") == "s-7"
    assert prepared.fill({"a": [[0, "{site.layer}"], "{site}/x"]}) == {"a": [[0, 2], f"{tmp_path}/x"]}
    assert prepared.fill("{site.positions}") == [0, 1] and prepared.fill("{site.none}") is None
    assert prepared.fill(Settings("{site}", [1])) == Settings(str(tmp_path), [1])
    assert prepared.fill("[{path: a.txt}] {other}") == "[{path: a.txt}] {other}"
    with pytest.raises(Refusal, match=r"prepare\.site: left nothing of the name depth; there is layer, positions, none"):
        prepared.fill("{site.depth}")


@pytest.mark.parametrize(
    ("commands", "sentence"),
    [
        ({"seed": "generate tables --output {output}"}, "prepare.seed: 'seed' is no name for a preparation"),
        ({"a": "rm {output}"}, "prepare.a: must begin with a command of diito"),
        ({"a": "generate 'tables {output}"}, "prepare.a: .* is no command: No closing quotation"),
        ({"a": "generate tables"}, r"prepare.a: has no \{output\}"),
        (
            {"a": "pretrain {data} --output {output}"},
            r"prepare.a: \{data\} is nothing that is made before it",
        ),
    ],
)
def test_what_can_be_no_preparation_is_refused(commands, sentence):
    with pytest.raises(Refusal, match=sentence):
        check_preparations(commands)


def test_a_preparation_is_named_by_its_command_and_by_what_it_builds_on():
    first = make_preparations(preparations(COMMANDS, [1, 2]))
    assert [job.planned.title for job in first] == ["data, seed 1", "teacher, seed 1", "data, seed 2", "teacher, seed 2"]
    assert len({job.hash for job in first}) == 4
    assert [job.waits_for for job in first] == [None, first[0].hash, None, first[2].hash]
    other = make_preparations(preparations({**COMMANDS, "data": COMMANDS["data"] + " --rows 9"}, [1]))
    assert not {job.hash for job in other} & {job.hash for job in first}
    renamed = {"rows": COMMANDS["data"], "model": COMMANDS["teacher"].replace("{data}", "{rows}")}
    assert [job.hash for job in make_preparations(preparations(renamed, [1]))] == [job.hash for job in first[:2]]


def run_here(jobs, grid, output, address):
    """In place of Ray: the commands of the jobs, one after another."""
    for job in jobs:
        folder = JobFolder(output / "jobs" / job.hash)
        if not folder.is_done:
            arguments = json.loads(folder.job.read_text())["arguments"]
            assert cli.main([*arguments, *(["--overwrite"] if arguments[0] == "distill" else [])]) == 0
            folder.add_attempt({"began": 0, "seconds": 1, "code": 0})
            finish(folder)
    return {}


SMALL = {
    "data": "generate tables --seed {seed} --size 3 --rows 20 --output {output}",
    "teacher": "pretrain {data} --output {output} --steps 2 --accuracy 0 --cross_entropy 9 --config '{hidden_size: 16}'",
}

TWO = [
    {"name": "standard", "method": "standard", "overrides": {"objective.weights": {"task": 0, "ce": 1, "causal_ce": 0}}},
    {"name": "swap", "method": "token-swap", "overrides": {"intervention.control": "token-swap"}},
]


def test_the_structured_grid_runs_from_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(reproduce, "_run", run_here)
    site = read(GRIDS / "structured.yaml").prepare["site"]
    flags = {
        "output": str(tmp_path),
        "seeds": "[3]",
        "prepare": json.dumps({**SMALL, "site": site}),
        "groups": "[{name: few, label: N = 8, overrides: {corpus.examples: 8, student.layers: 1}}]",
        "conditions": json.dumps(TWO),
        "training.steps": "2",
        "training.batch": "4",
    }
    arguments = [
        "reproduce",
        str(GRIDS / "structured.yaml"),
        *(part for key, value in flags.items() for part in (f"--{key}", value)),
    ]
    assert cli.main([*arguments, "--dry-run"]) == 0
    assert "to prepare teacher, seed 3" in capsys.readouterr().out and not list(tmp_path.iterdir())
    wrong = [*arguments, "--overrides", '{training.step: 3, teacher.model: "{teacher}"}']
    assert cli.main(wrong) == 2  # before anything is prepared
    assert "training.step: unknown key; did you mean training.steps?" in capsys.readouterr().err
    assert cli.main(arguments) == 0
    assert "4 of 4 jobs are done, 0 failed" in capsys.readouterr().out
    measured = gather.read(tmp_path / "structured")
    assert [set(each["result"]["models"]) for each in measured["evaluations"]] == [{"student", "teacher"}] * 2
    assert Measured(measured).values("standard-few", "held accuracy").keys() == {(3, None)}


def test_the_structured_grid_has_its_conditions_in_each_group(tmp_path):
    assert len(read(GRIDS / "structured.yaml").seeds) >= 8
    grid = read(GRIDS / "structured.yaml", {"seeds": "[1]"})
    found = {"layer": 1, "positions": [0, 1, 2], "wrong_layer": 3, "other_positions": [3, 4, 5]}
    (tmp_path / "values.json").write_text(json.dumps(found))
    made = [Prepared(seed, dict.fromkeys(grid.prepare, tmp_path)) for seed in grid.seeds]
    students = distillations(grid, made)
    assert len(students) == len(grid.conditions)
    recipes = {each.condition.name: each.recipe for each in students}
    assert recipes["site-copied-200"].intervention.positions.at == [0, 1, 2]
    assert recipes["other-copied-200"].intervention.positions.at == [3, 4, 5]
    assert recipes["wrong-random-200"].alignment.pairs[0].teacher == [3]
    assert recipes["standard-random-200"].student.config == {"num_hidden_layers": 2}
    assert recipes["hint-copied-200"].objective.options.hidden.layers == [(0, 1)]
    assert recipes["site-copied-600"].corpus.examples == 600 and "hint-copied-600" not in recipes
    depths = {name: recipe.student.config for name, recipe in recipes.items() if "-random-depth-" in name}
    assert len(depths) == 9 and depths["site-random-depth-4"] == {"num_hidden_layers": 4}
    assert recipes["both-copied-200"].intervention.control == "both"
    standard = recipes["standard-copied-200"].objective.weights.as_dict()
    for name, recipe in recipes.items():  # all stand on one baseline
        weights = recipe.objective.weights.as_dict()
        times = 2 if name.startswith("doubled") else 1
        assert (weights["ce"], weights["cos"], weights["task"]) == (times * standard["ce"], times * standard["cos"], 0)
        assert weights["causal_ce"] in (0, standard["ce"]) and weights["causal_cos"] in (0, standard["cos"])
    (first, *_) = evaluations(grid, students[:1], made)
    assert first.settings.data == first.settings.teacher == str(tmp_path)
    assert first.settings.site == f"{tmp_path}/values.json"


@pytest.mark.parametrize("name", ["scrambled", "chain", "carry", "circuit", "decoder", "classifier"])
def test_the_other_structured_grids_compare_six_conditions_at_a_site_of_their_own(name, tmp_path):
    grid = read(GRIDS / f"structured-{name}.yaml", {"seeds": "[2]"})
    site = ["a0", "b0"] if name == "scrambled" else [3, 4]
    (tmp_path / "values.json").write_text(json.dumps({"layer": 1, "positions": site}))
    students = distillations(grid, [Prepared(2, dict.fromkeys(grid.prepare, tmp_path))])
    recipes = {each.condition.name.rsplit("-", 1)[0].removesuffix("-copied"): each.recipe for each in students}
    assert recipes.keys() == {"standard", "doubled", "site", "full-below-top", "token-swap", "random-swap"}
    for at_site in (recipes["site"], recipes["token-swap"]):
        positions = at_site.intervention.positions
        assert (positions.tokens or positions.at) == site and at_site.alignment.pairs[0].teacher == [1]
    assert {recipe.task for recipe in recipes.values()} == {
        {"decoder": "causal-lm", "classifier": "sequence-classification"}.get(name, "cloze")
    }
    rows = {recipe.corpus.examples or round(recipe.corpus.share * 1600) for recipe in recipes.values()}
    assert rows == {{"carry": 64, "circuit": 40}.get(name, 200)}


def test_a_group_may_have_some_of_the_conditions():
    few = "{name: few, label: N = 8, conditions: [standard]}"
    overrides = {"groups": f"[{few}, {{name: all, label: all}}]", "maps": "[full]"}
    grid = read(GRIDS / "smoke.yaml", overrides)
    assert [each.name for each in grid.conditions] == ["standard-few", "standard-all", "full-all"] and grid.maps == ["full-all"]
    with pytest.raises(Refusal, match=r"^few\.conditions: 'hint' is no condition of the grid; there are standard, full"):
        read(GRIDS / "smoke.yaml", {"groups": f"[{few.replace('standard', 'hint')}]"})


def test_a_grid_may_extend_another(tmp_path):
    (tmp_path / "recipe.yaml").write_text("seed: 1\n")
    base = read(GRIDS / "smoke.yaml")
    (tmp_path / "first.yaml").write_text((GRIDS / "smoke.yaml").read_text().replace("../recipes/quickstart", "recipe"))
    prepare = '{z: "generate chain --output {output}", a: "pretrain {z} --output {output}"}'
    (tmp_path / "second.yaml").write_text(f"{{extends: first.yaml, name: second, prepare: {prepare}}}")
    (tmp_path / "third.yaml").write_text("{extends: second.yaml, name: third, seeds: [7]}")
    grid = read(tmp_path / "third.yaml", {"retries": "3"})
    assert (grid.name, grid.seeds, grid.retries, [*grid.prepare]) == ("third", [7], 3, ["z", "a"])
    assert [each.name for each in grid.conditions] == [each.name for each in base.conditions]
    assert {each.recipe for each in grid.conditions} == {str(tmp_path / "recipe.yaml")}
    (tmp_path / "wrong.yaml").write_text("{extends: first.yaml, nane: x}")
    with pytest.raises(Refusal, match="nane: unknown key; did you mean name"):
        read(tmp_path / "wrong.yaml")
    (tmp_path / "round.yaml").write_text("extends: round.yaml")
    with pytest.raises(Refusal, match=r"^extends: round\.yaml extends, in the end, itself"):
        read(tmp_path / "round.yaml")
    (tmp_path / "lost.yaml").write_text("extends: none.yaml")
    with pytest.raises(Refusal, match=r"there is no grid .*none\.yaml"):
        read(tmp_path / "lost.yaml")


def test_a_grid_without_groups_is_as_it_was():
    grid = read(GRIDS / "small.yaml")
    assert not grid.groups and not grid.prepare and "standard" in [each.name for each in grid.conditions]


def structured(held):
    """Measurements of a grid with ``held`` accuracies: {(method, rows): by seed}."""
    rows = [
        {
            "name": f"{method}-{n}",
            "label": None,
            "group": f"copied layers, N = {n}",
            "paper": None,
            "method": method,
            "share": 1,
        }
        for method, n in held
    ]
    evaluations = [
        {
            "kind": "structure",
            "row": f"{method}-{n}",
            "seed": seed,
            "task": None,
            "fine_tuning_seed": None,
            "done": True,
            "result": {
                "models": {"student": {"accuracy": {"held": value}, "agreement": {}, "site": {"effective_iia": 1 - value}}}
            },
        }
        for (method, n), values in held.items()
        for seed, value in enumerate(values)
    ]
    return Measured({"name": "g", "rows": rows, "students": [], "evaluations": evaluations})


def test_claims_of_a_structured_grid_compare_the_site_with_every_other_method_in_all_groups(tmp_path):
    site, standard, swap = (0.9, 0.91, 0.92), (0.2, 0.22, 0.21), (0.9, 0.95, 0.88)
    held = {
        (method, n): values
        for n in (200, 600)
        for method, values in zip(("standard", "site", "token-swap"), (standard, site, swap), strict=True)
    }
    measured = structured(held)
    found = {each.claim: each for each in verdicts(measured)}
    standard_claim = found["DIITO at the site beats: Standard (Held-out combinations: accuracy)"]
    assert standard_claim.verdict == "confirmed" and "N = 200: +0.700" in standard_claim.evidence
    assert found["DIITO at the site beats: Token swap (Held-out combinations: accuracy)"].verdict == "undecided"
    assert len(found) == 3
    over_rows = next(each for each in figures(measured, tmp_path) if each.path.name == "over-rows.png")
    assert over_rows.path.stat().st_size > 1_000
