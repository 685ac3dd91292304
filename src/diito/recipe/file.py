"""Recipes on disk: a YAML file and overrides become a :class:`Recipe`, and a recipe becomes YAML that reads back equal.

1. the file is parsed to YAML nodes, which still know their line and the text as written;
2. :func:`fill` walks dataclass and nodes together and refuses what does not fit: unknown or repeated keys, wrong types;
3. an override replaces the node of its key, so flags and files are read by the same rules.

Every refusal is a ValueError of one sentence that names the key and, for a file, the line.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from diito.recipe.sections import Recipe

Section = TypeVar("Section")


class _Loader(yaml.SafeLoader):
    """YAML as PyYAML reads it, but 5e-4 is a number (YAML 1.1 wants 5.0e-4)."""


class _Dumper(yaml.SafeDumper):
    """The counterpart of the loader: the text "5e-4" is written in quotes."""


for _yaml_class in (_Loader, _Dumper):
    _yaml_class.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
    )


def read(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe in a YAML file, with overrides such as ``{"student.layers": "3"}`` on top.

    A text is read as on the command line (YAML), any other value is taken as it is. Values are only checked for their
    type here; :func:`diito.recipe.checks.check` does the rest. Raises ValueError with one sentence.
    """
    nodes = {key: _override(key, value, Recipe) for key, value in (overrides or {}).items()}
    recipe: Recipe = _Reader(str(path), nodes).fill(Recipe, _parse_file(Path(path)), "")
    return recipe


def read_section(
    section: type[Section], path: str | Path, overrides: Mapping[str, Any] | None = None, *, what: str = "recipe"
) -> Section:
    """The same for any dataclass, such as a section of a recipe that has a file of its own. ``what``: its name in errors."""
    nodes = {key: _override(key, value, section) for key, value in (overrides or {}).items()}
    filled: Section = _Reader(str(path), nodes, section).fill(section, _parse_file(Path(path), what), "")
    return filled


def from_flags(section: type[Section], values: Mapping[str, Any]) -> Section:
    """A dataclass from flags alone, its other fields at their defaults. Raises ValueError with one sentence."""
    nodes = {key: _override(key, value, section) for key, value in values.items()}
    filled: Section = _Reader("", nodes, section).fill(section, None, "")
    return filled


