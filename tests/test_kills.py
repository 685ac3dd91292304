"""A run that is killed anywhere, or whose disk is full at any write, is resumed to the bits of one that is not."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import socket
import time
from pathlib import Path

import forks
import pytest
import tiny

from diito.cli import main
from diito.run import distill as distill_module
from diito.run.distill import distill
from diito.run.folder import RunFolder
from diito.training.callbacks import Interruption

KILLS = int(os.environ.get("DIITO_KILLS", "200"))
"""How many kills the soak test makes."""
SHORT = {
    "training.steps": "2",
    "training.save_every": "1",
    "training.keep": "1",
    "training.accumulation": "1",
    "evaluation.blocks": "2",
}


class Crash(BaseException):
    """The process is gone: nothing catches it."""


def flags(overrides: dict[str, str]) -> list[str]:
    return [part for name, value in overrides.items() for part in (f"--{name}", value)]


def content(run: Path) -> tuple[dict, list, dict]:
    """All of a finished run that must be the same."""
    lines = [{name: value for name, value in line.items() if name != "tokens_per_second"} for line in tiny.metrics(run)]
    results = json.loads((run / "results.json").read_text())
    return tiny.weights(run / "student"), lines, {name: results[name] for name in ("teacher", "before", "after", "student")}


def assert_same(one: Path, other: Path) -> None:
    first, second = content(one), content(other)
    assert tiny.same(first[0], second[0]) and first[1:] == second[1:]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return tiny.run(tmp_path_factory.mktemp("straight"), SHORT)


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    "errors",
    [
        pytest.param([Crash(), FULL], id="by turns"),
        pytest.param([Crash()], id="crash", marks=[pytest.mark.soak, pytest.mark.timeout(1800)]),
        pytest.param([FULL], id="full disk", marks=[pytest.mark.soak, pytest.mark.timeout(1800)]),
    ],
)
def test_a_fault_at_each_thing_that_is_written_loses_nothing(errors, straight, tmp_path, monkeypatch, capsys):
    replace, faulty = os.replace, []

    def replace_or_fail(source, target):
        name = Path(target).name
        if name not in faulty and "holder" not in name:
            faulty.append(name)
            raise errors[len(faulty) % len(errors)]
        replace(source, target)

    overrides = SHORT | {"corpus.cache": str(tmp_path / "cache")}
    recipe, run = tiny.recipe(tmp_path / "runs", overrides), tmp_path / "runs" / "tiny"
    monkeypatch.setattr(os, "replace", replace_or_fail)
    code = None
    while code != 0:
        try:
            code = main(["distill", tiny.recipe_file(), "--output", str(tmp_path / "runs"), *flags(overrides), *again(recipe)])
        except Crash:
            continue
        said = capsys.readouterr().err
        if code:
            said = said.splitlines()[-1]
            assert code == 2 and said.startswith("diito: ") and "No space left on device" in said and "free some space" in said
    written = {"manifest.json", "environment.json", "recipe.yaml", "results.json", "checksums.json", "student"}
    assert written | {"checkpoint-1", "checkpoint-2", "metrics.jsonl"} <= set(faulty)
    assert_same(straight, run)
    assert not [path for path in run.rglob("*") if ".aside" in path.name]


def again(recipe) -> list[str]:
    return ["--resume"] if RunFolder(recipe).recipe_file.is_file() else []


def test_a_clock_that_runs_backwards_changes_nothing(straight, tmp_path, monkeypatch):
    now = iter(range(2_000_000_000, 0, -100))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))

    class Stop(Interruption):
        def on_step_end(self, args, state, control, **kwargs):
            for index, folder in enumerate(Path(args.output_dir).glob("checkpoint-*")):
                os.utime(folder, (100 - index, 100 - index))
            if state.global_step == 1:
                signal.raise_signal(signal.SIGTERM)
            super().on_step_end(args, state, control, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(distill_module, "Interruption", Stop)
        assert distill(tiny.recipe(tmp_path, SHORT | {"training.keep": "2"})) == 143
    os.utime(tmp_path / "tiny" / "checkpoints" / "checkpoint-1", (-1000, -1000))
    assert distill(tiny.recipe(tmp_path, SHORT), resume=True) == 0
    assert json.loads((tmp_path / "tiny" / "resumes.jsonl").read_text())["step"] == 1
    assert tiny.checkpoints(tmp_path / "tiny") == ["checkpoint-2"]
    assert_same(straight, tmp_path / "tiny")


def test_a_second_sigterm_ends_it_at_once_and_it_is_resumed_exactly(straight, tmp_path):
    overrides = SHORT | {"training.save_every": "100"}
    argv = ["distill", tiny.recipe_file(), "--output", str(tmp_path), *flags(overrides)]
    process = forks.fork(argv, tmp_path / "log")
    deadline = time.monotonic() + 60
    while "step 1/" not in (tmp_path / "log").read_text() if (tmp_path / "log").exists() else True:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    for _ in range(2):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)
        time.sleep(0.01)
    assert forks.code_of(process) in (-signal.SIGTERM, 143)
    assert main([*argv, "--resume"]) == 0
    assert_same(straight, tmp_path / "tiny")


def start_ranks(folder: Path, overrides: dict[str, str]) -> list[int]:
    """The processes of a run on two ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    argv = ["distill", tiny.recipe_file(), "--output", str(folder), *flags(overrides)]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [forks.fork(argv, folder / f"log-{rank}", shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in (0, 1)]


def end_ranks(ranks: list[int]) -> None:
    for rank in ranks:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(rank, signal.SIGKILL)
            os.waitpid(rank, 0)


LONG = {"training.steps": "1000", "training.save_every": "1", "training.batch": "4", "evaluation.sources": "[]"}


def test_where_one_of_two_ranks_is_killed_the_other_ends_with_a_sentence(tmp_path):
    ranks = start_ranks(tmp_path, LONG)
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("tiny/checkpoints/checkpoint-[1-9]*")):
            assert time.monotonic() < deadline, (tmp_path / "log-0").read_text()
            time.sleep(0.01)
        os.kill(ranks[1], signal.SIGKILL)
        assert forks.code_of(ranks[0], seconds=60) == 1
    finally:
        end_ranks(ranks)
    said = (tmp_path / "log-0").read_text().splitlines()[-1]
    assert said.startswith("diito: another process of this run has ended; continue with: diito distill"), said


