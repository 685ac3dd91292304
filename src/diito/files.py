"""Files and folders that are whole whenever one looks: written aside, brought to the disk, renamed.

Texts are written without secrets (``secrets``). Whether a folder still holds what was written, by checksums; and whether a
place can be written at all.

What cannot be written, on a full disk say, is a :class:`CannotWrite`, so that no other OSError is taken for it. No torch here.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from diito.refusal import Refusal
from diito.secrets import redact

_ASIDE = ".aside"


class CannotWrite(OSError):
    """A file or folder could not be written; what was there before still is. ``str`` gives one sentence."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Whatever a library raises while it writes ``path`` becomes a :class:`CannotWrite`.

    torch and safetensors raise errors of their own for a full disk, a RuntimeError and a SafetensorError.
    """
    try:
        yield
    except CannotWrite:
        raise
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CannotWrite(f"{path} could not be written ({_why(error)})") from error


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Gives the path of a file beside ``path`` to write, which then takes its place; several processes may do so at once, also
    of several machines. Raises CannotWrite.
    """
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}{_ASIDE}")
    try:
        with writing(path):
            yield aside
            _sync(aside)
            os.replace(aside, path)
            _sync(path.parent)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text, without secrets, as :func:`written_aside` says."""
    with written_aside(path) as aside:
        aside.write_text(redact(text), encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write JSON as :func:`write_text` does."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def append_json_line(path: Path, content: Any) -> None:
    """Add a line, without secrets, to a JSON-lines file; one that a kill left unfinished stays a line of its own."""
    with writing(path), path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(redact(json.dumps(content)).encode() + b"\n")


def replace_folder(written: Path, final: Path) -> None:
    """Give a folder that was written aside its name, in place of one that has it.

    Its files reach the disk first, so that the rename cannot outlive them.
    """
    with writing(final):
        for folder, _, names in os.walk(written):
            for name in names:
                _sync(Path(folder, name))
            _sync(Path(folder))
        shutil.rmtree(final, ignore_errors=True)
        os.replace(written, final)
        _sync(final.parent)


def is_aside(path: Path) -> bool:
    """Whether a file is one that :func:`written_aside` was killed over."""
    return path.name.endswith(_ASIDE)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def checksums(folder: Path, *, without: Collection[str] = ()) -> dict[str, str]:
    """The SHA-256 of each file of a folder, by its path in it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    named = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: sha256(path) for name, path in named.items() if name not in without}


def first_difference(folder: Path, sums: Mapping[str, str]) -> str | None:
    """What is first found not to be as it was when ``sums`` were taken, in words; None: nothing. Other files do not count."""
    for name, wanted in sums.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if sha256(path) != wanted:
            return f"{name} is damaged"
    return None


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


def _why(error: OSError | RuntimeError | SafetensorError) -> str:
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    message = str(error).splitlines()[0]
    # torch's writer of archives says this of a disk that takes a part of what it is given.
    return "a part of it could not be written" if "inline_container" in message or "iostream" in message else message


def _sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
