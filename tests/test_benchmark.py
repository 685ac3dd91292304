"""The speed benchmark: it runs, and its sides compute the same thing. Nothing here depends on how long anything takes."""

import copy
import json
import math

import pytest
import step as benchmark
import torch
from literal import LiteralStep

from diito.alignment import Alignment
from diito.objective import PAPER_WEIGHTS, DistillationObjective
from diito.positions import consecutive, derangement

TINY = "--teacher-layers 4 --student-layers 2 --width 16 --heads 2 --batch 3 --length 16 --words 50".split()  # noqa: SIM905
CPU = torch.device("cpu")


def numbers(content):
    """Every number in nested dictionaries and lists."""
    if isinstance(content, dict | list):
        for each in content.values() if isinstance(content, dict) else content:
            yield from numbers(each)
    elif isinstance(content, int | float) and not isinstance(content, bool):
        yield content


def test_the_benchmark_measures_every_side(tmp_path, capsys):
    output = tmp_path / "step.json"
    arguments = [*TINY, "--device", "cpu", "--rounds", "3", "--warmup", "1", "--threads", "1", "--output", str(output)]
    benchmark.main(arguments)
    report = json.loads(output.read_text())
    assert list(report["sides"]) == list(benchmark.SIDES)
    assert len(report["rounds"]) == 4  # a multiple of the pairs
    assert sorted(each["student"] for each in report["rounds"]) == [[0], [0], [1], [1]]
    measured = list(numbers([report["sides"], report["ratios"], report["peak"]]))
    assert all(math.isfinite(number) and number > 0 for number in measured)
    for side in report["sides"].values():
        assert {"seconds", "share_of_peak", "peak_bytes", "first_step_seconds"} <= set(side)
    assert {"literal / diito-bf16", "diito-fp32 / standard-fp32", "diito-bf16 / standard-bf16"} <= set(report["ratios"])
    assert "(c) DIITO, bf16" in capsys.readouterr().out


def test_an_unknown_side_is_refused(capsys):
    with pytest.raises(SystemExit):
        benchmark.main([*TINY, "--sides", "literal,eager"])
    assert "'eager'" in capsys.readouterr().err


@pytest.mark.parametrize("pair", [0, 1])
def test_the_literal_step_and_ours_have_one_loss_and_one_gradient(pair):
    """Without dropout, with a label at every token and every token in the losses, only the way differs."""
    options = benchmark.parse(TINY)
    teacher, student = benchmark.build_models(options, CPU)
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    batch = benchmark.masked_batch(options, 5, CPU)
    batch["labels"] = torch.randint(options.words, batch["labels"].shape)
    swap = benchmark.draw_swap(batch, benchmark.full_alignment(options).pairs[pair], 5)
    assert swap.positions.any(1).all()
    weights = {**PAPER_WEIGHTS, "causal_cos": 0.5, "mse": 0.01}
    copied = copy.deepcopy(student)

    objective = DistillationObjective(
        copied, teacher, Alignment([swap.pair]), weights=weights, tokens="all", share=benchmark.SHARE, seed=benchmark.SEED
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
    options = benchmark.parse(TINY)
    teacher, student = benchmark.build_models(options, CPU)
    batch = benchmark.masked_batch(options, 2, CPU)
    seen = []

    def recorded(eligible, masked, share, draws):
        seen.append(consecutive(eligible, masked, share, draws))
        return seen[-1]

    def paired(rows, draws):
        seen.append(derangement(rows, draws))
        return seen[-1]

    alignment = benchmark.full_alignment(options)
    DistillationObjective(
        student, teacher, alignment, positions=recorded, pairing=paired, share=benchmark.SHARE, seed=benchmark.SEED
    )(batch, step=2)
    swap = benchmark.draw_swap(batch, alignment.pairs[0], 2)
    assert torch.equal(seen[0], swap.rows) and torch.equal(seen[1], swap.positions)
