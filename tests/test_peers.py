"""The comparison with peers: what it makes of figures, and that our side does the work of a plain loop. No peer is needed."""

import ast
import sys

import pytest
import torch

if not sys.platform.startswith("linux"):
    pytest.skip("benchmarks need /proc", allow_module_level=True)

from benchmarks.peers.cases import CASES, SIDES
from benchmarks.peers.environments import HERE
from benchmarks.peers.tables import markdown
from benchmarks.peers.verdicts import judge


def figures(seconds, *, task=7.0, megabytes=100):
    """What a side took in two rounds."""
    steps = [{"processor": each, "wall": 2 * each} for each in seconds]
    return {"title": "a side", "note": "", "steps": steps, "first_values": {"task": task}, "peak_bytes": 1e6 * megabytes}


def judged(**sides):
    """The decoder's case with these sides, by their names with underscores."""
    named = {name.replace("_", "-"): side for name, side in sides.items()}
    options = {"precision": "fp32", "threads": 1, "dropout": 0.0}
    said = {"case": "decoder", "title": "decoder", "options": options, "rounds": 2}
    return {**said, **judge(CASES["decoder"], named, precision="fp32")}


def test_ratios_are_of_means_with_the_range_of_the_rounds():
    measured = judged(diito=figures([1.0, 3.0], megabytes=50), plain=figures([3.0, 6.0]))
    ratio = measured["ratios"]["plain"]
    assert ratio["processor"] == {"of_means": 2.25, "lowest": 2.0, "highest": 3.0}
    assert ratio["memory"] == 2.0


def test_a_goal_is_against_the_best_of_its_sides_that_took_part():
    missing = {"title": "TRL", "note": "", "steps": [], "missing": "not installed: no network"}
    measured = judged(
        diito=figures([1.0, 1.0], megabytes=40),
        plain=figures([2.0, 2.0]),
        trl_gkd=figures([3.0, 3.0]),
        trl_distillation=figures([2.4, 2.4]),
        liger=missing,
    )
    loop, trl, memory = measured["goals"]
    assert (loop["reached"], loop["met"]) == (2.0, True)
    assert (trl["against"], trl["reached"], trl["met"]) == ("trl-distillation", 2.4, False)
    assert (memory["reached"], memory["met"]) == (0.4, False)
    shown = markdown(measured)
    assert "not installed: no network" in shown and "MISSED" in shown
    alone = judged(diito=figures([1.0, 1.0]))
    assert [goal["met"] for goal in alone["goals"]] == [None, None, None]


@pytest.mark.parametrize(("task", "agrees"), [(7.001, True), (7.1, False)])
def test_other_work_is_marked(task, agrees):
    measured = judged(diito=figures([1.0, 1.0], task=task), plain=figures([1.0, 1.0]))
    assert measured["sides"]["diito"]["agrees"] is agrees
    assert ("DIFFERS" in markdown(measured)) is not agrees


def test_every_side_of_every_case_is_there_and_only_ours_import_diito():
    for case in CASES.values():
        assert {case.ours, case.reference, *case.others} <= SIDES.keys()
        assert {name for goal in case.goals for name in goal.over} <= {*case.others}
    for side in SIDES.values():
        assert side.pins is None or (HERE / f"{side.pins}.txt").read_text(encoding="utf-8").count("torch==") == 1
        tree = ast.parse((HERE / "sides" / f"{side.module}.py").read_text(encoding="utf-8"))
        imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        imported |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
        has_diito = any(name.split(".")[0] in ("diito", "benchmarks") for name in imported)
        assert has_diito == (side.module in ("ours", "our_interchange")), side.module


@pytest.mark.parametrize("name", ["masked-256", "decoder", "classifier"])
def test_our_step_and_a_plain_one_have_the_same_losses_and_gradients(name, monkeypatch):
    monkeypatch.syspath_prepend(HERE / "sides")
    import ours
    import peer_models
    import plain

    case = CASES[name].smaller().settings(SIDES["diito"], precision="fp32", threads=1, dropout=0.0)
    losses, gradients = [], []
    for module in (ours, plain):
        side = module.Side(case, *peer_models.teacher_and_student(case))
        losses.append(
            {name: loss.detach() for name, loss in side.backward(side.prepare(peer_models.batch_of(case, 0)), 0).items()}
        )
        gradients.append([parameter.grad for parameter in side.parameters()])
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients)
