"""What a model is trained to do: rows of a corpus to batches with slots and labels.

``task.py`` is the contract; each other file is one task, and a row of :data:`TASKS`. No torch until a task is looked up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diito import plugins
from diito.refusal import Refusal

if TYPE_CHECKING:
    from diito.models.load import ModelSource
    from diito.tasks.task import Task

TASKS: dict[str, str] = {
    "masked-lm": "diito.tasks.masked_lm:MaskedLM",
    "causal-lm": "diito.tasks.causal_lm:CausalLM",
    "sequence-classification": "diito.tasks.sequence_classification:SequenceClassification",
    "token-classification": "diito.tasks.token_classification:TokenClassification",
    "cloze": "diito.tasks.cloze:Cloze",
}
"""Name of a task -> ``module:class``."""
DEFAULT = "masked-lm"
"""The task where none is named."""
GROUP = "diito.tasks"
"""The entry points by which an installed package adds tasks."""


def check_task(name: str, *, field: str = "task") -> None:
    """Refuse, naming ``field``, what can be no task's name, without importing anything."""
    plugins.check_reference(name, field=field, group=GROUP, known=TASKS)


def find_task(name: str, *, field: str = "task") -> Task:
    """The task of that name: a row of :data:`TASKS`, of an installed package's, or an import path ``package.module:class``.

    Raises Refusal, naming ``field``, where there is none.
    """
    check_task(name, field=field)
    kind: Any = plugins.load(TASKS.get(name, name), field=field, group=GROUP, known={})
    from diito.tasks.task import Task

    if not (isinstance(kind, type) and issubclass(kind, Task)):
        raise Refusal(field, f"{name!r} is no diito.tasks.task.Task; give a class that is one")
    return kind()


def task_of(source: ModelSource) -> Task:
    """The task whose head the model was saved with, or could have; the default one where it has none.

    Raises Refusal for a model that cannot be loaded.
    """
    from diito.models import load as models

    configuration = models.load_configuration(source, noun="model")
    tasks = [find_task(each) for each in TASKS]
    trained = (task for task in tasks if models.has_head(configuration, task.head))
    possible = (task for task in tasks if models.can_have(configuration, task.head))
    return next(trained, None) or next(possible, tasks[0])
