"""The model that is measured: what it was trained for, and loading it with that head."""

from __future__ import annotations

from transformers import PreTrainedModel

from diito.models import load as models
from diito.models.load import ModelSource
from diito.tasks import TASKS, find_task
from diito.tasks.task import Task


def task_of(source: ModelSource, name: str | None = None) -> Task:
    """The task of that name; None: the one whose head the model was saved with, or could have.

    Raises Refusal for a name that is no task's, and for a model that cannot be loaded.
    """
    if name is not None:
        return find_task(name)
    configuration = models.load_configuration(source)
    tasks = [find_task(each) for each in TASKS]
    trained = (task for task in tasks if models.has_head(configuration, task.head))
    possible = (task for task in tasks if models.can_have(configuration, task.head))
    return next(trained, None) or next(possible, tasks[0])


def check_model(source: ModelSource, task: Task) -> None:
    """Refuse (ValueError), from its files alone, a model without configuration, tokenizer, weights or the task's head."""
    models.check_files(source)
    models.check_trained(source, task.head, noun=task.noun)


def load_model(source: ModelSource, task: Task) -> PreTrainedModel:
    """The model with the head of the task, in fp32 and eval mode."""
    return models.load_trained(source, task.head, noun=task.noun)
