"""Jobs of lm-eval: all tasks that were asked for, on one decoder.

lm-eval scores and generates with the model as transformers loads it; the words of its settings are its own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
from pathlib import Path
from typing import Any

from diito.evaluation.held_out.planning import check_model, device_of, load_model
from diito.evaluation.kind import Job, Result
from diito.evaluation.results import ResultsFile
from diito.evaluation.settings import HarnessSettings
from diito.models import load as models
from diito.models.load import ModelSource
from diito.paths import expand
from diito.recipe.file import read_again
from diito.refusal import Refusal
from diito.tasks import find_task
from diito.tasks.task import Task

_BYTES = 1 << 26  # of a file beside the tasks that are hashed


def harness_jobs(
    settings: HarnessSettings, source: ModelSource, *, device: str, results: ResultsFile | None = None
) -> list[Job]:
    """The one job of all tasks. Raises Refusal for a model that is no decoder, and for tasks that lm-eval does not have."""
    task = find_task("causal-lm")
    check_model(source, task)
    identity = harness_identity(settings, source)
    manager = _manager(settings)

    def run() -> Result:
        return _evaluate(settings, source, task, manager, device)

    return [Job(identity, dataclasses.asdict(settings), f"harness of {source.name}", source.name, run)]


def harness_identity(settings: HarnessSettings, source: ModelSource, *, depth: int | None = None) -> dict[str, Any]:
    """What decides the result: the version of lm-eval too, and the files beside tasks of the user's own."""
    if not settings.tasks:
        raise Refusal("tasks", "name some, such as '[lambada_openai, arc_easy]'; lm-eval ls tasks lists them")
    read_again(settings)
    own = {} if settings.include_path is None else {"files": _digest(_folder(settings.include_path))}
    asked = {name: getattr(settings, name) for name in ("tasks", "num_fewshot", "limit", "apply_chat_template", "seed")}
    version = importlib.metadata.version("lm_eval")
    return {"kind": "harness", "model": models.digest(source), "lm_eval": version, **asked, **own}


def _manager(settings: HarnessSettings) -> Any:
    """What knows the tasks by name: those of the user's own alone where they are all that is asked for, as the others take long
    to be listed."""
    from lm_eval.tasks import TaskManager

    manager: Any = None
    if settings.include_path is not None:
        manager = TaskManager(include_path=_folder(settings.include_path), include_defaults=False)
    if manager is None or set(settings.tasks) - set(manager.match_tasks(settings.tasks)):
        manager = TaskManager(include_path=settings.include_path and _folder(settings.include_path))
    if unknown := [name for name in settings.tasks if not manager.match_tasks([name])]:
        raise Refusal("tasks", f"lm-eval has no {', '.join(map(repr, unknown))}; lm-eval ls tasks lists those that it has")
    return manager


def _evaluate(settings: HarnessSettings, source: ModelSource, task: Task, manager: Any, device: str) -> Result:
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    model = load_model(source, task).to(device_of(device))
    harness = HFLM(
        pretrained=model,
        tokenizer=models.load_tokenizer(source),
        batch_size=settings.batch_size,
        device=str(model.device),
    )
    answer = lm_eval.simple_evaluate(
        model=harness,
        tasks=list(settings.tasks),
        num_fewshot=settings.num_fewshot,
        limit=settings.limit,
        apply_chat_template=settings.apply_chat_template,
        task_manager=manager,
        random_seed=settings.seed,
        numpy_random_seed=settings.seed,
        torch_random_seed=settings.seed,
        fewshot_random_seed=settings.seed,
    )
    tasks = {name: _numbers(numbers) for name, numbers in answer["results"].items()}
    result = {
        "tasks": tasks,
        "versions": answer["versions"],
        "shots": answer["n-shot"],
        "examples": {name: counts["effective"] for name, counts in answer["n-samples"].items()},
    }
    samples = {
        name: [{"number": each["doc_id"], "answers": _plain(each["filtered_resps"])} for each in rows]
        for name, rows in answer["samples"].items()
    }
    return result, samples


def _numbers(results: dict[str, Any]) -> dict[str, float]:
    """The metrics of a task under lm-eval's own names, ``acc,none`` and ``acc_stderr,none``; what is no number is left out."""
    return {name: float(value) for name, value in results.items() if "," in name and isinstance(value, int | float)}


def _plain(answers: Any) -> Any:
    """Answers as JSON holds them."""
    if isinstance(answers, list | tuple):
        return [_plain(each) for each in answers]
    return answers if isinstance(answers, str | int | float | bool) or answers is None else str(answers)


def _folder(path: str) -> str:
    folder = expand(path, field="include_path")
    if not folder.is_dir():
        raise Refusal("include_path", f"{path!r} is no folder; give the one that holds the .yaml files of the tasks")
    return str(folder.resolve())


def _digest(folder: str) -> str:
    """A hash of the files in a folder of tasks."""
    total = hashlib.sha256()
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file() and path.stat().st_size <= _BYTES and "__pycache__" not in path.parts:
            total.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return total.hexdigest()[:32]
