"""A recipe as its fields' values, by their keys: what differs between two, and what a recipe says that is not the default."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from diito.recipe.fields import FREE, LATER
from diito.recipe.flags import default_of
from diito.recipe.sections import Recipe


def fields_of(section: Any, prefix: str = "") -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """The key, the value and the role on resume of each field; one that came later only where it says something else."""
    for field in dataclasses.fields(section):
        key, value, role = prefix + field.name, getattr(section, field.name), dict(field.metadata)
        if LATER.items() <= role.items() and value == default_of(field):
            continue
        if dataclasses.is_dataclass(value):
            yield from fields_of(value, f"{key}.")
        elif isinstance(value, dict):
            yield from (
                (f"{key}.{name}", _plain(item), FREE if name in role.get("free", ()) else {}) for name, item in value.items()
            )
        else:
            yield key, _plain(value), role


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def differing_fields(before: Recipe, now: Recipe) -> dict[str, list[Any]]:
    """All fields whose values differ, each with both."""
    old, new = ({key: value for key, value, _ in fields_of(recipe)} for recipe in (before, now))
    return {key: [old.get(key), new.get(key)] for key in old | new if old.get(key) != new.get(key)}


def given_fields(section: Any, prefix: str = "") -> dict[str, Any]:
    """The fields whose values are not their defaults."""
    given: dict[str, Any] = {}
    for field in dataclasses.fields(section):
        key, value = prefix + field.name, getattr(section, field.name)
        default = field.default_factory() if callable(field.default_factory) else field.default
        if dataclasses.is_dataclass(value):
            given |= given_fields(value, f"{key}.")
        elif value != default:
            given[key] = _plain(value)
    return given
