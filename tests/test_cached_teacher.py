"""A student that learns from a cache of its teacher's answers is the student that learns from the teacher, bit for bit."""

import json
from pathlib import Path

import classifiers
import decoders
import pytest
import tiny
from safetensors.torch import load_file

from diito.cli import main

KINDS = {
    "masked-lm": [],
    "two epochs, a rest, several pairs": [
        *("--training.steps", "5", "--corpus.share", "0.6", "--training.accumulation", "3"),
        *("--alignment.pairs_per_batch", "2", "--intervention.pairing", "independent"),
    ],
    "both swaps": ["--intervention.control", "both"],
    "token swap": ["--intervention.control", "token-swap", "--corpus.layout", "lines"],
    "causal-lm": ["--task", "causal-lm", "--teacher.model", decoders.teacher(), "--evaluation.continuations", "0"],
}


def distil(output: Path, name: str, *flags: str, code: int = 0) -> dict:
    """The student's weights of the tiny recipe."""
    words = ["distill", tiny.recipe_file(), "--output", str(output), "--name", name, "--evaluation.blocks", "2", *flags]
    assert main(words) == code
    return load_file(output / name / "student" / "model.safetensors") if code == 0 else {}


def same(ours: dict, theirs: dict) -> bool:
    return ours.keys() == theirs.keys() and all(bool((ours[name] == theirs[name]).all()) for name in ours)


OFTEN = ("two epochs, a rest, several pairs", "causal-lm")
"""Those that each run of the suite tries."""


@pytest.mark.parametrize("kind", [kind if kind in OFTEN else pytest.param(kind, marks=pytest.mark.soak) for kind in KINDS])
def test_the_student_has_the_bits_of_one_with_a_live_teacher(kind, tmp_path, capsys):
    cache, flags = tmp_path / "cache", KINDS[kind]
    live = distil(tmp_path, "live", *flags)
    assert main(["cache", tiny.recipe_file(), "--to", str(cache), *flags]) == 0
    assert "bytes a token" in capsys.readouterr().out
    assert same(live, distil(tmp_path, "cached", *flags, "--teacher.cache", str(cache)))
    curves = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("live", "cached")]
    losses = [[json.loads(line)["causal_ce"] for line in lines] for lines in curves]
    assert losses[0] == losses[1]


def test_of_a_classifier_too(tmp_path):
    rows = [{"text": f"w{number} w{number % 7} w{number % 3}", "label": number % 3} for number in range(24)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--task", "sequence-classification", "--teacher.model", classifiers.teacher("modernbert")]
    flags += ["--corpus.sources", f"[{{path: {path}, label: label}}]", "--evaluation.sources", "[]"]
    live = distil(tmp_path, "live", *flags)
    assert main(["cache", tiny.recipe_file(), "--to", str(tmp_path / "cache"), *flags]) == 0
    assert same(live, distil(tmp_path, "cached", *flags, "--teacher.cache", str(tmp_path / "cache")))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache of the tiny recipe."""
    folder = tmp_path_factory.mktemp("caches") / "tiny"
    assert main(["cache", tiny.recipe_file(), "--to", str(folder)]) == 0
    return folder


@pytest.mark.parametrize(
    ("flags", "field"),
    [
        (["--seed", "2"], "seed"),
        (["--corpus.share", "0.5"], "corpus.share"),
        (["--masking.rate", "0.2"], "masking.rate"),
        (["--alignment.kind", "middle"], "alignment.kind"),
        (["--intervention.share", "0.5"], "intervention.share"),
        (["--teacher.model", tiny.teacher(width=32)], "teacher.model"),
        (["--training.batch", "5"], "training.per_device_train_batch_size"),
        (["--training.steps", "7"], "teacher.cache"),
        (["--objective.weights.hidden", "1"], "objective.weights.hidden"),
        (["--teacher.cache", "nowhere"], "teacher.cache"),
    ],
)
def test_a_cache_of_something_else_is_refused_by_its_field(flags, field, cache, tmp_path, capsys):
    distil(tmp_path, "other", "--teacher.cache", str(cache), *flags, code=2)
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"diito: {field}: ")
    assert not (tmp_path / "other").exists()


@pytest.mark.soak
def test_students_and_losses_of_other_kinds_share_it(cache, tmp_path):
    for name, flags in {
        "standard": ["--objective.weights", "{task: 0.5, ce: 0.5, cos: 0, causal_ce: 0}"],
        "other rate": ["--training.learning_rate", "1e-3", "--training.steps", "3", "--student.layers", "[0, 1]"],
    }.items():
        live = distil(tmp_path, f"live {name}", *flags)
        assert same(live, distil(tmp_path, name, *flags, "--teacher.cache", str(cache)))


def test_what_is_damaged_is_noticed_and_made_again(cache, tmp_path, capsys):
    shard = cache / "rank-0-00000.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    distil(tmp_path, "damaged", "--teacher.cache", str(cache), code=2)
    assert "rank-0-00000.safetensors" in capsys.readouterr().err
    assert main(["cache", tiny.recipe_file(), "--to", str(cache)]) == 0
    assert shard.read_bytes() == whole
    assert main(["cache", tiny.recipe_file(), "--to", str(cache), "--seed", "5"]) == 2
    assert shard.read_bytes() == whole


def test_one_for_fewer_steps_is_made_longer(cache, tmp_path, monkeypatch):
    from diito.training import teacher_cache

    monkeypatch.setattr(teacher_cache, "_SHARD_BYTES", 5000)
    folder = tmp_path / "longer"
    for steps in (1, 4, 11, 2):
        flags = ["--training.accumulation", "1", "--training.steps", str(steps)]
        assert main(["cache", tiny.recipe_file(), "--to", str(folder), *flags]) == 0
    shards = [load_file(shard) for shard in sorted(folder.glob("*.safetensors"))]
    assert 1 < len(shards) < 11  # of several micro-batches each
    assert same(load_file(cache / "rank-0-00000.safetensors"), {key: each for shard in shards for key, each in shard.items()})


def test_one_that_was_interrupted_goes_on(cache, tmp_path, monkeypatch):
    from diito.training import teacher_cache

    monkeypatch.setattr(teacher_cache, "_SHARD_BYTES", 1 << 11)
    folder, asked = tmp_path / "short", []
    flush = teacher_cache.Writer.flush

    def stopped(writer):
        flush(writer)
        asked.append(writer.next_step)
        if len(asked) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(teacher_cache.Writer, "flush", stopped)
    assert main(["cache", tiny.recipe_file(), "--to", str(folder)]) == 130
    distil(tmp_path, "early", "--teacher.cache", str(folder), code=2)
    assert main(["cache", tiny.recipe_file(), "--to", str(folder)]) == 0
    shards = [load_file(shard) for shard in sorted(folder.glob("*.safetensors"))]
    assert asked[1] < asked[2] and len(shards) > 2
    assert same(load_file(cache / "rank-0-00000.safetensors"), {key: each for shard in shards for key, each in shard.items()})
