"""The keys of a section: which there are, what each accepts, in words, and the nearest right one to a wrong one."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import types
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt, MinLen, Predicate

from diito.recipe.fields import Alias
from diito.recipe.sections import Recipe
from diito.recipe.training import transformers_arguments


@functools.cache
def hints(section: type) -> dict[str, Any]:
    """The fields of a dataclass with their types, ranges included."""
    kinds = get_type_hints(section, include_extras=True)
    fields = {field.name for field in dataclasses.fields(section)}
    return {name: kind for name, kind in kinds.items() if name in fields}


def known_keys(section: type = Recipe, prefix: str = "") -> dict[str, Any]:
    """Every key of a recipe, sections before their fields, with its type: ``{"training.max_steps": int | None, ...}``."""
    keys: dict[str, Any] = {}
    for name, kind in hints(section).items():
        keys[prefix + name] = kind
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            keys |= known_keys(kind, f"{prefix}{name}.")
    return keys


def sections_in(kind: Any) -> set[type]:
    """Every section in a type: it, those of its fields, and those in lists and unions of them."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return {kind}.union(*map(sections_in, hints(kind).values()))
    return set().union(*map(sections_in, get_args(kind)))


def aliases(section: Any) -> Mapping[str, Alias]:
    """Other names of a section's fields."""
    return getattr(section, "ALIASES", {})


def section_of(key: str, root: type) -> Any:
    """The dataclass that holds a key, where all but its last name is right; else None."""
    parent = key.rpartition(".")[0]
    kind = known_keys(root).get(parent) if parent else root
    return kind if dataclasses.is_dataclass(kind) else None


def is_further_key(key: str, root: type) -> bool:
    """Whether a section takes a key that is not one of its fields: an alias, or a name of somebody else's."""
    section, name = section_of(key, root), key.rpartition(".")[2]
    return section is not None and name not in hints(section) and (name in aliases(section) or _takes(section, name))


def _takes(section: Any, name: str) -> bool:
    return hasattr(section, "REST") and section.takes(name)


def rest_of(section: Any, name: str) -> str | None:
    """The field of ``section`` that collects ``name``, which is none of its fields; None where the section refuses it."""
    return section.REST if _takes(section, name) else None


def unknown_key(key: str, root: type = Recipe, *, mark: str = "") -> str:
    """What to say about a key that no recipe (or other ``root``) has, with the nearest right one. ``mark``: ``--`` of flags."""
    names, section = _all_names(root), key.rpartition(".")[0]
    while section and section not in names:
        section = section.rpartition(".")[0]
    prefix = f"{section}." if section else ""
    owner = known_keys(root).get(section, root)
    return unknown_name(key, prefix, owner, root, mark=mark)


def unknown_name(key: str, prefix: str, owner: Any, root: type, *, mark: str = "") -> str:
    """The same for a key within ``prefix``: its name elsewhere, else the nearest sibling, else the nearest name anywhere."""
    rest, names = key.removeprefix(prefix), _all_names(root)
    siblings = [*hints(owner), *aliases(owner), *(transformers_arguments() if _collects_arguments(owner) else ())]
    near = [known for known in names if known.endswith(f".{rest}")][:1] if prefix else []
    near += [] if "." in rest else [prefix + match for match in difflib.get_close_matches(rest, siblings, n=1)]
    last = {known: known.rpartition(".")[2] for known in names}
    alike = difflib.get_close_matches(rest.rpartition(".")[2], set(last.values()), n=1, cutoff=0.75)
    near += difflib.get_close_matches(key, [known for known, name in last.items() if name in alike], n=1, cutoff=0)
    what = "flag" if mark else "key"
    if near:
        return f"unknown {what}; did you mean {mark}{near[0]}?"
    whole = "a recipe" if root is Recipe else "it"
    others = " and the fields of transformers.TrainingArguments" if _collects_arguments(owner) else ""
    return f"unknown {what}; {prefix.removesuffix('.') or whole} has {', '.join(hints(owner))}{others}"


def _collects_arguments(section: Any) -> bool:
    return getattr(section, "REST", None) == "arguments"


def _all_names(root: type) -> list[str]:
    """Every key, under its other names too."""
    keys = known_keys(root)
    owners = {"": root} | {key: kind for key, kind in keys.items() if dataclasses.is_dataclass(kind)}
    return [*keys] + [f"{key}.{name}".lstrip(".") for key, kind in owners.items() for name in aliases(kind)]


def members(kind: Any) -> tuple[Any, ...]:
    """What a field of this type may be, each with its ranges: the parts of a union, or the type itself."""
    if get_origin(kind) in (Union, types.UnionType):
        return tuple(member for part in get_args(kind) for member in members(part))
    return (kind,)


def bare(kind: Any) -> Any:
    """A type without its ranges."""
    return bare(get_args(kind)[0]) if get_origin(kind) is Annotated else kind


def fits(value: Any, kind: Any) -> bool:
    """Whether a plain value has the outermost shape of a type."""
    kind = bare(kind)
    if kind is Any:
        return True
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if dataclasses.is_dataclass(kind) or get_origin(kind) is dict:
        return isinstance(value, dict)
    if get_origin(kind) in (list, tuple):
        return isinstance(value, list)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def item_kind(kind: Any, index: int = 0) -> Any:
    """The type of a list's items; None where no list is accepted."""
    for member in map(bare, members(kind)):
        if get_origin(member) is list:
            return get_args(member)[0]
        if get_origin(member) is tuple and index < len(get_args(member)):
            return get_args(member)[index]
    return None


def describe(kind: Any) -> str:
    """A type in words: ``int`` is "a whole number"."""
    if len(members(kind)) > 1:
        return " or ".join(describe(member) for member in members(kind))
    kind = bare(kind)
    words = {str: "text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}
    if kind in words:
        return words[kind]
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    if get_origin(kind) is list:
        return f"a list of {_plural(get_args(kind)[0])}"
    if get_origin(kind) is tuple:
        return f"a list of {len(get_args(kind))} {_plural(get_args(kind)[0])}"
    if dataclasses.is_dataclass(kind):
        return f"a section {{{', '.join(field.name for field in dataclasses.fields(kind))}}}"
    return "a section of keys with values"


def _plural(kind: Any) -> str:
    """The same in the plural: "whole numbers", "lists of 2 whole numbers"."""
    if len(members(kind)) > 1:
        return " or ".join(_plural(member) for member in members(kind))
    words = {str: "texts", int: "whole numbers", float: "numbers"}
    return words.get(bare(kind)) or describe(kind).replace("a list", "lists", 1).replace("a section", "sections", 1)


def requirement(kind: Any, value: Any) -> str:
    """What the range of a type asks of a value of the right shape: "must be above 0 and at most 1"."""
    kind = next(member for member in members(kind) if get_origin(member) is Annotated and fits(value, member))
    ranges = get_args(kind)[1:]
    for each in ranges:
        if isinstance(each, Predicate):
            return str(each.func.__doc__)
        if isinstance(each, MinLen):
            return "is empty; give at least one"
    words = {Gt: "above", Ge: "at least", Lt: "below", Le: "at most"}
    parts = [f"{words[type(each)]} {getattr(each, type(each).__name__.lower())}" for each in ranges]
    if bare(kind) is float and len(parts) == 1:
        return "must be a finite number " + ("of " if "least" in parts[0] else "") + parts[0]
    return f"must be {' and '.join(parts)}"
