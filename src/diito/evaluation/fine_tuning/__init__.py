"""Measurements that fine-tune: training on a task of a suite, and the jobs that do it."""

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    """What the module of this name held in diito 0.1.0."""
    module = import_module("diito.evaluation.fine_tuning.train")
    if name.startswith("__") or not hasattr(module, name):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(module, name)
