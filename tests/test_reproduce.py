"""Grids on Ray: the smoke grid from end to end, a driver that is killed, a job that fails."""

import fcntl
import functools
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
from rich.console import Console

import grids
from diito import cli
from diito.experiments.expansion import Distillation, Evaluation
from diito.experiments.folders import JobFolder
from diito.experiments.grid import Condition
from diito.experiments.jobs import Job, Numbers
from diito.experiments.screen import Screen

STANDARD = "name: standard, method: standard, overrides: {objective.weights.causal_ce: 0}"
TWO = f"[{{{STANDARD}}}, {{name: full, method: full}}]"


def reproduce(path, *flags, wait=True, in_background=False):
    """``diito reproduce`` in a process of its own; a script that starts it with ``&`` has SIGINT ignored."""
    command = [sys.executable, "-m", "diito", "reproduce", str(path), *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    how = functools.partial(signal.signal, signal.SIGINT, signal.SIG_IGN if in_background else signal.SIG_DFL)
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=how
    )
    if not wait:
        return process
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def jobs(folder):
    """Title -> folder of every job of the output folder."""
    folders = [JobFolder(each) for each in (folder / "jobs").iterdir()]
    return {json.loads(each.job.read_text())["title"]: each for each in folders}


def wait_for(condition, seconds=400):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


