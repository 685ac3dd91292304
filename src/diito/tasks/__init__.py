"""What a model is trained to do: rows of a corpus to batches with slots and labels.

``task.py`` is the contract; each other file is one task, and a row of :data:`TASKS`. No torch until a task is looked up.
"""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from diito.refusal import Refusal

if TYPE_CHECKING:
    from diito.tasks.task import Task

TASKS: dict[str, str] = {"masked-lm": "diito.tasks.masked_lm:MaskedLM"}
"""Name of a task -> ``module:class``."""
GROUP = "diito.tasks"
"""The entry points by which an installed package adds tasks."""


def find_task(name: str, *, field: str = "task") -> Task:
    """The task of that name: a row of :data:`TASKS`, of an installed package's, or an import path ``package.module:class``.

    Raises Refusal, naming ``field``, where there is none.
    """
    paths = {entry.name: entry.value for entry in entry_points(group=GROUP)} | TASKS
    path = paths.get(name, name)
    module, _, attribute = path.partition(":")
    if not attribute:
        raise Refusal(field, f"there is no task {name!r}; give one of {', '.join(sorted(paths))}, or package.module:class")
    try:
        kind = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise Refusal(field, f"{path!r} cannot be imported ({error})") from error
    from diito.tasks.task import Task

    if not (isinstance(kind, type) and issubclass(kind, Task)):
        raise Refusal(field, f"{path!r} is no diito.tasks.task.Task; give a class that is one")
    return kind()
