"""Recipes on disk: a YAML file and overrides become a :class:`Recipe`, and a recipe becomes YAML that reads back equal.

1. the file is parsed to YAML nodes, which still know their line and the text as written;
2. :class:`_Reading` turns them into plain values under the names of the fields, and remembers where each one stood;
3. an override replaces the value of its key, so flags and files are read by the same rules;
4. pydantic checks types and ranges and fills the dataclass; what it refuses is told in our words, all at once.

Every refusal is a :class:`Refusal` that names the key as its author wrote it and, for a file, the line.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, get_args, get_origin

import yaml

from diito.embedded import is_packaged, packaged
from diito.recipe.keys import (
    aliases,
    bare,
    describe,
    fits,
    hints,
    item_kind,
    members,
    requirement,
    rest_of,
    section_of,
    unknown_key,
    unknown_name,
)
from diito.recipe.keys import known_keys as known_keys
from diito.recipe.sections import Recipe
from diito.refusal import Refusal, refuse

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic_core import ErrorDetails

Section = TypeVar("Section")
Keys = tuple[str, ...]


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

    ``path``: a file, or ``recipe:quickstart`` for one that comes with diito. A text among the overrides is read as on the
    command line (YAML), any other value is taken as it is. Each field is checked for itself here, its type and its range;
    :func:`diito.recipe.checks.check` does the rest. Raises ValueError: a :class:`Refusal`, or all there are.
    """
    return read_section(Recipe, path, overrides)


def read_section(
    section: type[Section], path: str | Path, overrides: Mapping[str, Any] | None = None, *, what: str = "recipe"
) -> Section:
    """The same for any dataclass, such as a section of a recipe that has a file of its own. ``what``: its name in errors."""
    file = packaged(str(path), what)
    return _Reading(section, str(file)).fill(_parse_file(file, what), overrides or {})


def from_flags(section: type[Section], values: Mapping[str, Any]) -> Section:
    """A dataclass from flags alone, its other fields at their defaults. Raises ValueError: all there is to refuse."""
    return _Reading(section).fill(None, values)


def read_again(section: Section) -> Section:
    """The same dataclass with every field checked, for values that were set in Python. Raises ValueError."""
    return _Reading(type(section)).fill(_represent(section), {})