def test_a_grid_from_end_to_end_and_again_in_another_process(tmp_path, capsys):
    held_out = f"{{sources: [{tiny.corpus(20)}], length: 16, draws: 1, workers: 1}}"
    text = f"evaluations: {{parts: [perplexity], perplexity: {held_out}}}\nseeds: [1]\nfine_tuning_seeds: [1]"
    path = grids.write(tmp_path, conditions="[{name: whole}]", text=text)
    code, out, err = reproduce(path)
    assert code == 0, err
    assert "2 of 2 jobs are done, 0 failed" in out
    student = jobs(tmp_path / "out")["whole, seed 1"]
    assert (student.student / "model.safetensors").is_file() and not (student.run / "checkpoints").exists()
    assert cli.main(["reproduce", str(path)]) == 0
    assert "2 of 2 jobs are done, 0 failed" in capsys.readouterr().out
    assert "ray" not in sys.modules  # it is not started for nothing


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_the_smoke_grid_from_end_to_end_and_again(tmp_path, capsys, monkeypatch):
    path = Path(__file__).parent.parent / "grids" / "smoke.yaml"
    text, cache = f"[{tiny.corpus(20)}]", str(tmp_path / "cache")
    flags = {
        "output": str(tmp_path / "out"),
        "seeds": "[42]",
        "references": f"[{{name: teacher, model: {tiny.teacher()}, label: Teacher, parts: [perplexity]}}]",
        "evaluations.parts": "[perplexity, glue]",
        "evaluations.perplexity.sources": text,
        "evaluations.perplexity.length": "16",
        "evaluations.interchange.sources": text,
        "evaluations.interchange.length": "16",
        "evaluations.interchange.blocks": "6",
        "evaluations.glue": f"{{data: {grids.glue_folder(tmp_path / 'glue')}, tasks: [rte], epochs: 1, batch: 8, length: 16}}",
        "teacher.model": tiny.teacher(),
        "student.layers": "2",
        "corpus": f"{{sources: [{tiny.corpus()}], length: 16, workers: 1, cache: {cache}}}",
        "evaluation": f"{{sources: {text}, length: 16, blocks: 4}}",
    }
    flags = [part for name, value in flags.items() for part in (f"--{name}", value)]
    code, out, err = reproduce(path, *flags)
    assert code == 0, err
    assert "8 of 8 jobs are done, 0 failed" in out
    found = jobs(tmp_path / "out")
    assert len(found) == 1 + (1 + 2) + (1 + 2 + 1)  # the teacher; standard; full with its map
    student = found["full, seed 42"]
    assert (student.student / "model.safetensors").is_file() and not (student.run / "checkpoints").exists()
    index = json.loads((tmp_path / "out" / "smoke" / "grid.json").read_text())
    assert {entry["hash"] for entry in index["jobs"]} == {each.path.name for each in found.values()}

    done = {title: each.done.stat().st_mtime_ns for title, each in found.items()}
    found["full, seed 42: perplexity"].done.unlink()
    code, out, err = reproduce(path, *flags)
    assert code == 0 and "7 of 8 jobs are done already" in err
    again = {title: each.done.stat().st_mtime_ns for title, each in found.items()}
    assert [title for title in done if done[title] != again[title]] == ["full, seed 42: perplexity"]
    monkeypatch.setattr("diito.experiments.reproduce._start_ray", None)  # a call would fail: it is not started for nothing
    assert cli.main(["reproduce", str(path), *flags]) == 0
    assert "8 of 8 jobs are done, 0 failed" in capsys.readouterr().out

    assert cli.main(["report", str(tmp_path / "out" / "smoke")]) == 0
    for name in ("report.html", "report.md", "table-1.tex", "against-standard.csv", "map-full.png", "perplexity.png"):
        assert (tmp_path / "out" / "smoke" / "report" / name).is_file()
    printed = capsys.readouterr().out
    assert "GLUE (1 of 8 tasks)" in printed and "DIITO FULL" in printed


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_driver_that_is_killed_loses_nothing(tmp_path):
    text = "evaluations: {parts: []}\nseeds: [1]\nfine_tuning_seeds: [1]\noverrides: {training.save_every: 1000}"
    conditions = "[{name: quick, overrides: {training.steps: 2}}, {name: slow, overrides: {training.steps: 3000}}]"
    path = grids.write(tmp_path, conditions=conditions, text=text)
    driver = reproduce(path, wait=False)
    wait_for(lambda: (tmp_path / "out" / "g" / "grid.json").is_file())
    found = jobs(tmp_path / "out")
    quick, slow = found["quick, seed 1"], found["slow, seed 1"]
    wait_for(lambda: quick.is_done and slow.last_metrics().get("step", 0) > 5)
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    wait_for(lambda: list(slow.run.glob("checkpoints/checkpoint-*/trainer_state.json")))  # its worker is told, and saves
    (checkpoint,) = slow.run.glob("checkpoints/checkpoint-*")
    steps = int(checkpoint.name.removeprefix("checkpoint-"))
    assert 5 < steps < 3000
    done = quick.done.stat().st_mtime_ns

    moved = str(shutil.copytree(tiny.teacher(), tmp_path / "moved"))  # what a job is made of may lie somewhere else by now
    driver = reproduce(path, "--teacher.model", moved, "--only", "[slow]", wait=False)
    wait_for(lambda: slow.last_metrics()["step"] > steps + 5)
    driver.kill()
    driver.communicate()
    assert quick.done.stat().st_mtime_ns == done
    assert "--resume" in slow.log.read_text()
    index = json.loads((tmp_path / "out" / "g" / "grid.json").read_text())
    assert [row["name"] for row in index["rows"]] == ["quick", "slow"]  # also those that were not asked for now
    seen = [line["step"] for line in tiny.metrics(slow.run) if "loss" in line]
    assert seen == list(range(1, len(seen) + 1))  # went on where it was, no step twice


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("number", "in_background"), [(signal.SIGINT, False), (signal.SIGTERM, True)])
def test_a_signal_waits_until_what_is_running_has_saved(number, in_background, tmp_path):
    text = "evaluations: {parts: []}\nseeds: [1]\nfine_tuning_seeds: [1]\noverrides: {training.save_every: 1000}"
    path = grids.write(tmp_path, conditions="[{name: slow, overrides: {training.steps: 3000}}]", text=text)
    driver = reproduce(path, wait=False, in_background=in_background)
    wait_for(lambda: (tmp_path / "out" / "g" / "grid.json").is_file())
    slow = jobs(tmp_path / "out")["slow, seed 1"]
    wait_for(lambda: slow.last_metrics().get("step", 0) > 5)
    driver.send_signal(number)
    _, err = driver.communicate(timeout=300)
    assert driver.returncode == 128 + number and "what is running saves first" in err
    assert list(slow.run.glob("checkpoints/checkpoint-*/trainer_state.json")) and not slow.is_done


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_failing_job_is_tried_again_and_reported_while_the_others_finish(tmp_path):
    # A loss that is not finite ends a distillation with exit code 1; what waits for it is not run.
    broken = "{name: broken, overrides: {training.learning_rate: 1e30, training.clip: 0}}"
    held_out = f"{{sources: [{tiny.corpus(20)}], length: 16, draws: 1, workers: 1}}"
    text = f"evaluations: {{parts: [perplexity], perplexity: {held_out}}}\nseeds: [1]\nfine_tuning_seeds: [1]\nretries: 1"
    path = grids.write(tmp_path, conditions=f"[{broken}, {{name: whole}}]", text=text)
    code, out, err = reproduce(path)
    found = jobs(tmp_path / "out")
    assert code == 1
    assert "2 of 4 jobs are done, 2 failed" in out
    assert found["whole, seed 1"].is_done and found["whole, seed 1: perplexity"].is_done
    assert "broken, seed 1: exit code 1" in err and "not finite" in err  # with the end of its log
    assert "broken, seed 1: perplexity: not run, since its student failed" in err
    assert found["broken, seed 1"].log.read_text().count("\n$ ") + 1 == 2  # tried twice
    assert not found["broken, seed 1"].is_done


