"""A resume is the run that was started, or a sentence: what decides it, what may differ, what is damaged, who writes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from safetensors.torch import load_file, save_file

from diito.cli import main
from diito.locks import Held, hold
from diito.recipe import Recipe
from diito.recipe.fields import FREE, FREE_ARGUMENTS, PLACE
from diito.run import distill as distill_module
from diito.run.distill import distill
from diito.run.folder import RunFolder
from diito.run.manifest import deciding_fields, fixed_fields
from diito.training.callbacks import Interruption

SHORT = {"training.steps": "4", "training.accumulation": "1", "training.save_every": "1", "evaluation.sources": "[]"}


def command(output: Path, *argv: str) -> int:
    flags = [part for name, value in SHORT.items() for part in (f"--{name}", value)]
    return main(["distill", tiny.recipe_file(), "--output", str(output), *flags, *argv])


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return tiny.run(tmp_path_factory.mktemp("straight"), SHORT)


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory):
    """A run that was stopped at its third step of four, with checkpoints of the second and the third."""
    output = tmp_path_factory.mktemp("stopped")

    class Stop(Interruption):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                signal.raise_signal(signal.SIGTERM)
            super().on_step_end(args, state, control, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distill_module, "Interruption", Stop)
        assert distill(tiny.recipe(output, SHORT)) == 143
    return output / "tiny"


@pytest.fixture
def stopped(stopped_once, tmp_path):
    """A copy of it to do with as one likes."""
    return shutil.copytree(stopped_once, tmp_path / "tiny")


# What must be as it was


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--training.arguments", "{lr_scheduler_type: constant}"], "training.lr_scheduler_type: "),
        (["--training.lr_scheduler_type", "constant"], "training.lr_scheduler_type: "),
        (["--training.learning_rate", "1e-3"], "training.learning_rate: "),
        (["--objective.temperature", "3"], "objective.temperature: "),
        (["--evaluation.sources", "null"], "corpus.sources: what it names"),
    ],
)
def test_what_decides_the_student_must_be_as_it_was(argv, said, stopped, capsys):
    before = {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()}
    assert command(stopped.parent, *argv, "--resume") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"diito: {said}") and len(error.splitlines()) == 1 and "was started with" in error, error
    assert before == {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()}


def test_a_teacher_and_a_text_may_lie_somewhere_else_and_may_not_change(straight, stopped, tmp_path, capsys):
    teacher = Path(shutil.copytree(tiny.teacher(), tmp_path / "teacher"))
    text = Path(shutil.copy(tiny.corpus(), tmp_path / "moved.txt"))
    weights = load_file(teacher / "model.safetensors")
    name = next(iter(weights))
    save_file({**weights, name: weights[name] + 1}, teacher / "model.safetensors", metadata={"format": "pt"})
    moved = ["--resume", "--teacher.model", str(teacher), "--corpus.sources", f"[{text}]"]
    assert command(tmp_path, *moved) == 2
    assert capsys.readouterr().err.startswith("diito: teacher.model: what it names is not what the run")
    save_file(weights, teacher / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(Path(tiny.teacher()) / "model.safetensors", teacher)
    text.write_text(text.read_text().replace("w1 ", "w2 "))
    assert command(tmp_path, *moved) == 2
    assert capsys.readouterr().err.startswith("diito: corpus.sources: what it names is not what the run")
    shutil.copy(tiny.corpus(), text)
    assert command(tmp_path, *moved) == 0
    assert tiny.same(tiny.weights(straight / "student"), tiny.weights(stopped / "student"))
    (line,) = (json.loads(each) for each in (stopped / "resumes.jsonl").read_text().splitlines())
    assert line["step"] == 3 and set(line["changed"]) == {"output", "teacher.model", "corpus.sources"}


def test_another_version_or_number_of_processes_is_refused(stopped, tmp_path, capsys):
    manifest = json.loads((stopped / "manifest.json").read_text())
    for change, said in (({"distil": 1}, "makes other students"), ({"processes": 2}, "on 2 process(es), not 1")):
        (stopped / "manifest.json").write_text(json.dumps(manifest | change))
        assert command(tmp_path, "--resume") == 2
        assert said in capsys.readouterr().err
    (stopped / "manifest.json").write_text("{")
    assert command(tmp_path, "--resume") == 2
    assert "manifest.json is damaged" in capsys.readouterr().err


def test_whether_a_field_is_free_stands_beside_it():
    recipe = tiny.recipe(Path("anywhere"), {"training.arguments": "{run_name: a, optim: sgd, data_seed: 3}"})
    deciding, fixed = deciding_fields(recipe), fixed_fields(recipe)
    assert not {"name", "training.logging_steps", "training.arguments.run_name"} & set(deciding)
    assert {"teacher.model", "corpus.sources"} <= set(deciding) - set(fixed)
    assert {"training.arguments.optim", "training.arguments.data_seed", "seed"} <= set(fixed)
    from diito.recipe.training import transformers_arguments

    assert set(FREE_ARGUMENTS["free"]) <= set(transformers_arguments()) and FREE != PLACE


OF_0_1_0 = """
seed task student.layers student.dropout corpus.layout corpus.length corpus.document_boundaries corpus.share corpus.examples
corpus.minimum_tokens corpus.maximum_unknown masking.rate masking.smoothing alignment.kind alignment.pairs alignment.top
alignment.shuffled intervention.positions intervention.share intervention.specials intervention.across_texts
intervention.source_positions intervention.pairing intervention.control objective.weights.task objective.weights.ce
objective.weights.cos objective.weights.causal_ce objective.weights.causal_cos objective.weights.mse objective.losses
objective.temperature objective.tokens training.num_train_epochs training.max_steps training.per_device_train_batch_size
training.gradient_accumulation_steps training.learning_rate training.adam_beta1 training.adam_beta2 training.adam_epsilon
training.weight_decay training.warmup_ratio training.warmup_steps training.max_grad_norm training.use_cpu speed.precision
speed.compile speed.fast_dropout evaluation.length evaluation.blocks evaluation.batch
"""


def test_a_manifest_names_no_field_that_came_after_the_runs_that_are_to_be_resumed():
    """A further one would refuse every run that was begun before, and make every finished job another one."""
    assert set(fixed_fields(Recipe())) == set(OF_0_1_0.split())


# What may differ takes effect


def test_fields_that_may_differ_take_effect_and_the_recipe_stays(straight, stopped, tmp_path):
    written = (stopped / "recipe.yaml").read_bytes()
    flags = ("--training.log_every", "4", "--training.save_every", "2", "--training.keep", "5")
    shutil.rmtree(stopped / "checkpoints" / "checkpoint-3")
    shutil.rmtree(stopped / "checkpoints" / "checkpoint-2")
    assert command(tmp_path, "--resume", *flags) == 0
    assert [line["step"] for line in tiny.metrics(stopped)] == [1, 4]
    assert tiny.checkpoints(stopped) == ["checkpoint-2", "checkpoint-4"]
    assert (stopped / "recipe.yaml").read_bytes() == written
    assert tiny.same(tiny.weights(straight / "student"), tiny.weights(stopped / "student"))


def test_how_often_is_read_from_the_recipe_and_not_from_the_checkpoint(stopped, stopped_once, tmp_path):
    assert command(tmp_path, "--resume", "--training.log_every", "3", "--training.save_every", "100") == 0
    assert [line["step"] for line in tiny.metrics(stopped)] == [1, 2, 3]  # the fourth is not logged any more
    (line,) = (json.loads(each) for each in (stopped / "resumes.jsonl").read_text().splitlines())
    assert line["changed"].pop("output") == [str(stopped_once.parent), str(tmp_path)]
    assert line["changed"] == {"training.logging_steps": [1, 3], "training.save_steps": [1, 100]}


# What is finished or damaged


def test_a_finished_run_that_is_resumed_does_nothing_and_says_so(straight, tmp_path, capsys):
    run = Path(shutil.copytree(straight, tmp_path / "tiny"))
    (run / "student" / "README.md").write_text("my own words")
    shutil.rmtree(run / "checkpoints")
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in run.rglob("*") if path.is_file()}
    assert command(tmp_path, "--resume") == 0
    assert "is finished, so there is nothing to do" in capsys.readouterr().out
    assert before == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in run.rglob("*") if path.is_file()}


def test_a_damaged_student_is_made_again_from_a_checkpoint_or_refused(straight, tmp_path, capsys):
    run = Path(shutil.copytree(straight, tmp_path / "tiny"))
    flip(run / "student" / "model.safetensors")
    assert command(tmp_path, "--resume") == 0
    assert tiny.same(tiny.weights(straight / "student"), tiny.weights(run / "student"))
    flip(run / "student" / "model.safetensors")
    shutil.rmtree(run / "checkpoints")
    assert command(tmp_path, "--resume") == 2
    assert "model.safetensors is damaged, and the run has no checkpoint left" in capsys.readouterr().err


def flip(path: Path) -> None:
    """One bit, in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


