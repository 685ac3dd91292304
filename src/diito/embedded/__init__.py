"""What comes with diito: a small teacher and WikiText-2, so that a first run needs no network; recipes and grids."""

from __future__ import annotations

import difflib
from pathlib import Path

from diito.paths import expand
from diito.refusal import Refusal

PREFIX = "embedded:"


def resolve(path: str, *, field: str = "") -> str:
    """Turn ``embedded:NAME`` into the path of that file or folder of the installed package, and ``~`` and variables into what
    they stand for; return other paths, and names of the hub, unchanged.

    Raises Refusal, naming ``field``, where the package holds nothing of that name.
    """
    if not path.startswith(PREFIX):
        return str(expand(path, field=field)) if path.startswith("~") or "$" in path else path
    folder = Path(__file__).resolve().parent
    target = (folder / path.removeprefix(PREFIX)).resolve()
    if folder not in target.parents or not target.exists():
        held = sorted(f"{PREFIX}{entry.name}" for entry in folder.iterdir() if not entry.name.startswith(("_", ".")))
        raise Refusal(field, f"{path}: diito holds nothing of that name; it holds {', '.join(held) or 'nothing'}")
    return str(target)


def is_packaged(name: str, what: str) -> bool:
    """Whether a recipe or a grid (``what``) of that name comes with diito."""
    return (Path(__file__).resolve().parent / f"{what}s" / f"{name}.yaml").is_file()


def packaged(path: str, what: str) -> Path:
    """Turn ``recipe:NAME`` (``what`` is ``recipe``) or ``grid:NAME`` into the file that comes with diito; other paths are
    those of files.

    Raises ValueError where there is none of that name.
    """
    if not path.startswith(f"{what}:"):
        return expand(path)
    name, folder = path.removeprefix(f"{what}:"), Path(__file__).resolve().parent / f"{what}s"
    known = sorted(file.stem for file in folder.glob("*.yaml"))
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {what}:{near[0]}?" if near else f"there are {', '.join(known)}"
        raise Refusal("", f"diito has no {what} of the name {name}; {hint}")
    return folder / f"{name}.yaml"