def test_a_job_waits_for_the_process_that_has_its_lock(tmp_path):
    folder = JobFolder(tmp_path)
    folder.job.write_text(json.dumps({"arguments": ["--version"], "processes": 1}))
    command = [sys.executable, "-m", "diito.experiments.child", str(tmp_path)]
    with folder.lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        with pytest.raises(subprocess.TimeoutExpired):
            child.communicate(timeout=3)
    out, _ = child.communicate(timeout=60)
    assert "$ -m diito --version" in out and child.returncode == 0
    folder.done.write_text("{}")
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == ""  # done by another: not run again


def test_a_missing_cluster_is_refused(tmp_path, capsys):
    path = grids.write(tmp_path, conditions=TWO, text="evaluations: {parts: []}\nseeds: [1]\nfine_tuning_seeds: [1]")
    assert cli.main(["reproduce", str(path), "--address", "127.0.0.1:1"]) == 2
    assert "diito: --address: nothing answers at 127.0.0.1:1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_ray_that_does_not_come_up_is_said(tmp_path, capsys, monkeypatch):
    def init(**settings):
        raise Exception("The current node timed out during startup. The GCS may have become overloaded.")

    monkeypatch.setattr("ray.init", init)
    path = grids.write(tmp_path, conditions=TWO, text="evaluations: {parts: []}\nseeds: [1]\nfine_tuning_seeds: [1]")
    assert cli.main(["reproduce", str(path)]) == 2
    assert "diito: Ray: did not start (The current node timed out during startup" in capsys.readouterr().err


def test_what_no_machine_has_is_refused(tmp_path, capsys, monkeypatch):
    machines = [{"Alive": True, "Resources": {"CPU": 2.0}}, {"Alive": False, "Resources": {"CPU": 5000.0}}]
    ray = SimpleNamespace(nodes=lambda: machines, shutdown=lambda: None)
    monkeypatch.setattr("diito.experiments.reproduce._start_ray", lambda address: ray)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    path = grids.write(tmp_path, conditions=TWO, text="evaluations: {parts: []}\nseeds: [1]\nfine_tuning_seeds: [1]")
    assert cli.main(["reproduce", str(path), "--resources.distil.cpus", "4096"]) == 2
    err = capsys.readouterr().err
    assert "diito: resources.distil: a job takes 4096 CPUs and 0 GPUs, and no machine has them (there is one with 2 CPUs" in err


