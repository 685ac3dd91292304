"""Law 8: a run that is stopped and resumed gives the bits of one that is not, however it was stopped."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
import torch

from diito.cli import main
from diito.run import distill as distill_module
from diito.run.distill import distill
from diito.run.folder import RunFolder
from diito.training.callbacks import Interruption

# 45 blocks: 11 micro-batches an epoch, 4 steps of 3, 3, 3 and 2 of them; 2.5 epochs are 10 steps.
ODD = {"training.steps": "null", "training.epochs": "2.5", "training.accumulation": "3"}
CASES = {
    "blocks": ODD,
    "lines": ODD | {"corpus.layout": "lines"},
    "blocks-bf16-independent-sources": ODD | {"speed.precision": "bf16", "intervention.pairing": "independent"},
    "lines-bf16": ODD | {"corpus.layout": "lines", "speed.precision": "bf16"},
    "lines-independent-sources-workers": ODD
    | {
        "corpus.layout": "lines",
        "intervention.pairing": "independent",
        "intervention.source_positions": "independent",
        "training.arguments": "{dataloader_num_workers: 2}",
    },
    "blocks-one-micro-batch-a-step": {"training.steps": "24", "training.accumulation": "1"},
    "blocks-an-epoch-a-step": {"training.steps": "4", "training.accumulation": "20"},
}
STOPS = {"blocks-one-micro-batch-a-step": [11, 18], "blocks-an-epoch-a-step": [1, 3]}


def stop_at(monkeypatch, step: int | None, number: int = signal.SIGTERM) -> None:
    """Send this very process a signal at the end of ``step``; None: never."""

    class Signalled(Interruption):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == step:
                signal.raise_signal(number)
            super().on_step_end(args, state, control, **kwargs)

    monkeypatch.setattr(distill_module, "Interruption", Signalled)


def without_rate(lines):
    return [{name: value for name, value in line.items() if name != "tokens_per_second"} for line in lines]


def _cases():
    """Every case; blocks in each run of the suite, the others, which take longer, in the soak."""
    for case in CASES:
        is_slow = case != "blocks"
        yield pytest.param(case, marks=(pytest.mark.soak,) if is_slow else ())


@pytest.mark.parametrize("case", list(_cases()))
def test_stopped_in_the_first_epoch_at_its_end_and_in_the_second_gives_the_same_bits(case, tmp_path, monkeypatch):
    overrides = CASES[case]
    straight = tiny.run(tmp_path / "straight", overrides)
    recipe = tiny.recipe(tmp_path / "stopped", overrides)
    stopped = tmp_path / "stopped" / "tiny"
    stops = STOPS.get(case, [2, 4, 6])
    for index, step in enumerate(stops):
        stop_at(monkeypatch, step)
        assert distill(recipe, resume=index > 0) == 143
        assert tiny.checkpoints(stopped)[-1] == f"checkpoint-{step}"
    stop_at(monkeypatch, None)
    assert distill(recipe, resume=True) == 0
    assert tiny.same(tiny.weights(straight / "student"), tiny.weights(stopped / "student"))
    lines = tiny.metrics(stopped)
    assert without_rate(lines) == without_rate(tiny.metrics(straight))
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    assert len(lines) > stops[-1]


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path):
    first, second = (tiny.run(tmp_path / name) for name in ("first", "second"))
    other = tiny.run(tmp_path / "other", {"seed": "2"})
    assert tiny.same(tiny.weights(first / "student"), tiny.weights(second / "student"))
    assert not tiny.same(tiny.weights(first / "student"), tiny.weights(other / "student"))
    assert without_rate(tiny.metrics(first)) == without_rate(tiny.metrics(second)) != without_rate(tiny.metrics(other))


def test_global_random_state_saving_and_evaluating_change_nothing(tmp_path):
    plain = tiny.run(tmp_path / "plain")
    torch.manual_seed(12345)
    busy = tiny.run(tmp_path / "busy", {"training.save_every": "2", "training.evaluate_every": "3"})
    assert tiny.same(tiny.weights(plain / "student"), tiny.weights(busy / "student"))


def test_tokens_count_on_when_the_stop_is_between_two_log_steps(tmp_path, monkeypatch):
    overrides = {"corpus.layout": "lines", "training.log_every": "3", "training.steps": "9"}
    straight = tiny.run(tmp_path / "straight", overrides)
    recipe = tiny.recipe(tmp_path / "stopped", overrides)
    stop_at(monkeypatch, 4)
    assert distill(recipe) == 143
    stop_at(monkeypatch, None)
    assert distill(recipe, resume=True) == 0
    counted = [[(line["step"], line["tokens"]) for line in tiny.metrics(run)] for run in (straight, tmp_path / "stopped/tiny")]
    assert counted[0] == counted[1]
    assert [step for step, _ in counted[0]] == [1, 3, 6, 9]


def test_a_run_that_stopped_before_its_first_checkpoint_starts_again(tmp_path, monkeypatch):
    straight = tiny.run(tmp_path / "straight")
    recipe = tiny.recipe(tmp_path / "stopped")

    class Crash(Interruption):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                raise RuntimeError("pulled the plug")

    monkeypatch.setattr(distill_module, "Interruption", Crash)
    with pytest.raises(RuntimeError, match="pulled the plug"):
        distill(recipe)
    stopped = tmp_path / "stopped" / "tiny"
    assert [line["step"] for line in tiny.metrics(stopped)] in ([1, 2], [1, 2, 3])
    stop_at(monkeypatch, None)
    assert distill(recipe, resume=True) == 0
    assert tiny.same(tiny.weights(straight / "student"), tiny.weights(stopped / "student"))
    assert without_rate(tiny.metrics(stopped)) == without_rate(tiny.metrics(straight))


def test_resuming_a_finished_run_and_one_stopped_at_its_last_step_only_finishes_it(tmp_path, monkeypatch):
    finished = tiny.run(tmp_path)
    before = tiny.weights(finished / "student"), tiny.metrics(finished)
    shutil.rmtree(finished / "student")
    assert distill(tiny.recipe(tmp_path), resume=True) == 0
    assert tiny.same(before[0], tiny.weights(finished / "student")) and tiny.metrics(finished) == before[1]
    recipe = tiny.recipe(tmp_path / "last")
    stop_at(monkeypatch, 6)
    assert distill(recipe) == 143
    stop_at(monkeypatch, None)
    assert distill(recipe, resume=True) == 0
    assert tiny.same(before[0], tiny.weights(tmp_path / "last" / "tiny" / "student"))


def test_leftovers_of_an_interrupted_save_are_ignored_and_removed(tmp_path, monkeypatch):
    straight = tiny.run(tmp_path / "straight")
    recipe = tiny.recipe(tmp_path / "stopped")
    stop_at(monkeypatch, 2)
    assert distill(recipe) == 143
    stopped = tmp_path / "stopped" / "tiny"
    staging = stopped / "checkpoints" / "_staging"
    shutil.copytree(stopped / "checkpoints" / "checkpoint-2", staging / "checkpoint-3")
    (staging / "checkpoint-3" / "model.safetensors").write_bytes(b"half")
    (stopped / "student.new").mkdir()
    (stopped / "checkpoints" / "checkpoint-5").mkdir()  # no checkpoint: nothing in it says that it is complete
    with (stopped / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "loss": 1.0}\n{"step": 4, "lo')
    stop_at(monkeypatch, None)
    assert distill(recipe, resume=True) == 0
    assert tiny.same(tiny.weights(straight / "student"), tiny.weights(stopped / "student"))
    assert not staging.exists() and not (stopped / "student.new").exists()
    assert without_rate(tiny.metrics(stopped)) == without_rate(tiny.metrics(straight))


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ({"objective.weights.huber": "0.5"}, {}, "objective.weights.huber: .* with 0.5, not None"),
        ({}, {"training.arguments": "{lr_scheduler_type: cosine}"}, "training.lr_scheduler_type: .* with None, not cosine"),
        ({"training.optim": "sgd"}, {"training.optim": "adamw_torch"}, "training.optim: .* with sgd"),
    ],
)
def test_a_run_is_not_resumed_with_another_objective_or_optimiser(before, after, sentence, tmp_path):
    RunFolder(tiny.recipe(tmp_path, before)).start(resume=False)
    with pytest.raises(ValueError, match=sentence):
        RunFolder(tiny.recipe(tmp_path, after)).check(resume=True, overwrite=False)


def test_a_run_is_resumed_with_other_arguments_that_change_no_student(tmp_path):
    RunFolder(tiny.recipe(tmp_path)).start(resume=False)
    other = {"training.arguments": "{dataloader_num_workers: 2, hub_private_repo: true, logging_first_step: false}"}
    RunFolder(tiny.recipe(tmp_path, other)).check(resume=True, overwrite=False)


# Real processes

LONG = ["--training.steps", "60", "--training.save_every", "3", "--training.log_every", "1", "--training.accumulation", "1"]


def start(output: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-m", "diito", "distill", tiny.recipe_file(), "--output", str(output), *LONG]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def signal_after_the_first_checkpoint(processes: dict[signal.Signals, subprocess.Popen[str]], output: Path) -> None:
    waiting, deadline = dict(processes), time.monotonic() + 120
    while waiting:
        assert time.monotonic() < deadline
        time.sleep(0.02)
        for number, process in list(waiting.items()):
            assert process.poll() is None, process.communicate()[0]
            if list(output.glob(f"{number.name}/tiny/checkpoints/checkpoint-*")):
                time.sleep(0.05)  # into a step, or into the next save
                waiting.pop(number).send_signal(number)


def finish(output: Path, *argv: str) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    assert main(["distill", tiny.recipe_file(), "--output", str(output), *LONG, *argv]) == 0
    return tiny.weights(output / "tiny" / "student"), without_rate(tiny.metrics(output / "tiny"))


@pytest.mark.soak
def test_a_process_that_is_interrupted_or_killed_resumes_exactly(tmp_path):
    wanted = {signal.SIGINT: 130, signal.SIGKILL: -9}
    processes = {number: start(tmp_path / number.name) for number in wanted}
    try:
        signal_after_the_first_checkpoint(processes, tmp_path)
        output = {number: process.communicate(timeout=60)[0] for number, process in processes.items()}
    finally:
        for process in processes.values():
            process.kill()
    weights, lines = finish(tmp_path / "straight")
    for number, code in wanted.items():
        run = tmp_path / number.name / "tiny"
        assert processes[number].returncode == code, output[number]
        assert not (run / "student").exists()
        if number == signal.SIGINT:
            said = next(line for line in output[number].splitlines() if "continue with" in line)
            assert said.endswith(f"continue with: diito distill {run / 'recipe.yaml'} --resume")
            newest = max(int(name.removeprefix("checkpoint-")) for name in tiny.checkpoints(run))
            assert tiny.metrics(run)[-1]["step"] == newest
        resumed = finish(tmp_path / number.name, "--resume")
        assert tiny.same(weights, resumed[0])
        assert lines == resumed[1]
