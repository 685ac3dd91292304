"""A grid that is killed anywhere, or whose disk is full, is gone on with to the same students and figures.

Ray is left out: the jobs run one after another, in processes that are forked from this one.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import forks
import pytest
import tiny
from test_full_disk import assert_one_sentence, limited
from test_kills import KILLS, SHORT

import grids
from diito.cli import main
from diito.experiments import child
from diito.experiments import reproduce as reproduce_module
from diito.experiments.folders import JobFolder


class Forked(subprocess.Popen):
    """The process of a job, as its watcher sees it."""

    def __init__(self, command, pass_fds):
        self.number = forks.fork(command[3:], Path(os.environ["TEST_LOG"]))  # without "python -m diito"
        self.code = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.wait(timeout=60)

    def wait(self, timeout):
        end = time.monotonic() + timeout
        while self.code is None:
            ended, status = os.waitpid(self.number, os.WNOHANG)
            if ended:
                self.code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > end:
                raise subprocess.TimeoutExpired("diito", timeout)
            else:
                time.sleep(0.005)
        return self.code

    def terminate(self):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.number, signal.SIGTERM)


def run_in_turn(jobs, grid, output, address):
    """In place of Ray: why each job failed that did."""
    failed = {}
    for job in jobs:
        folder = JobFolder(output / "jobs" / job.hash)
        if not folder.is_done:
            os.environ["TEST_LOG"] = str(folder.log)
            if code := child.main(str(folder.path)):
                failed[job.hash] = f"exit code {code}; {folder.log} ends with:\n{folder.log_end()}"
    return failed


@pytest.fixture
def without_ray(monkeypatch):
    monkeypatch.setattr(reproduce_module, "_run", run_in_turn)
    monkeypatch.setattr(child, "subprocess", SimpleNamespace(Popen=Forked, TimeoutExpired=subprocess.TimeoutExpired))
    monkeypatch.setenv("TEST_LOG", os.devnull)


def grid(folder: Path, parts: str) -> list[str]:
    folder.mkdir()
    held_out = f"{{sources: [{tiny.corpus(20)}], length: 16, draws: 1, workers: 1, cache: {tiny.FOLDER / 'cache'}}}"
    overrides = ", ".join(f"{name}: {value}" for name, value in SHORT.items())
    text = f"evaluations: {{parts: {parts}, perplexity: {held_out}}}\nseeds: [1]\noverrides: {{{overrides}}}"
    return ["reproduce", str(grids.write(folder, conditions="[{name: whole}]", text=text))]


def found(folder: Path) -> tuple[dict, list]:
    """The student of the grid, and what was measured of it."""
    jobs = [JobFolder(path) for path in sorted((folder / "out" / "jobs").iterdir())]
    assert all(job.is_done for job in jobs)
    (student,) = [job for job in jobs if job.recipe.exists()]
    measured = [json.loads(job.results.read_text())["measurements"] for job in jobs if job.results.exists()]
    return tiny.weights(student.student), [[each["result"], each["examples"]] for (each,) in measured]


def assert_same(ours: tuple[dict, list], theirs: tuple[dict, list]) -> None:
    assert tiny.same(ours[0], theirs[0]) and ours[1] == theirs[1]


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_killed_at_random_moments(without_ray, tmp_path):
    draws, done, runs = random.Random(int(os.environ.get("DIITO_KILLS_SEED", "1"))), 0, 0
    argv = grid(tmp_path / "straight", "[perplexity]")
    began = time.monotonic()
    assert main(argv) == 0
    longest, wanted = min(time.monotonic() - began, 60.0), found(tmp_path / "straight")
    while done < KILLS:
        folder = tmp_path / str(runs)
        argv, code = grid(folder, "[perplexity]"), None
        while code != 0:
            driver = forks.fork(argv, folder / "log")
            code = forks.kill_after(driver, draws.uniform(0, longest) if done < KILLS and draws.random() < 0.9 else 60)
            assert code in (0, -signal.SIGKILL), (folder / "log").read_text()
            done += code != 0
        assert_same(found(folder), wanted)
        runs += 1
        print(f"{done} kills, {runs} grids, all to the same students and figures", flush=True)


@pytest.mark.soak
def test_a_full_disk(without_ray, tmp_path, capsys):
    argv = grid(tmp_path / "full", "[]")
    for size in (0, 20, 200, 700, 2_600, 33_000, 100, 1_000, 3_300):
        with limited(size):
            code = main(argv)
        said = capsys.readouterr().err
        assert "Traceback" not in said
        if code == 2:
            assert_one_sentence(said)
        else:
            assert code == 1 and "exit code" in said
    assert main(argv) == 0
    straight = tiny.run(tmp_path / "straight", SHORT | {"seed": "1"})
    assert tiny.same(found(tmp_path / "full")[0], tiny.weights(straight / "student"))
