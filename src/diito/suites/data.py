"""Where the examples of a task come from: a split on the hub, or a file in a local folder (plain, .gz or .xz).

Every refusal is a sentence that names the file, and for a row its line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import datasets

from diito.faults import loading
from diito.paths import expand
from diito.reading import COMPRESSIONS, open_text
from diito.refusal import Refusal

_ENDINGS = ("", *COMPRESSIONS)


def hub_split(dataset: str, split: str, *, config: str | None = None) -> datasets.Dataset:
    """One split of a dataset of the Hugging Face hub. Raises Refusal where it cannot be loaded."""
    place = f"{dataset if config is None else f'{dataset} ({config})'}, split {split}"
    with loading("the hub dataset", place, advice="check the network, or give a local folder with --data"):
        return datasets.load_dataset(dataset, config, split=split)


def find_file(folder: str | Path, names: Sequence[str], *, content: str) -> Path:
    """The first of ``names`` that is in ``folder``, as it is or with .gz or .xz.

    Raises Refusal where none is: ``content`` says what the file holds and where it comes from.
    """
    folder = expand(folder, field="--data")
    if not folder.is_dir():
        raise Refusal("", f"{folder} is not a folder; give the one with {content}")
    for name in names:
        for compression in _ENDINGS:
            if (path := folder / f"{name}{compression}").is_file():
                return path
    raise Refusal("", f"{folder} has no file {' or '.join(names)} (also .gz or .xz): {content}")


def has_file(folder: str | Path, names: Sequence[str]) -> bool:
    """Whether :func:`find_file` would find one."""
    return any((expand(folder, field="--data") / f"{name}{end}").is_file() for name in names for end in _ENDINGS)


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 text file, without their line ends. Raises Refusal for one that is damaged or not UTF-8."""
    # newline: only \n ends a line, since some tasks have other separators inside their sentences.
    with open_text(path, "", newline="\n") as stream:
        for line in stream:
            yield line.rstrip("\r\n")
