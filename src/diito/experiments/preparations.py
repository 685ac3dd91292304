"""What a grid makes before its students, once a seed: data, teachers, and what is found in them.

1. a preparation is a command of diito with names in braces: ``{seed}``, ``{output}`` (a folder of its own), and the names of
   earlier preparations, which stand for their folders;
2. it is a job like any other, in a folder that is named by the command, with the names of those that it builds on in their
   place;
3. recipes and evaluations may hold the same names, and ``{name.key}``: what a preparation left under ``key`` in
   ``values.json`` in its folder, such as the layer of a site.

No torch here.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diito.files import read_json
from diito.refusal import Refusal

COMMANDS = ("generate", "pretrain", "evaluate", "distill", "align")
"""The commands that a preparation may be."""
VALUES = "values.json"
"""What a preparation leaves for recipes, in its folder."""
_NAME = re.compile(r"\{([A-Za-z]\w*)(?:\.(\w+))?\}")
_OWN = ("seed", "output")


@dataclass(frozen=True)
class Preparation:
    """One command to run for one seed."""

    name: str
    seed: int
    words: tuple[str, ...]
    """The command, with names in braces."""

    @property
    def title(self) -> str:
        """For the screen."""
        return f"{self.name}, seed {self.seed}"


def preparations(commands: Mapping[str, str], seeds: Sequence[int]) -> list[Preparation]:
    """Every preparation with every seed, those of a seed in their order."""
    return [Preparation(name, seed, tuple(shlex.split(text))) for seed in seeds for name, text in commands.items()]


def check_preparations(commands: Mapping[str, str]) -> None:
    """Refuse (Refusal) what can be no preparation, and names that nothing stands behind."""
    known: list[str] = []
    for name, text in commands.items():
        field = f"prepare.{name}"
        if not re.fullmatch(r"[A-Za-z]\w*", name) or name in _OWN:
            raise Refusal(field, f"{name!r} is no name for a preparation; give a word, other than {' and '.join(_OWN)}")
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise Refusal(field, f"{text!r} is no command: {error}") from None
        if not words or words[0] not in COMMANDS:
            raise Refusal(field, f"must begin with a command of diito: {', '.join(COMMANDS)}")
        if not any("{output}" in word for word in words):
            raise Refusal(field, "has no {output}, the folder that its names stand for; let the command write there")
        for used in {match[1] for word in words for match in _NAME.finditer(word)}:
            if used not in (*_OWN, *known):
                names = ", ".join((*_OWN, *known))
                raise Refusal(field, f"{{{used}}} is nothing that is made before it; there are {names}")
        known.append(name)


@dataclass(frozen=True)
class Prepared:
    """What stands behind the names of one seed."""

    seed: int
    folders: Mapping[str, Path]
    """By the name of the preparation."""

    def fill(self, value: Any) -> Any:
        """``value`` with the names in its texts replaced, also in lists, mappings and dataclasses.

        A text that is nothing but a name becomes what it stands for, a number or a list too. Names that are none of this grid's
        stay as they are. Raises Refusal for a key that a preparation has not left.
        """
        if isinstance(value, str):
            whole = _NAME.fullmatch(value)
            if whole is not None:
                return self._of(whole)
            return _NAME.sub(lambda match: str(self._of(match)), value)
        if isinstance(value, Mapping):
            return {key: self.fill(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.fill(item) for item in value]
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return dataclasses.replace(value, **{field.name: self.fill(getattr(value, field.name)) for field in _init(value)})
        return value

    def _of(self, match: re.Match[str]) -> Any:
        name, key = match[1], match[2]
        if name == "seed" and key is None:
            return self.seed
        if name not in self.folders:
            return match[0]
        if key is None:
            return str(self.folders[name])
        values = read_json(self.folders[name] / VALUES)
        if key not in values:
            there = ", ".join(values) or f"no {VALUES}"
            raise Refusal(f"prepare.{name}", f"left nothing of the name {key}; there is {there}")
        return values[key]


def builds_on(value: Any, commands: Mapping[str, str]) -> bool:
    """Whether ``value`` holds the seed or the name of one of these preparations."""
    if isinstance(value, str):
        return any(match[1] in (*_OWN, *commands) for match in _NAME.finditer(value))
    if isinstance(value, Mapping):
        return any(builds_on(item, commands) for item in value.values())
    return isinstance(value, (list, tuple)) and any(builds_on(item, commands) for item in value)


def nothing_prepared(seed: int) -> Prepared:
    """Of a grid without preparations."""
    return Prepared(seed, {})


def resolved(preparation: Preparation, earlier: Mapping[str, str], *, output: str) -> list[str]:
    """The words of the command; ``earlier``: what the names of earlier preparations stand for."""
    given = {"seed": str(preparation.seed), "output": output, **earlier}
    return [_NAME.sub(lambda match: given[match[1]], word) for word in preparation.words]


def _init(value: Any) -> Iterator[dataclasses.Field[Any]]:
    return (field for field in dataclasses.fields(value) if field.init)
