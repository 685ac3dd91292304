"""Measurements on held-out text. Their draws are functions of (seed, example), whatever the batch size."""

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    """What the module of this name held in diito 0.1.0."""
    module = import_module("diito.evaluation.held_out.text")
    if name.startswith("__") or not hasattr(module, name):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(module, name)
