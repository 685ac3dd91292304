"""A disk that is full at any write ends in one sentence, and what was written before is gone on with.

A limit on the size of files stands in for the disk: whatever grows beyond it is refused by the system, as on a full one.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource

import pytest
import tiny
from test_kills import SHORT, again, assert_same, flags

from diito.cli import main

ONE_BY_ONE = (0, 60, 2_500, 100, 1_000, 2_400, 33_000, 0, 100, 600, 1_480, 3_300, 14_500, 40_000, 80_000)
"""Each is less than some file of a run that the one before has room for, or is when the run goes on."""


@contextlib.contextmanager
def limited(size: int):
    """No file may grow beyond so many bytes."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def assert_one_sentence(said: str) -> None:
    last = said.splitlines()[-1]
    assert last.startswith("diito: ") and "Traceback" not in said
    assert any(words in last for words in ("could not be written", "is full")) and "free some space" in last


@pytest.mark.parametrize(
    "sizes", [pytest.param((2_500,), id="a few"), pytest.param(ONE_BY_ONE, id="all", marks=pytest.mark.soak)]
)
def test_a_run(sizes, tmp_path, capsys):
    straight = tiny.run(tmp_path / "straight", SHORT)
    overrides = SHORT | {"corpus.cache": str(tmp_path / "cache")}
    recipe = tiny.recipe(tmp_path / "runs", overrides)
    argv = ["distill", tiny.recipe_file(), "--output", str(tmp_path / "runs"), *flags(overrides)]
    for size in sizes:
        with limited(size):
            assert main([*argv, *again(recipe)]) == 2
        assert_one_sentence(capsys.readouterr().err)
    assert main([*argv, *again(recipe)]) == 0
    assert_same(straight, tmp_path / "runs" / "tiny")
    assert not [path for path in tmp_path.rglob("*") if ".aside" in path.name or ".partial" in path.name]


@pytest.mark.parametrize(
    "sizes", [pytest.param((1_000,), id="a few"), pytest.param((0, 40, 120, 1_000, 2_000), id="all", marks=pytest.mark.soak)]
)
def test_an_evaluation(sizes, tmp_path, capsys):
    argv = ["evaluate", "perplexity", tiny.teacher(), "--sources", f"[{tiny.corpus(20)}]", "--length", "16", "--workers", "1"]
    argv += ["--cache", str(tmp_path / "cache"), "--output", str(tmp_path / "results.json")]
    for size in sizes:
        with limited(size):
            assert main(argv) == 2
        assert_one_sentence(capsys.readouterr().err)
        assert not (tmp_path / "results.json").exists()
    assert main(argv) == 0
    assert json.loads((tmp_path / "results.json").read_text())["measurements"][0]["result"]["perplexity"] > 1


def test_the_screen_goes_into_a_file_on_the_full_disk(monkeypatch):
    def write(*words, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("builtins.print", write)
    assert main(["schema"]) == 2
    monkeypatch.undo()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
def test_whatever_says_that_the_disk_is_full_is_one_sentence(number, monkeypatch, capsys):
    def schema(arguments):
        raise RuntimeError("of a library") from OSError(number, os.strerror(number))

    monkeypatch.setattr("diito.commands.schema", schema)
    assert main(["schema"]) == 2
    assert_one_sentence(capsys.readouterr().err)
