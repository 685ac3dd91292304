"""Paths as the user writes them: the home folder and variables, everywhere, and no folder called ~."""

from pathlib import Path

import pytest

from diito.paths import expand
from diito.recipe import Recipe
from diito.recipe.file import read
from diito.refusal import Refusal
from diito.run.folder import RunFolder

SOURCE = Path(__file__).parent.parent / "src"


def test_home_and_variables(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PLACE", "somewhere")
    assert expand("~/a/$PLACE/${PLACE}.txt") == tmp_path / "a" / "somewhere" / "somewhere.txt"
    assert expand("plain/path") == Path("plain/path")


def test_a_sign_in_a_name_that_exists_is_that_sign(tmp_path):
    (tmp_path / "a$b.txt").write_text("", encoding="utf-8")
    assert expand(tmp_path / "a$b.txt") == tmp_path / "a$b.txt"


@pytest.mark.parametrize("path", ["$NOT_SET_ANYWHERE/x", "${NOT_SET_ANYWHERE}/x", "~nobody-of-that-name/x"])
def test_what_cannot_be_expanded_is_refused(path):
    with pytest.raises(Refusal, match=r"^output: "):
        expand(path, field="output")


def test_a_run_does_not_make_a_folder_called_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe = read("recipe:quickstart", {"output": "~/runs"})
    assert isinstance(recipe, Recipe)
    assert RunFolder(recipe).path == tmp_path / "runs" / recipe.name


def test_paths_are_expanded_in_one_place():
    users = [path.name for path in SOURCE.rglob("*.py") if "expanduser" in path.read_text(encoding="utf-8")]
    assert users == ["paths.py"]
