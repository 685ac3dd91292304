"""Weights that stand under several names, such as tied embeddings: a state dict of safetensors holds each once."""

from __future__ import annotations

from typing import Any

from torch import nn


def _second_names(module: nn.Module) -> dict[str, str]:
    """The further names of weights that stand under several, such as tied embeddings, with their first names."""
    first: dict[int, str] = {}
    names = ((name, id(value)) for name, value in module.named_parameters(remove_duplicate=False))
    return {name: first[value] for name, value in names if first.setdefault(value, name) != name}


def without_second_names(module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    """After a state dict is made: leave its first name to each weight."""
    for name in _second_names(module):
        state.pop(prefix + name, None)


def with_second_names(module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Before a state dict is read: give each weight its further names again."""
    for name, first in _second_names(module).items():
        if prefix + first in state:
            state.setdefault(prefix + name, state[prefix + first])
