"""The speed benchmark: it runs, and its sides compute the same thing. Nothing here depends on how long anything takes."""

import copy
import json
import math
import sys

import pytest
import torch

if not sys.platform.startswith("linux"):
    pytest.skip("benchmarks need /proc", allow_module_level=True)

from benchmarks import gpu, profile, scaling, sides, step
from benchmarks.literal import LiteralStep
from benchmarks.sides import Case
from diito.method.alignment import Alignment
from diito.method.objective import DistillationObjective
from diito.method.positions import consecutive, derangement
from diito.method.weights import PAPER_WEIGHTS

TINY = "--teacher-layers 4 --student-layers 2 --width 16 --heads 2 --batch 3 --length 16 --words 50".split()  # noqa: SIM905
CASE = Case(teacher_layers=4, student_layers=2, width=16, heads=2, batch=3, length=16, words=50)
CPU = torch.device("cpu")


def numbers(content):
    """Every number in nested dictionaries and lists."""
    if isinstance(content, dict | list):
        for each in content.values() if isinstance(content, dict) else content:
            yield from numbers(each)
    elif isinstance(content, int | float) and not isinstance(content, bool):
        yield content


@pytest.mark.soak
def test_every_side_of_every_case_is_measured(tmp_path, capsys):
    output = tmp_path / "made" / "step.json"
    names = ["literal", "diito-bf16", "standard-bf16"]
    arguments = [*TINY, "--alignment", "full", "middle", "--sides", *names, "--rounds", "3", "--warmup", "1", "--threads", "1"]
    step.main([*arguments, "--device", "cpu", "--output", str(output)])
    full, middle = json.loads(output.read_text())["cases"]
    assert (full["case"]["alignment"], middle["case"]["alignment"]) == ("full", "middle")
    assert sorted(each["pair"] for each in full["rounds"]) == [0, 0, 1, 1]  # a multiple of the pairs
    assert [each["pair"] for each in middle["rounds"]] == [0, 0, 0]
    for measured in (full, middle):
        assert sorted(measured["sides"]) == sorted(names)
        assert set(measured["ratios"]) == {f"literal / {each}" for each in names[1:]} | {"diito-bf16 / standard-bf16"}
        figures = list(numbers([measured["sides"], measured["ratios"], measured["peak"]]))
        assert all(math.isfinite(number) and number > 0 for number in figures)
    assert "(c) DIITO, bf16" in capsys.readouterr().out


@pytest.mark.parametrize("side", ["literal", "diito-bf16", "standard-fp32"])
@pytest.mark.parametrize("pair", [0, 1])
def test_torch_counts_the_flops_of_the_formula(side, pair):
    case = Case(teacher_layers=4, student_layers=2, width=32, heads=2, batch=3, length=42, words=70)
    stepper = sides.Stepper(sides.SIDES[side], case, *sides.build_models(case, CPU))
    aligned = case.pairs()[pair]
    assert stepper.counted_flops(0, aligned) == pytest.approx(sides.step_flops(sides.SIDES[side], case, aligned), rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["--sides", "literal", "eager"], "'eager'"), (["--rounds", "0"], "--rounds"), (["--alignment", "top"], "'top'")],
)
def test_what_cannot_be_measured_is_refused(arguments, named, capsys):
    with pytest.raises(SystemExit):
        step.main([*TINY, *arguments])
    assert named in capsys.readouterr().err


def test_the_profile_accounts_for_the_whole_step(tmp_path):
    report = profile.main([*TINY, "--device", "cpu", "--steps", "2", "--output", str(tmp_path / "profile.json")])
    parts = report["parts"]
    expected = {f"{part}, forward" for part in profile.DIFFERENTIATED} | {"student, backward", "heads, backward"}
    assert expected | {"optimiser", "data", "waiting"} <= set(parts)
    assert "teacher, backward" not in parts
    assert sum(parts.values()) == pytest.approx(report["step_seconds"], rel=0.02)
    assert json.loads((tmp_path / "profile.json").read_text())["parts"] == parts


def test_cases_of_the_scaling_differ_from_the_base_in_one_size(monkeypatch):
    for name, (case, count) in scaling.cases().items():
        changed = [field for field, value in vars(case).items() if value != vars(scaling.BASE)[field]]
        assert changed == ([] if name.startswith(("base", "accumulation")) else [name.split()[0]])
        assert count == (int(name.split()[1]) if name.startswith("accumulation") else 1)
    tiny = {"base": (CASE, 1), "accumulation 2": (CASE, 2)}
    monkeypatch.setattr(scaling, "cases", lambda: tiny)
    costs = scaling.measure_costs("diito-bf16", 1, CPU)
    assert [(each["changed"], each["of_base_in_flops"]) for each in costs] == [("base", 1.0), ("accumulation 2", 2.0)]


@pytest.mark.soak
def test_the_gpu_script_runs_without_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "COMPARED", ["diito-bf16"])
    arguments = ["--device", "cpu", "--width", "16", "--batches", "2", "--lengths", "8", "--steps", "1", "--quick"]
    report = gpu.main([*arguments, "--output", str(tmp_path)])
    (only,) = json.loads((tmp_path / "sweep.json").read_text())["results"]
    assert only == report["results"][0] and only["tokens_per_second"] > 0
    assert json.loads((tmp_path / "profile.json").read_text())["case"]["length"] == 8


@pytest.mark.parametrize("pair", [0, 1])
def test_the_literal_step_and_ours_have_one_loss_and_one_gradient(pair):
    """Without dropout, with a label at every token and every token in the losses, only the way differs."""
    teacher, student = sides.build_models(CASE, CPU)
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    batch = sides.masked_batch(CASE, 5, CPU)
    batch["labels"] = torch.randint(CASE.words, batch["labels"].shape)
    swap = sides.draw_swap(batch, CASE.pairs()[pair], 5)
    assert swap.positions.any(1).all()
    weights = {**PAPER_WEIGHTS, "causal_cos": 0.5, "mse": 0.01}
    copied = copy.deepcopy(student)

    objective = DistillationObjective(
        copied, teacher, Alignment([swap.pair]), weights=weights, tokens="all", share=sides.SHARE, seed=sides.SEED
    )
    ours = objective.train()(batch, step=swap.step)["loss"]
    source = {"input_ids": batch["input_ids"][swap.rows]}
    literal = LiteralStep(student, teacher, weights=weights)(
        batch, source, list(swap.pair.student), list(swap.pair.teacher), swap.positions
    )
    torch.testing.assert_close(ours, literal, rtol=0, atol=1e-4)
    ours.backward()
    literal.backward()
    for mine, expected in zip(copied.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, expected.grad, rtol=1e-4, atol=1e-5)


def test_the_benchmark_hands_the_literal_side_the_swap_the_objective_draws():
    teacher, student = sides.build_models(CASE, CPU)
    batch = sides.masked_batch(CASE, 2, CPU)
    seen = []

    def recorded(eligible, masked, share, draws):
        seen.append(consecutive(eligible, masked, share, draws))
        return seen[-1]

    def paired(rows, draws):
        seen.append(derangement(rows, draws))
        return seen[-1]

    alignment = Alignment(CASE.pairs())
    DistillationObjective(student, teacher, alignment, positions=recorded, pairing=paired, share=sides.SHARE, seed=sides.SEED)(
        batch, step=2
    )
    swap = sides.draw_swap(batch, alignment.pairs[0], 2)
    assert torch.equal(seen[0], swap.rows) and torch.equal(seen[1], swap.positions)