def dump(recipe: Any) -> str:
    """The complete recipe (or a section of one) as YAML; :func:`read` gives back an equal recipe."""
    return yaml.dump(_plain(dataclasses.asdict(recipe)), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def write_value(value: Any) -> str:
    """One value as YAML in a line: ``[0, 2, 4]``, ``null``."""
    text = yaml.dump(_plain(value), Dumper=_Dumper, default_flow_style=True, sort_keys=False, width=math.inf)
    return text.removesuffix("\n").removesuffix("\n...")


def known_keys(section: type = Recipe, prefix: str = "") -> dict[str, Any]:
    """Every key of a recipe, sections before their fields, with its type: ``{"training.batch": int, ...}``."""
    keys: dict[str, Any] = {}
    for name, kind in get_type_hints(section).items():
        keys[prefix + name] = kind
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            keys |= known_keys(kind, f"{prefix}{name}.")
    return keys


def unknown_key(key: str, root: type = Recipe) -> str:
    """The sentence about a key that no recipe (or other ``root``) has, with the nearest right one."""
    keys, section = known_keys(root), key.rpartition(".")[0]
    while section and section not in keys:
        section = section.rpartition(".")[0]
    prefix = f"{section}." if section else ""
    siblings = [known.removeprefix(prefix) for known in keys if known.startswith(prefix)]
    return _unknown(key, prefix, [name for name in siblings if "." not in name], root)


def _unknown(key: str, prefix: str, siblings: list[str], root: type) -> str:
    """The same for a key within ``prefix``: its name elsewhere, else the nearest sibling, else the nearest name anywhere."""
    rest = key.removeprefix(prefix)
    near = [known for known in known_keys(root) if known.endswith(f".{rest}")][:1] if prefix else []
    near += [] if "." in rest else [prefix + match for match in difflib.get_close_matches(rest, siblings, n=1)]
    names = {known: known.rpartition(".")[2] for known in known_keys(root)}
    alike = difflib.get_close_matches(rest.rpartition(".")[2], set(names.values()), n=1, cutoff=0.75)
    elsewhere = [known for known, name in names.items() if name in alike]
    near += difflib.get_close_matches(key, elsewhere, n=1, cutoff=0)
    if near:
        return f"{key}: unknown key; did you mean {near[0]}?"
    whole = "a recipe" if root is Recipe else "it"
    return f"{key}: unknown key; {prefix.removesuffix('.') or whole} has {', '.join(siblings)}"


def describe(kind: Any) -> str:
    """A type in words: ``int`` is "a whole number"."""
    words = {str: "text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}
    if kind in words:
        return words[kind]
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    if get_origin(kind) is list:
        return f"a list of {_plural(get_args(kind)[0])}"
    if get_origin(kind) is tuple:
        return f"a list of {len(get_args(kind))} {_plural(get_args(kind)[0])}"
    if _is_union(kind):
        return " or ".join(describe(member) for member in get_args(kind))
    if dataclasses.is_dataclass(kind):
        return f"a section {{{', '.join(field.name for field in dataclasses.fields(kind))}}}"
    return "a section of keys with values"


class _Reader:
    """One walk over a recipe's dataclasses; holds what error messages and overrides need."""

    def __init__(self, path: str, overrides: dict[str, yaml.Node], root: type = Recipe):
        self.path = path
        self.overrides = overrides
        self.root = root

    def fill(self, kind: Any, node: yaml.Node | None, key: str) -> Any:
        """The value of type ``kind`` that the node holds; no node at all leaves a section its defaults."""
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            return self._section(kind, node, key)
        assert node is not None
        if _is_union(kind):
            return self._union(kind, node, key)
        if not _fits(kind, node):
            raise self._error(key, f"{_written(node)} is not {describe(kind)}", node)
        if get_origin(kind) in (list, tuple):
            return self._sequence(kind, node, key)
        if kind is str or get_origin(kind) is Literal:
            return node.value
        value = self._value(node, key)
        return float(value) if kind is float else value

    def _section(self, section: type, node: yaml.Node | None, key: str) -> Any:
        prefix = f"{key}." if key else ""
        hints = get_type_hints(section)
        entries = {} if node is None or _is_null(node) else self._entries(node, key)
        for name, (key_node, _) in entries.items():
            if name not in hints:
                raise self._error("", _unknown(prefix + name, prefix, list(hints), self.root), key_node)
        values = {}
        for field in dataclasses.fields(section):
            field_key = prefix + field.name
            entry = self.overrides.get(field_key) or entries.get(field.name, (None, None))[1]
            if entry is not None or dataclasses.is_dataclass(hints[field.name]):
                values[field.name] = self.fill(hints[field.name], entry, field_key)
            elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                raise self._error(field_key, f"missing; {describe(hints[field.name])} is needed", node)
        return section(**values)

    def _entries(self, node: yaml.Node, key: str) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Name to (key node, value node) of a mapping; a name given twice is an error (PyYAML keeps the last)."""
        if not isinstance(node, yaml.MappingNode):
            raise self._error(key or "the recipe", f"{_written(node)} is not a section of keys with values", node)
        entries: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key_node, value_node in node.value:
            name = str(key_node.value)
            if name in entries:
                first = entries[name][0].start_mark.line + 1
                raise self._error(f"{key}.{name}" if key else name, f"given twice, first in line {first}", key_node)
            entries[name] = (key_node, value_node)
        return entries

    def _sequence(self, kind: Any, node: yaml.Node, key: str) -> Any:
        kinds = get_args(kind)
        if get_origin(kind) is list:
            return [self.fill(kinds[0], item, f"{key}[{index}]") for index, item in enumerate(node.value)]
        if len(node.value) != len(kinds):
            raise self._error(key, f"{_written(node)} is not {describe(kind)}", node)
        return tuple(
            self.fill(item_kind, item, f"{key}[{index}]")
            for index, (item_kind, item) in enumerate(zip(kinds, node.value, strict=True))
        )

    def _union(self, kind: Any, node: yaml.Node, key: str) -> Any:
        for member in get_args(kind):
            if _fits(member, node):
                return self.fill(member, node, key)
        raise self._error(key, f"{_written(node)} is not {describe(kind)}", node)

    def _value(self, node: yaml.Node, key: str) -> Any:
        """The plain value of a node whose type is settled, or is none of our business."""
        if isinstance(node, yaml.MappingNode):
            return {name: self._value(value, f"{key}.{name}") for name, (_, value) in self._entries(node, key).items()}
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, f"{key}[{index}]") for index, item in enumerate(node.value)]
        try:
            return _Loader("").construct_document(node)
        except (yaml.YAMLError, ValueError):
            raise self._error(key, f"{_written(node)} is not a value that YAML can hold", node) from None

    def _error(self, key: str, problem: str, node: yaml.Node | None) -> ValueError:
        sentence = f"{key}: {problem}" if key else problem
        mark = node.start_mark if node else None
        if mark is None or mark.name != self.path:  # the nodes of an override carry its key instead
            return ValueError(sentence)
        return ValueError(f"{sentence} ({self.path}, line {mark.line + 1})")


def _parse_file(path: Path, what: str = "recipe") -> yaml.Node:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"there is no {what} {path}") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder; a {what} is a YAML file") from None
    except OSError as error:
        raise ValueError(f"the {what} {path} cannot be read: {error.strerror}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: a {what} must be UTF-8 text, and this byte is not") from None
    node = _compose(text, str(path))
    if node is None:
        raise ValueError(f"{path}: the {what} is empty; see the {what}s/ folder for complete ones")
    return node


def _compose(text: str, place: str) -> yaml.Node | None:
    """The YAML nodes of a text; their marks carry ``place``, a path or the key of an override."""
    try:
        loader = _Loader(text)
        loader.name = place
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{place}, line {mark.line + 1}" if mark else place
        problem = error.problem or "the text cannot be parsed"
        if problem.startswith("but "):  # PyYAML's sentence began in the context
            problem = f"{error.context}, {problem}"
        raise ValueError(f"{where}: not valid YAML: {problem}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ValueError(f"{place}, line {line}: not valid YAML: a character that YAML does not allow") from None


def _override(key: str, value: Any, root: type) -> yaml.Node:
    """The node that stands for an override; raises ValueError for an unknown key."""
    keys = known_keys(root)
    if key not in keys:
        raise ValueError(unknown_key(key, root))
    members = get_args(keys[key]) if _is_union(keys[key]) else (keys[key],)
    if isinstance(value, str) and set(members) <= {str, type(None)} and value != "null":
        return yaml.ScalarNode("tag:yaml.org,2002:str", value)  # a name or path may look like YAML
    text = value if isinstance(value, str) else yaml.dump(_plain(value), Dumper=_Dumper)
    return _compose(text, key) or yaml.ScalarNode("tag:yaml.org,2002:null", "")


def _fits(kind: Any, node: yaml.Node) -> bool:
    """Whether the outermost shape of the node is right; what lies inside is checked where it is read."""
    if kind is Any:
        return True
    if get_origin(kind) in (list, tuple):
        return isinstance(node, yaml.SequenceNode)
    if get_origin(kind) is dict or dataclasses.is_dataclass(kind):
        return isinstance(node, yaml.MappingNode)
    if not isinstance(node, yaml.ScalarNode):
        return False
    if get_origin(kind) is Literal:
        return node.value in get_args(kind)
    if kind is str:  # whatever was written: a commit such as 1234567 or 12345e6 is a text
        return not _is_null(node)
    tags = {int: ("int",), float: ("int", "float"), bool: ("bool",), type(None): ("null",)}[kind]
    return node.tag.rpartition(":")[2] in tags


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


def _written(node: yaml.Node) -> str:
    """The node as its author wrote it, for a message."""
    if isinstance(node, yaml.ScalarNode):
        return "null" if _is_null(node) else repr(node.value)
    return "a list" if isinstance(node, yaml.SequenceNode) else "a section"


def _plural(kind: Any) -> str:
    """The same in the plural: "whole numbers", "lists of 2 whole numbers"."""
    if _is_union(kind):
        return " or ".join(_plural(member) for member in get_args(kind))
    words = {str: "texts", int: "whole numbers", float: "numbers"}
    return words.get(kind) or describe(kind).replace("a list", "lists", 1).replace("a section", "sections", 1)


def _plain(value: Any) -> Any:
    """Tuples as lists, which is how YAML writes them."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