def dump(recipe: Any) -> str:
    """The complete recipe (or a section of one) as YAML; :func:`read` gives back an equal recipe."""
    return yaml.dump(_spread(recipe), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def write_value(value: Any) -> str:
    """One value as YAML in a line: ``[0, 2, 4]``, ``null``."""
    text = yaml.dump(_plain(value), Dumper=_Dumper, default_flow_style=True, sort_keys=False, width=math.inf)
    return text.removesuffix("\n").removesuffix("\n...")


@functools.cache
def adapter(section: type) -> TypeAdapter[list[Any]]:
    """What pydantic checks a list of such dataclasses with (a list, as it lets the settings be given from outside)."""
    from pydantic import ConfigDict, TypeAdapter  # slow to import, and the help of the command needs it not

    settings = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
    return TypeAdapter(list[section], config=settings)  # type: ignore[valid-type]


class _Place(NamedTuple):
    """Where a value stood: its key as written, its type, and the nodes of key and value."""

    written: str
    kind: Any
    key_node: yaml.Node | None
    node: yaml.Node | None


class _Reading:
    """One reading of a dataclass: where each value stood, and what is refused so far."""

    def __init__(self, root: type, path: str = "") -> None:
        self.root = root
        self.path = path
        self.places: dict[str, _Place] = {}
        self.refusals: list[Refusal] = []

    def fill(self, node: yaml.Node | None, overrides: Mapping[str, Any]) -> Any:
        """The dataclass that a node and overrides hold. Raises all that is refused."""
        values = {} if node is None else self._value(node, "", _Place("", self.root, node, node))
        given: dict[Keys, str] = {}
        for key, value in sorted(overrides.items(), key=lambda item: item[0].count(".")):
            for keys, place in self._override(key, value):
                if keys in given:
                    self._refuse(place, f"the same as {given[keys]}; give one of them")
                given[keys] = key
                _set(values, keys, self._value(place.node, ".".join(keys), place))
        filled = self._validate(values)
        refuse(self.refusals)
        return filled

    def _value(self, node: yaml.Node | None, key: str, place: _Place) -> Any:
        """The plain value of a node, in a list where the field takes only lists."""
        for known in [known for known in self.places if known.startswith((f"{key}.", f"{key}["))]:
            del self.places[known]  # what an override replaces
        self.places[key] = place
        kinds, items = members(place.kind), item_kind(place.kind)
        if isinstance(node, yaml.SequenceNode):
            return [self._item(place, key, index, item) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            section = next((bare(kind) for kind in kinds if dataclasses.is_dataclass(bare(kind))), None)
            if section or not any(dataclasses.is_dataclass(bare(kind)) for kind in members(items)):
                return self._mapping(node, section or bare(place.kind), key, place)
        else:
            assert isinstance(node, yaml.ScalarNode)
            value = self._scalar(node, kinds, place)
            takes_list = any(get_origin(bare(kind)) is list for kind in kinds)
            if value is None or not takes_list or any(fits(value, kind) for kind in kinds):
                return value
        return [self._value(node, f"{key}[0]", place._replace(kind=items))]

    def _item(self, place: _Place, key: str, index: int, node: yaml.Node) -> Any:
        kind = item_kind(place.kind, index) or Any
        return self._value(node, f"{key}[{index}]", _Place(f"{place.written}[{index}]", kind, node, node))

    def _scalar(self, node: yaml.ScalarNode, kinds: Sequence[Any], place: _Place) -> Any:
        """A number, a truth value, null; or the text as written, as a commit may look like 12345e6."""
        try:
            value = _Loader("").construct_document(node)
        except (yaml.YAMLError, ValueError):
            self._refuse(place, f"{_written(node)} is not a value that YAML can hold")
            return None
        bare_kinds = [bare(kind) for kind in kinds]
        if value is None or any(fits(value, kind) for kind in bare_kinds if kind is not str):
            is_float = float in bare_kinds and int not in bare_kinds and isinstance(value, int)
            return float(value) if is_float and not isinstance(value, bool) else value
        return node.value if str in bare_kinds or any(get_origin(kind) is Literal for kind in bare_kinds) else value

    def _mapping(self, node: yaml.MappingNode, owner: Any, key: str, place: _Place) -> dict[str, Any]:
        """Names to values, a name given twice refused (PyYAML keeps the last)."""
        values: dict[str, Any] = {}
        prefix, written = f"{key}." if key else "", f"{place.written}." if place.written else ""
        entries = [each for name, item in node.value for each in self._entry(owner, str(name.value), name, item, written)]
        for keys, inner in sorted(entries, key=lambda entry: len(entry[0])):
            if first := self.places.get(prefix + ".".join(keys)):
                line = first.key_node.start_mark.line + 1 if first.key_node else 0
                is_same = first.written == inner.written
                sentence = f"given twice, first in line {line}" if is_same else f"the same as {first.written}; give one of them"
                self._refuse(inner, sentence, key=True)
            elif not (dataclasses.is_dataclass(inner.kind) and _is_null(inner.node)):  # an empty section keeps its defaults
                _set(values, keys, self._value(inner.node, prefix + ".".join(keys), inner))
        return values

    def _entry(
        self, owner: Any, name: str, key_node: yaml.Node | None, node: yaml.Node, prefix: str
    ) -> Iterator[tuple[Keys, _Place]]:
        """The fields of ``owner`` that a name stands for, each with its own node."""
        place = _Place(prefix + name, Any, key_node, node)
        if not dataclasses.is_dataclass(owner):
            yield (name,), place._replace(kind=get_args(owner)[1] if get_origin(owner) is dict else Any)
        elif name in hints(owner):  # type: ignore[arg-type]
            yield (name,), place._replace(kind=hints(owner)[name])  # type: ignore[arg-type]
        elif alias := aliases(owner).get(name):
            kinds = [hints(owner)[field] for field in alias.fields]  # type: ignore[arg-type]
            if len(kinds) == 1:
                yield alias.fields, place._replace(kind=kinds[0], node=self._translated(place, alias.values))
            elif not isinstance(node, yaml.SequenceNode) or len(node.value) != len(kinds):
                self._refuse(place, f"{_written(node)} is not {describe(tuple[tuple(kinds)])}")  # type: ignore[misc]
            else:
                for index, (field, kind, item) in enumerate(zip(alias.fields, kinds, node.value, strict=True)):
                    yield (field,), _Place(f"{prefix}{name}[{index}]", kind, key_node, item)
        elif rest := rest_of(owner, name):
            yield (rest, name), place._replace(kind=get_args(hints(owner)[rest])[1])  # type: ignore[arg-type]
        else:
            self._refuse(place, unknown_name(prefix + name, prefix, owner, self.root), key=True)

    def _translated(self, place: _Place, words: Mapping[str, Any] | None) -> yaml.Node | None:
        """The node, in the words of the new field."""
        if words is None:
            return place.node
        if not isinstance(place.node, yaml.ScalarNode) or place.node.value not in words:
            self._refuse(place, f"{_written(place.node)} is not one of {', '.join(words)}")
            return _represent(next(iter(words.values())))
        return _represent(words[place.node.value])

    def _override(self, key: str, value: Any) -> Iterator[tuple[Keys, _Place]]:
        """The fields that an override sets."""
        *parents, name = key.split(".")
        owner = section_of(key, self.root)
        if owner is None:
            self.refusals.append(Refusal(key, unknown_key(key, self.root)))
            return
        field = aliases(owner)[name].fields[0] if name in aliases(owner) else name
        node = _parse_override(key, value, hints(owner).get(field, Any))
        for keys, place in self._entry(owner, name, None, node, "".join(f"{parent}." for parent in parents)):
            if not (dataclasses.is_dataclass(place.kind) and _is_null(node)):
                yield (*parents, *keys), place

    def _validate(self, values: Any) -> Any:
        from pydantic import ValidationError

        try:
            return adapter(self.root).validate_json(json.dumps([values], default=str))[0]
        except ValidationError as error:
            self._translate(error.errors(include_url=False), values)

    def _translate(self, errors: Sequence[ErrorDetails], values: Any) -> None:
        """pydantic's errors as refusals: of a union, what its most fitting part says."""
        by_path: dict[str, ErrorDetails] = {}
        for error in errors:
            path = _path(error["loc"][1:], values, is_missing=error["type"] == "missing")
            is_type = error["type"].endswith("_type") or error["type"] == "literal_error"
            if path not in by_path or not is_type:
                by_path[path] = error
        told = {refusal.field for refusal in self.refusals}
        for path, error in by_path.items():
            if any(other.startswith((f"{path}.", f"{path}[")) for other in by_path):
                continue
            place, sentence = self._sentence(path, error)
            if self._field(place) not in told:
                self._refuse(place, sentence)

    def _sentence(self, path: str, error: ErrorDetails) -> tuple[_Place, str]:
        kind_of_error, value = error["type"], error["input"]
        if kind_of_error == "missing" and path not in self.places:
            parent, _, name = path.rpartition(".")
            place = self.places.get(parent, _Place("", self.root, None, None))
            owner = next(bare(kind) for kind in members(place.kind) if dataclasses.is_dataclass(bare(kind)))
            kind, written = hints(owner)[name], f"{place.written}.{name}".lstrip(".")
            return place._replace(written=written, kind=kind), f"missing; {describe(kind)} is needed"
        place = self.places.get(path, _Place(path, self.root, None, None))
        if kind_of_error.endswith("_type") or kind_of_error in ("literal_error", "too_long", "missing"):
            is_section = dataclasses.is_dataclass(place.kind)
            return (
                place,
                f"{_written(place.node)} is not {'a section of keys with values' if is_section else describe(place.kind)}",
            )
        if kind_of_error == "too_short":
            return place, f"the list {requirement(place.kind, value)}"
        return place, f"{value!r} {requirement(place.kind, value)}"

    def _refuse(self, place: _Place, sentence: str, *, key: bool = False) -> None:
        node = place.key_node if key else place.node
        mark = node.start_mark if node else None
        if mark is not None and mark.name == self.path:  # the nodes of an override carry its key instead
            sentence = f"{sentence} ({self.path}, line {mark.line + 1})"
        self.refusals.append(Refusal(self._field(place), sentence))

    def _field(self, place: _Place) -> str:
        return place.written or "the recipe"


def _path(loc: Sequence[str | int], values: Any, *, is_missing: bool) -> str:
    """The key of an error's location, which also holds names of the parts of unions."""
    path = ""
    for index, part in enumerate(loc):
        if isinstance(part, int):
            if not isinstance(values, list) or part >= len(values):  # an item that a tuple lacks: its own fault
                break
            path, values = f"{path}[{part}]", values[part]
        elif isinstance(values, dict) and (part in values or (is_missing and index == len(loc) - 1)):
            path, values = f"{path}.{part}", values.get(part)
    return path.removeprefix(".")


def _set(values: Any, keys: Keys, value: Any) -> None:
    """Put a value into nested mappings; one that is no mapping stays, and is refused as such."""
    *parents, name = keys
    for parent in parents:
        if not isinstance(values, dict):
            return
        values = values.setdefault(parent, {})
    if isinstance(values, dict):
        values[name] = value


def _parse_override(key: str, value: Any, kind: Any) -> yaml.Node:
    """The node that stands for an override; a field that takes only text takes it as it is."""
    if not isinstance(value, str):
        return _represent(value)
    only_text = all(bare(each) in (str, type(None)) or get_origin(bare(each)) is Literal for each in members(kind))
    if only_text and value not in ("", "null"):
        return yaml.ScalarNode("tag:yaml.org,2002:str", value)
    return _compose(value, key) or yaml.ScalarNode("tag:yaml.org,2002:null", "")


def _parse_file(path: Path, what: str = "recipe") -> yaml.Node:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        hint = f"; did you mean {what}:{path.stem}?" if is_packaged(path.stem, what) else ""
        raise Refusal("", f"there is no {what} {path}{hint}") from None
    except IsADirectoryError:
        raise Refusal("", f"{path} is a folder; a {what} is a YAML file") from None
    except OSError as error:
        raise Refusal("", f"the {what} {path} cannot be read: {error.strerror}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Refusal(f"{path}, line {line}", f"a {what} must be UTF-8 text, and this byte is not") from None
    node = _compose(text, str(path))
    if _is_null(node) or node is None:
        right = "diito init writes one to start from" if what == "recipe" else f"see the {what}s/ folder for complete ones"
        raise Refusal(str(path), f"the {what} is empty; {right}")
    return node


def _compose(text: str, place: str) -> yaml.Node | None:
    """The YAML nodes of a text; their marks carry ``place``, a path or the key of an override."""
    try:
        loader = _Loader(text)
        loader.name = place
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f"{place}, line {mark.line + 1}" if mark else place
        problem = error.problem or "the text cannot be parsed"
        if problem.startswith("but "):  # PyYAML's sentence began in the context
            problem = f"{error.context}, {problem}"
        raise Refusal(at, f"not valid YAML: {problem}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise Refusal(f"{place}, line {line}", "not valid YAML: a character that YAML does not allow") from None


def _represent(value: Any) -> yaml.Node:
    """A value as YAML nodes without lines."""
    return yaml.representer.SafeRepresenter(sort_keys=False).represent_data(_plain(value))


def _is_null(node: yaml.Node | None) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def _written(node: yaml.Node | None) -> str:
    """The node as its author wrote it, for a message."""
    if isinstance(node, yaml.ScalarNode):
        return "null" if _is_null(node) else repr(node.value)
    return "a list" if isinstance(node, yaml.SequenceNode) else "a section"


def _plain(value: Any) -> Any:
    """Sections as mappings, tuples as lists and paths as text, which is how YAML writes them."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(vars(value))
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _spread(value: Any) -> Any:
    """The same of a section, with the names that a field of it collects among its own."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return _plain(value)
    fields = {name: _spread(item) for name, item in vars(value).items()}
    return fields | fields.pop(getattr(value, "REST", ""), {})
