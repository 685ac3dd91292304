"""Files and folders that are whole whenever one looks: written aside, brought to the disk, renamed. And whether a place can be
written at all.

No torch here.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

from diito.refusal import Refusal


def write_text(path: Path, text: str) -> None:
    """Write a text aside and rename it; several processes may do so at once, also of several machines."""
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        aside.write_text(text, encoding="utf-8")
        _sync(aside)
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any) -> None:
    """Write JSON as :func:`write_text` does."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def replace_folder(written: Path, final: Path) -> None:
    """Give a folder that was written aside its name, in place of one that has it.

    Its files reach the disk first, so that the rename cannot outlive them.
    """
    for folder, _, names in os.walk(written):
        for name in names:
            _sync(Path(folder, name))
        _sync(Path(folder))
    shutil.rmtree(final, ignore_errors=True)
    os.replace(written, final)
    _sync(final.parent)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file; empty where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSON-lines file that are whole; none where there is no file."""
    if not path.is_file():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:  # being written
            continue
    return lines


def check_writable(path: Path, field: str) -> None:
    """Refuse, naming the field or flag, a file or folder that could not be made."""
    parent = next(folder for folder in path.absolute().parents if os.path.exists(folder))  # False where one may not look
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK) or parent.parts[1:2] in (("proc",), ("sys",)):
        raise Refusal(field, f"cannot write in {parent}; give another one")


def _sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
