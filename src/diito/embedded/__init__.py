"""What comes with diito: a small teacher and WikiText-2, so that a first run needs no network."""

from __future__ import annotations

from pathlib import Path

PREFIX = "embedded:"


def resolve(path: str) -> str:
    """Turn ``embedded:NAME`` into the path of that file or folder of the installed package, and ``~`` into the home
    folder; return other paths unchanged.

    Raises ValueError where the package holds nothing of that name.
    """
    if not path.startswith(PREFIX):
        return str(Path(path).expanduser()) if path.startswith("~") else path
    folder = Path(__file__).resolve().parent
    target = (folder / path.removeprefix(PREFIX)).resolve()
    if folder not in target.parents or not target.exists():
        held = sorted(f"{PREFIX}{entry.name}" for entry in folder.iterdir() if not entry.name.startswith(("_", ".")))
        raise ValueError(f"{path}: diito holds nothing of that name; it holds {', '.join(held) or 'nothing'}")
    return str(target)