@pytest.mark.soak
def test_where_the_first_of_two_ranks_is_refused_the_other_ends_with_a_sentence(tmp_path):
    recipe = tiny.recipe(tmp_path, LONG)
    with RunFolder(recipe).held():  # by this process, as another run would
        ranks = start_ranks(tmp_path, LONG)
        try:
            assert forks.code_of(ranks[0], seconds=60) == 2
            assert forks.code_of(ranks[1], seconds=60) == 1
        finally:
            end_ranks(ranks)
    assert "another process of this run has ended" in (tmp_path / "log-1").read_text().splitlines()[-1]


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_killed_at_random_moments_it_is_resumed_to_the_same_bits(straight, tmp_path):
    draws, kills, runs = random.Random(int(os.environ.get("DIITO_KILLS_SEED", "1"))), 0, 0
    longest, reached = 2.0, dict.fromkeys(("start", "before the first checkpoint", "training", "after the last step"), 0)
    while kills < KILLS:
        output = tmp_path / str(runs)
        run, log = output / "tiny", output / "log"
        output.mkdir()
        argv = ["distill", tiny.recipe_file(), "--output", str(output), *flags(SHORT | {"corpus.cache": str(output / "cache")})]
        recipe = tiny.recipe(output, SHORT)
        code = None
        while code != 0:
            began = time.monotonic()
            process = forks.fork([*argv, *again(recipe)], log)
            code = forks.kill_after(process, draws.uniform(0, longest) if draws.random() < 0.9 else 60)
            assert code in (0, -signal.SIGKILL), log.read_text()
            if code == 0:
                longest = max(longest, min(time.monotonic() - began, 60.0))
            else:
                kills += 1
                reached[moment(run)] += 1
        assert_same(straight, run)
        assert not [path for path in output.rglob("*") if ".aside" in path.name or ".partial" in path.name], "left behind"
        shutil.rmtree(output)
        runs += 1
        print(f"{kills} kills, {runs} runs, all to the same bits; {reached}", flush=True)
    assert all(reached.values()), reached


def moment(run: Path) -> str:
    if not (run / "recipe.yaml").is_file():
        return "start"
    if not list(run.glob("checkpoints/checkpoint-*")):
        return "before the first checkpoint"
    return "training" if not (run / "checkpoints" / "checkpoint-2").is_dir() else "after the last step"


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_an_evaluation_killed_at_random_moments_gives_the_same_figures(straight, tmp_path):
    draws, kills, runs = random.Random(int(os.environ.get("DIITO_KILLS_SEED", "1"))), 0, 0
    settings = ["--sources", f"[{tiny.corpus(20)}]", "--length", "16", "--workers", "1"]
    wanted = None
    while kills < KILLS:
        output = tmp_path / str(runs)
        output.mkdir()
        argv = ["evaluate", "perplexity", str(straight / "student"), *settings]
        argv += ["--cache", str(output / "cache"), "--output", str(output / "results.json")]
        code = None
        while code != 0:
            kill = wanted is not None and draws.random() < 0.8
            code = forks.kill_after(forks.fork(argv, output / "log"), draws.uniform(0, 1.0) if kill else 60)
            assert code in (0, -signal.SIGKILL), (output / "log").read_text()
            kills += code != 0
        (measured,) = json.loads((output / "results.json").read_text())["measurements"]
        found = measured["result"], measured["examples"]
        wanted = wanted or found
        assert found == wanted
        shutil.rmtree(output)
        runs += 1
        print(f"{kills} kills, {runs} evaluations, all with the same figures", flush=True)