def test_dry_run_lists_the_jobs_and_writes_nothing(tmp_path, capsys):
    path = grids.write(tmp_path, conditions=TWO)
    assert cli.main(["reproduce", str(path), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "full, seed 1: stsb, seed 7" in out and "10 jobs: 2 distillations" in out
    assert cli.main(["reproduce", str(path), "--dry-run", "--only", "[full]"]) == 0
    out = capsys.readouterr().out
    assert "5 jobs: 1 distillations" in out and "standard, seed" not in out
    assert not (tmp_path / "out").exists()


def test_only_takes_rows_of_the_grid(tmp_path, capsys):
    path = grids.write(tmp_path, conditions=TWO)
    assert cli.main(["reproduce", str(path), "--only", "[ful]"]) == 2
    assert "--only: 'ful' is no condition of the grid; it has standard, full" in capsys.readouterr().err


def test_help_needs_no_torch_and_no_ray():
    program = "import sys; from diito.cli import main; code = 0\ntry: main(['reproduce', '--help'])\nexcept SystemExit: pass\n"
    program += "assert not {'torch', 'ray', 'transformers'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "--fine_tuning_seeds" in done.stdout and "--training.max_steps" in done.stdout


def test_the_output_folder_must_be_writable(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    path = grids.write(tmp_path, conditions=TWO, text="evaluations: {parts: []}\nseeds: [1]\nfine_tuning_seeds: [1]")
    assert cli.main(["reproduce", str(path), "--output", str(tmp_path / "file" / "out")]) == 2
    assert "--output: cannot write in" in capsys.readouterr().err
    assert Path(tmp_path / "file").read_text() == ""


def a_job(name, seed, kind="distil"):
    """A job that was never made: what the screen needs of one."""
    student = Distillation(Condition(name=name), seed, tiny.recipe(Path("runs")))
    planned = student if kind == "distil" else Evaluation(student, kind, None)
    numbers = Numbers(steps=500, tokens=1e6, flops=1e9) if kind == "distil" else None
    return Job(planned, {"kind": kind, "name": name, "seed": seed}, numbers=numbers)


def test_the_live_table(tmp_path):
    jobs = [a_job("standard", 1), a_job("standard", 1, "perplexity"), a_job("full", 1), a_job("full", 2), a_job("full", 3)]
    folders = [JobFolder(tmp_path / "jobs" / job.hash) for job in jobs]
    for folder in folders:
        folder.run.mkdir(parents=True)
    folders[0].done.write_text(json.dumps({"seconds": 61}))
    out = io.StringIO()
    screen = Screen(jobs, tmp_path, Console(file=out, force_terminal=True, width=100, color_system=None))
    folders[2].status.write_text(json.dumps({"driver": screen.driver, "since": time.time() - 75}))
    (folders[2].run / "metrics.jsonl").write_text('{"step": 120, "loss": 1.5}\n{"step": 130, "lo')  # a line being written
    folders[3].status.write_text(json.dumps({"driver": "an earlier one", "since": 0}))
    with screen:
        screen.ended(jobs[4], "exit code 1; and so on")
        screen.show()
    text = out.getvalue()
    rows = {
        line.split("│")[1].strip(): [cell.strip() for cell in line.split("│")[2:-1]]
        for line in text.splitlines()
        if "│" in line
    }
    assert rows["standard"] == ["1/1", "0/1", "0", "1", "0"]  # students, evaluations, running, waiting, failed
    assert rows["full"] == ["0/3", "0/0", "1", "1", "1"]
    assert "full, seed 1  1:15  step 120/500  loss 1.500" in text


def test_without_a_terminal_there_is_a_line_an_event(tmp_path):
    jobs = [a_job("full", 1), a_job("full", 2)]
    folders = [JobFolder(tmp_path / "jobs" / job.hash) for job in jobs]
    for folder in folders:
        folder.path.mkdir(parents=True)
    out = io.StringIO()
    screen = Screen(jobs, tmp_path, Console(file=out, width=100))
    with screen:
        folders[0].status.write_text(json.dumps({"driver": screen.driver, "since": time.time()}))
        screen.show()
        screen.show()
        folders[0].done.write_text(json.dumps({"seconds": 3725}))
        screen.ended(jobs[0], None)
        screen.ended(jobs[1], "exit code 1; the log ends with:\nboom")
    lines = [line.split("  ", 1)[1] for line in out.getvalue().splitlines()]
    assert lines == [
        "0 of 2 jobs are done already",
        "running    full, seed 1",
        "done       full, seed 1 (1:02:05; 1 of 2)",
        "failed     full, seed 2: exit code 1; the log ends with:",
    ]