PARTS = ["optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "model.safetensors", "config.json"]


@pytest.mark.parametrize("part", [*PARTS, "checksums.json"])
@pytest.mark.parametrize("damage", [flip, Path.unlink], ids=["a flipped bit", "missing"])
def test_a_damaged_part_of_a_checkpoint_is_noticed(damage, part, stopped, tmp_path):
    damage(stopped / "checkpoints" / "checkpoint-3" / part)
    folder = RunFolder(tiny.recipe(tmp_path, SHORT))
    newest = folder.newest_checkpoint()
    assert newest is not None and newest.name == "checkpoint-2"
    (fault,) = folder.damaged_checkpoints().values()
    assert part.partition(".")[0] in fault or part == "checksums.json"
    damage(stopped / "checkpoints" / "checkpoint-2" / part)
    with pytest.raises(
        ValueError, match=r"no checkpoint of the run .* is whole: checkpoint-3 \(.*; start it anew with --overwrite"
    ):
        RunFolder(tiny.recipe(tmp_path, SHORT)).newest_checkpoint()


def test_the_newest_whole_checkpoint_gives_the_same_student_and_it_is_said(straight, stopped, tmp_path, capsys):
    flip(stopped / "checkpoints" / "checkpoint-3" / "optimizer.pt")
    assert command(tmp_path, "--resume", "--training.keep", "1") == 0
    said = capsys.readouterr().out
    assert "checkpoint-3 is not whole (optimizer.pt is damaged) and is passed over\ngoing on from checkpoint-2" in said
    assert tiny.same(tiny.weights(straight / "student"), tiny.weights(stopped / "student"))
    assert tiny.checkpoints(stopped) == ["checkpoint-4"]


def test_no_whole_checkpoint_is_a_sentence_and_nothing_is_lost(stopped, tmp_path, capsys):
    for step in (2, 3):
        (stopped / "checkpoints" / f"checkpoint-{step}" / "optimizer.pt").unlink()
    assert command(tmp_path, "--resume") == 2
    assert "no checkpoint of the run" in capsys.readouterr().err
    assert tiny.checkpoints(stopped) == ["checkpoint-2", "checkpoint-3"]


def test_a_run_of_the_version_before_has_no_manifest_and_is_resumed(straight, stopped, tmp_path, capsys):
    (stopped / "manifest.json").unlink()
    (stopped / ".lock").unlink()
    for folder in (stopped / "checkpoints").iterdir():
        (folder / "checksums.json").unlink()
    assert command(tmp_path, "--resume", "--training.lr_scheduler_type", "constant") == 2
    assert "training.lr_scheduler_type: the run" in capsys.readouterr().err
    (stopped / "checkpoints" / "checkpoint-3" / "optimizer.pt").unlink()
    assert command(tmp_path, "--resume") == 0
    assert tiny.same(tiny.weights(straight / "student"), tiny.weights(stopped / "student"))


# Who writes


def test_overwrite_deletes_only_a_run(stopped, tmp_path, capsys):
    precious = tmp_path / "precious"
    (precious / "checkpoints").mkdir(parents=True)
    (precious / "recipe.yaml").write_text("cake: 1")
    assert command(tmp_path, "--overwrite", "--name", "precious") == 2
    assert "is no run of diito, which alone --overwrite replaces" in capsys.readouterr().err
    assert (precious / "recipe.yaml").read_text() == "cake: 1"


def test_a_second_process_on_a_run_is_refused_and_told_who_has_it(stopped, tmp_path, capsys):
    before = (stopped / "recipe.yaml").read_bytes()
    with RunFolder(tiny.recipe(tmp_path, SHORT)).held():
        for how in ("--resume", "--overwrite"):
            assert command(tmp_path, how) == 2
            assert f"is being written by process {os.getpid()} on " in capsys.readouterr().err
    assert (stopped / "recipe.yaml").read_bytes() == before and len(tiny.checkpoints(stopped)) == 2
    assert command(tmp_path, "--resume") == 0


def test_the_lock_of_a_process_that_was_killed_is_free(tmp_path):
    code = "import sys, time; from pathlib import Path; from diito.locks import hold\n"
    code += "with hold(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(Held, match=f"^process {process.pid} on "), hold(tmp_path / "lock"):
            pass
        process.kill()
        process.wait()
    with hold(tmp_path / "lock"):
        pass


@pytest.mark.parametrize("name", ["corpus.arrow", "token_counts.npy", "statistics.json", "checksums.json"])
@pytest.mark.parametrize("damage", [flip, Path.unlink], ids=["a flipped bit", "missing"])
def test_a_damaged_cache_is_made_again_and_it_is_said(damage, name, tmp_path, capsys):
    recipe = tiny.recipe(tmp_path, SHORT | {"corpus.cache": str(tmp_path / "cache")})
    corpus = tiny.parts_and_trainer(recipe)[0].corpus.digest()
    (file,) = (tmp_path / "cache").glob(f"*/{name}")
    damage(file)
    assert tiny.parts_and_trainer(recipe)[0].corpus.digest() == corpus
    assert "is not whole" in capsys.readouterr().err
    tiny.parts_and_trainer(recipe)
    assert "is not whole" not in capsys.readouterr().err
