"""Where the examples of a task come from: a split on the hub, or a file in a local folder (plain, .gz or .xz).

Every refusal is a ValueError of one sentence that names the file, and for a row its line.
"""

from __future__ import annotations

import gzip
import lzma
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets

_OPENERS: dict[str, Any] = {"": open, ".gz": gzip.open, ".xz": lzma.open}


def hub_split(dataset: str, split: str, *, config: str | None = None) -> datasets.Dataset:
    """One split of a dataset of the Hugging Face hub. Raises ValueError where it cannot be loaded."""
    try:
        return datasets.load_dataset(dataset, config, split=split)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        place = dataset if config is None else f"{dataset} ({config})"
        raise ValueError(
            f"{place}, split {split}: cannot be loaded from the hub ({reason}); "
            "check the network, or give a local folder with --data"
        ) from error


def find_file(folder: str | Path, names: Sequence[str], *, content: str) -> Path:
    """The first of ``names`` that is in ``folder``, as it is or with .gz or .xz.

    Raises ValueError where none is: ``what`` says what the file holds and where it comes from.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give the one with {content}")
    for name in names:
        for compression in _OPENERS:
            if (path := folder / f"{name}{compression}").is_file():
                return path
    raise ValueError(f"{folder} has no file {' or '.join(names)} (also .gz or .xz): {content}")


def has_file(folder: str | Path, names: Sequence[str]) -> bool:
    """Whether :func:`find_file` would find one."""
    return any((Path(folder).expanduser() / f"{name}{end}").is_file() for name in names for end in _OPENERS)


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 text file, without their line ends. Raises ValueError for one that is damaged or not UTF-8."""
    opener = _OPENERS.get(path.suffix.lower(), open)
    try:
        # newline: only \n ends a line, since some tasks have other separators inside their sentences.
        with opener(path, "rt", encoding="utf-8-sig", newline="\n") as stream:
            for line in stream:
                yield line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: damaged, or not a whole {path.suffix} file ({error})") from error
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from error
