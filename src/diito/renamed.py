"""Modules of diito 0.1.0 under the names they had: ``import diito.positions`` gives ``diito.method.positions``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

RENAMED = {
    "alignment": "method.alignment",
    "alignments": "method.alignment_files",
    "arguments": "training.arguments",
    "callbacks": "training.callbacks",
    "counters": "training.counters",
    "distill": "run.distill",
    "draws": "method.draws",
    "dropout": "speed.dropout",
    "evaluation.agreement": "evaluation.held_out.agreement",
    "evaluation.data": "suites.data",
    "evaluation.glue": "suites.glue",
    "evaluation.interchange": "evaluation.held_out.interchange",
    "evaluation.held_out_jobs": "evaluation.held_out.jobs",
    "evaluation.intervals": "evaluation.held_out.intervals",
    "evaluation.jobs": "evaluation.fine_tuning.jobs",
    "evaluation.maps": "evaluation.held_out.maps",
    "evaluation.ner": "suites.ner",
    "evaluation.perplexity": "evaluation.held_out.perplexity",
    "evaluation.squad": "suites.squad",
    "evaluation.task": "suites.suite",
    "flops": "method.cost",
    "intervention": "method.intervention",
    "layered": "models.layered",
    "losses": "method.losses",
    "masking": "tasks.masked_lm",
    "model_card": "run.model_card",
    "objective": "method.objective",
    "parts": "run.parts",
    "plan": "run.plan",
    "positions": "method.positions",
    "process": "speed.process",
    "run_folder": "run.folder",
    "student": "models.student",
    "swaps": "method.swaps",
    "teacher": "models.teacher",
    "trainer": "training.trainer",
}


def attributes_of(package: str, module: str) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package that was one module in diito 0.1.0: what it held is in ``module`` now."""

    def attribute(name: str) -> Any:
        if name.startswith("__") or not hasattr(import_module(module), name):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(module), name)

    return attribute


class RenamedModules:
    """Finds a module by the name it had; it is the module of the present name itself.

    A finder and a loader without their base classes, which take longer to import than all that ``diito --help`` needs.
    """

    def __init__(self) -> None:
        self._specs: dict[ModuleType, ModuleSpec | None] = {}

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """A specification for the old names, None for all others."""
        is_old = fullname.removeprefix("diito.") in RENAMED
        return ModuleSpec(fullname, self) if is_old else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module of the present name."""
        module = import_module(f"diito.{RENAMED[spec.name.removeprefix('diito.')]}")
        self._specs[module] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """It has run already; the import system gave it the specification of its old name."""
        module.__spec__ = self._specs.pop(module)


def install() -> None:
    """Let the import system find old names, once."""
    if not any(isinstance(finder, RenamedModules) for finder in sys.meta_path):
        sys.meta_path.append(RenamedModules())
