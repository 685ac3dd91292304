"""Files are whole whenever one looks, and a place that cannot be written is refused in one sentence."""

import os
from pathlib import Path

import pytest

from diito.files import check_writable, read_json, read_json_lines, write_json, write_text


def test_what_is_written_is_read_and_nothing_is_left_beside_it(tmp_path):
    write_json(tmp_path / "a.json", {"é": [1, None]})
    assert read_json(tmp_path / "a.json") == {"é": [1, None]} and os.listdir(tmp_path) == ["a.json"]
    assert read_json(tmp_path / "none.json") == {}


@pytest.mark.parametrize("broken", ["write_text", "replace"])
def test_a_write_that_fails_leaves_the_file_that_was_there_and_no_other(broken, tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_text(path, "before")

    def fail(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(*(Path, "write_text") if broken == "write_text" else (os, "replace"), fail)
    with pytest.raises(OSError, match="no space"):
        write_text(path, "after")
    assert path.read_text() == "before" and os.listdir(tmp_path) == ["a.txt"]


def test_a_line_that_is_being_written_is_left_out(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_json_lines(path) == [{"step": 1}, {"step": 2}]
    assert read_json_lines(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize(("path", "refused"), [("/proc/a", True), ("/sys/a/b", True), ("/processed/a", False)])
def test_the_kernels_folders_are_refused_and_no_others_of_such_a_name(path, refused, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: True)
    if refused:
        with pytest.raises(ValueError, match=r"^--output: cannot write in"):
            check_writable(Path(path), "--output")
    else:
        monkeypatch.setattr(os.path, "exists", lambda path: str(path) in ("/processed", "/"))
        monkeypatch.setattr(Path, "is_dir", lambda path: True)
        check_writable(Path(path), "--output")


def test_a_place_below_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"cannot write in .*/file; give another one"):
        check_writable(tmp_path / "file" / "deeper" / "a.json", "--output")
