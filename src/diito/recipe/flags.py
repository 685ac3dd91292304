"""Dataclasses as flags of a command: a flag for every field, its help from the text under the field, and back again."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import difflib
import functools
import inspect
import itertools
from collections.abc import Collection, Mapping, Sequence
from types import ModuleType
from typing import Any, NoReturn, TypeVar

from diito.recipe.file import from_flags, write_value
from diito.recipe.keys import bare, describe, hints, is_further_key, known_keys, unknown_key
from diito.refusal import Refusal, Refusals

Section = TypeVar("Section")
_TRUTH_VALUES = ("true", "false", "yes", "no", "on", "off")
"""The words that YAML takes for a truth value."""


class Parser(argparse.ArgumentParser):
    """Answers a mistake with one sentence instead of the usage, and takes ``--map`` for ``--map true``."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)
        self.sections: list[type] = []
        """Where a key that no flag takes is looked for."""
        self.flags_alone: set[type] = set()
        """Those of them that no file holds, so that their fields are known as flags."""
        self.switches: set[str] = set()
        self.words: Sequence[str] = ()
        """What stands behind the command on the command line."""

    def error(self, message: str) -> NoReturn:
        """A :class:`Refusal` instead of the usage and the end of the process."""
        raise Refusal("", message.removeprefix("argument "))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As always, but a switch takes the next word only where that is a truth value; it may be a recipe's name."""
        words = list(args or ())
        for index, word in enumerate(words):
            if word in self.switches and "".join(words[index + 1 : index + 2]).lower() not in _TRUTH_VALUES:
                words[index] = f"{word}=true"
        return super().parse_known_args(words, namespace)

    def prepare(
        self, functions: ModuleType, name: str, positionals: Mapping[str, str], flags: str | None, words: Sequence[str]
    ) -> None:
        """Make it the parser of a command: the text of its function is its description. ``positionals``: name to help, a name
        with a question mark may be left out, one with a plus given several times; ``flags``: the function that adds flags;
        ``words``: the rest of the line."""
        self.words = words
        self.description = inspect.getdoc(getattr(functions, name))
        self.set_defaults(parser=self)
        for positional, text in positionals.items():
            word = positional.rstrip("?+")
            self.add_argument(word, metavar=word.upper(), help=text, nargs=positional.removeprefix(word) or None)  # type: ignore[arg-type]
        if flags is not None:
            getattr(functions, flags)(self)

    def parse_all(self, words: Sequence[str]) -> argparse.Namespace:
        """All of a command line, also keys that a section takes though they are none of its fields. Raises ValueError."""
        arguments, rest = self.parse_known_args(words)
        if rest and arguments.parser.add_further(rest):
            arguments, rest = self.parse_known_args(words)
        if rest:
            arguments.parser.refuse_unknown(rest)
        return arguments

    def add_section(self, section: type, title: str, *, without: Collection[str] = (), in_files: bool = True) -> None:
        """A flag for every field of a dataclass, but for those of the names in ``without``. ``in_files``: files hold it too."""
        self.sections.append(section)
        if not in_files:
            self.flags_alone.add(section)
        self._add_fields(section, section, "", title, without)

    def add_settings(self, section: type, title: str = "the run") -> None:
        """The same for what is the command's own, and no recipe's."""
        self._add_fields(section, section, "", title, ())

    def add_further(self, words: Sequence[str]) -> bool:
        """Add the flags among ``words`` that a section takes though they are none of its fields; whether there are any."""
        keys = {word[2:].partition("=")[0] for word in words if word.startswith("--")}
        further = [(root, key) for root in self.sections for key in sorted(keys) if is_further_key(key, root)]
        for root, key in further:
            self.add_argument(f"--{key}", dest=f"{root.__name__}:{key}", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        return bool(further)

    def refuse_unknown(self, words: Sequence[str]) -> NoReturn:
        """The refusal of words that no flag takes: first of the flags among them, since their values tag along."""
        flag = next((word for word in words if word.startswith("--")), None)
        if flag is None:
            raise Refusal("", f"unexpected argument {words[0]!r}; a list is written '[0,2,4]'")
        key = flag[2:].partition("=")[0]
        theirs = tuple(f"{section.__name__}:" for section in self.sections)
        own = [flag for action in self._actions if not action.dest.startswith(theirs) for flag in action.option_strings]
        near = difflib.get_close_matches(f"--{key}", own, n=1, cutoff=0.8)
        if near:
            raise Refusal(f"--{key}", f"unknown flag; did you mean {near[0]}?")
        top = key.partition(".")[0]
        of_that_name = [section for section in self.sections if "." in key and top in hints(section)]
        section = next(iter([*of_that_name, *self.sections]), None)
        if section is None or key in known_keys(section):
            raise Refusal(f"--{key}", "unknown flag; see --help")
        mark = "--" if section in self.flags_alone else ""
        raise Refusal(mark + key, unknown_key(key, section, mark=mark))

    def _add_fields(self, root: type, section: type, prefix: str, title: str, without: Collection[str]) -> None:
        group = self.add_argument_group(title, _words(inspect.getdoc(section) or ""))
        documents = field_documents(section)
        for field in dataclasses.fields(section):
            if field.name in without:
                continue
            kind, key = hints(section)[field.name], prefix + field.name
            options: dict[str, Any] = {"dest": f"{root.__name__}:{key}", "default": argparse.SUPPRESS, "metavar": "VALUE"}
            if bare(kind) is bool:
                self.switches.add(f"--{key}")
                options |= {"nargs": "?", "metavar": "true|false"}
            is_section = dataclasses.is_dataclass(kind)
            group.add_argument(
                f"--{key}", help=argparse.SUPPRESS if is_section else _help(documents[field.name], kind, field), **options
            )
            if is_section:
                self._add_fields(root, kind, f"{key}.", key, ())


def check_command(word: str, commands: Collection[str]) -> None:
    """Refuse what is no command, naming the nearest one."""
    if word not in commands:
        near = difflib.get_close_matches(word, commands, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the commands are {', '.join(commands)}"
        raise Refusal("", f"{word!r} is not a command; {hint}")


def given(arguments: argparse.Namespace, section: type) -> dict[str, Any]:
    """The flags that are fields of ``section``, by their keys."""
    prefix = f"{section.__name__}:"
    return {name.removeprefix(prefix): value for name, value in vars(arguments).items() if name.startswith(prefix)}


def filled(section: type[Section], arguments: argparse.Namespace) -> Section:
    """A dataclass from the flags that are its fields. Raises ValueError."""
    try:
        return from_flags(section, given(arguments, section))
    except (Refusal, Refusals) as error:
        raise error.under("--") from error


@functools.cache
def field_documents(section: type) -> dict[str, str]:
    """The text under each field of a dataclass (and of those it extends), which Python itself drops, from its source."""
    documents = {}
    for base in reversed([base for base in section.__mro__ if dataclasses.is_dataclass(base)]):
        body = ast.parse(inspect.getsource(base)).body[0].body  # type: ignore[attr-defined]
        for field, below in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                documents[ast.unparse(field.target)] = _words(str(below.value.value))
    return documents


def default_of(field: dataclasses.Field[Any]) -> Any:
    """The default of a field, without the nulls of the sections in it; MISSING where it must be given."""
    default = field.default_factory() if callable(field.default_factory) else field.default
    if isinstance(default, list):  # of sources, whose many nulls say nothing
        default = [_without_nulls(item) if dataclasses.is_dataclass(item) else item for item in default]
    return default


def _without_nulls(section: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(section).items() if value is not None}


def _help(document: str, kind: Any, field: dataclasses.Field[Any]) -> str:
    default = default_of(field)
    ending = "" if default is dataclasses.MISSING else f"; default: {write_value(default)}"
    return f"{document} ({describe(kind)}{ending})".replace("%", "%%")


def _words(text: str) -> str:
    return " ".join(text.replace("``", "").split())
