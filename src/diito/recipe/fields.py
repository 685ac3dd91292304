"""What a field of a recipe may hold, whether it may differ on a resume, and its other names: the vocabulary of the sections.

The sentence of a predicate is its docstring. No torch here.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple

from annotated_types import Ge, Gt, Le, Lt, Predicate


def is_written(text: str) -> bool:
    """must not be empty"""
    return bool(text.strip())


def is_folder_name(text: str) -> bool:
    """must be the plain name of a folder, such as my-run"""
    return text.strip() == text and text not in ("", ".", "..") and not any(mark in text for mark in "/\\\0")


def is_layer_list(layers: Sequence[int]) -> bool:
    """must be a list of layers that increase, counted from 0"""
    increasing = all(below < above for below, above in itertools.pairwise(layers))
    return bool(layers) and layers[0] >= 0 and increasing


def is_list_of_positions(positions: Sequence[int]) -> bool:
    """must be a list of positions that increase, counted from 0"""
    return is_layer_list(positions)


def is_short_pair(pair: Any) -> bool:
    """must be [student layer, teacher layer], each a layer or a list of layers that increase, counted from 0"""
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        return False
    return all(is_layer_list([side] if isinstance(side, int) else side) for side in pair)


def is_range(bounds: Sequence[int]) -> bool:
    """must be a range [start, stop] with 0 <= start < stop"""
    return 0 <= bounds[0] < bounds[1]


def is_layer_pair(pair: Sequence[int]) -> bool:
    """must be a pair [student layer, teacher layer], counted from 0"""
    return min(pair) >= 0


Text = Annotated[str, Predicate(is_written)]
Count = Annotated[int, Ge(1)]
CountOrNever = Annotated[int, Ge(0)]
Length = Annotated[int, Ge(3)]
"""Tokens of a sequence; the shortest useful one is [CLS], one word, [SEP]."""
Share = Annotated[float, Gt(0), Le(1)]
BelowOne = Annotated[float, Ge(0), Lt(1)]
AboveZero = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Layers = Annotated[list[int], Predicate(is_layer_list)]
Places = Annotated[list[int], Predicate(is_list_of_positions)]
ShortPair = Annotated[list[int | list[int]], Predicate(is_short_pair)]
"""``[s, t]``: a student layer and the teacher layer that answers to it, or lists of them."""
DimensionRange = Annotated[tuple[int, int], Predicate(is_range)]
"""``[start, stop)`` within a hidden state."""


FREE = {"on resume": "free"}
"""Metadata of a field that may differ when a run is resumed: it takes effect, and the student is the same. Any other field must
be as it was."""
PLACE = {"on resume": "place"}
"""Metadata of a field that says where something is: it may differ when a run is resumed, what is found there may not."""
LATER = {"left out at its default": True}
"""Metadata of a field that diito 0.1.0 did not have: what it says by default was so before, so that runs from then are resumed
and finished jobs keep their names."""
FREE_ARGUMENTS = {
    "free": (
        "activation_checkpointing",
        "activation_checkpointing_kwargs",
        "dataloader_num_workers",
        "dataloader_persistent_workers",
        "dataloader_pin_memory",
        "dataloader_prefetch_factor",
        "disable_tqdm",
        "eval_accumulation_steps",
        "eval_delay",
        "eval_on_start",
        "gradient_checkpointing",
        "gradient_checkpointing_kwargs",
        "hub_always_push",
        "hub_model_id",
        "hub_private_repo",
        "hub_revision",
        "hub_strategy",
        "log_level",
        "log_level_replica",
        "log_on_each_node",
        "logging_first_step",
        "logging_strategy",
        "push_to_hub",
        "run_name",
        "save_on_each_node",
    )
}
"""Metadata of the field that collects transformers' own: its keys that are as :data:`FREE` ones."""


class Alias(NamedTuple):
    """Another name of a field, or of several fields that were given as one list."""

    fields: tuple[str, ...]
    values: Mapping[str, Any] | None = None
    """What the words of the old field are in the new one."""
    is_older: bool = True
    """Whether it is a name from diito 0.1.0; else one that Python has another use for."""


class Aliased:
    """A section whose fields can be read and set by their other names too."""

    ALIASES: ClassVar[Mapping[str, Alias]] = {}

    def __getattr__(self, name: str) -> Any:
        """What the fields hold that ``name`` stands for, in its own words; asked only where there is no such attribute."""
        if name not in type(self).ALIASES:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        alias = type(self).ALIASES[name]
        values = tuple(getattr(self, field) for field in alias.fields)
        if alias.values is not None:
            return next(word for word, value in alias.values.items() if value == values[0])
        return values if len(values) > 1 else values[0]

    def __setattr__(self, name: str, value: Any) -> None:
        """Set the fields that ``name`` stands for, or the attribute of that name."""
        alias = type(self).ALIASES.get(name)
        if alias is None:
            super().__setattr__(name, value)
            return
        values = value if len(alias.fields) > 1 else [value if alias.values is None else alias.values[value]]
        for field_name, each in zip(alias.fields, values, strict=True):
            super().__setattr__(field_name, each)
