"""GLUE: nine tasks, each a row of :data:`TASKS` (``glue_tasks.py``).

1. rows come from the hub (``nyu-mll/glue``) or from a folder in GLUE's own layout: one folder a task, tab-separated files;
2. one sentence or two become one sequence; the label is a class, or a number in STS-B;
3. the metrics are the paper's; its mean is over eight tasks, without WNLI.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, PreTrainedTokenizerBase

from diito.paths import expand
from diito.refusal import Refusal
from diito.suites.data import find_file, has_file, hub_split, read_lines
from diito.suites.glue_tasks import TASKS, GlueTask
from diito.suites.suite import Metrics, Scores, Task

HUB = "nyu-mll/glue"


MEAN = tuple(name for name, task in TASKS.items() if task.in_mean)
"""The eight tasks of the paper's mean."""


def glue_tasks(data: str | None, tasks: Sequence[str] | None) -> list[Callable[[], Task]]:
    """For each of ``tasks`` a function that loads it; None takes all that the folder ``data`` holds, or the hub (None).

    Raises Refusal for no task and for one that GLUE does not have.
    """
    missing = missing_tasks(data)
    names = [name for name in TASKS if name not in missing] if tasks is None else tasks
    if tasks is not None and not tasks:
        raise Refusal("tasks", f"the list is empty; give some of {', '.join(TASKS)}")
    if not names:
        raise Refusal("data", f"{data} holds no task of GLUE; its folders are CoLA, MNLI, MRPC and so on")
    for name in names:
        if name not in TASKS:
            raise Refusal("tasks", f"{name!r} is not one of {', '.join(TASKS)}")
    if len(set(names)) < len(names):
        raise Refusal("tasks", f"{', '.join(names)} has a task twice; give each once")
    return [functools.partial(glue_task, name, data) for name in names]


def missing_tasks(data: str | None) -> list[str]:
    """The tasks of which the GLUE folder has no training rows; none where the data comes from the hub."""
    if data is None:
        return []
    folder = expand(data, field="data")
    if not folder.is_dir():
        raise Refusal("data", f"{folder} is not a folder; give the one that holds CoLA/, RTE/, SST-2/ and so on")
    return [name for name, task in TASKS.items() if not has_file(folder / task.folder, ["train.tsv"])]


def glue_task(name: str, data: str | None) -> Task:
    """The task ``name``, a key of :data:`TASKS`, from the hub (None) or from the GLUE folder ``data``.

    Raises ValueError, naming file and line, for missing files and malformed rows, and for empty splits.
    """
    row = TASKS[name]
    notes: list[str] = []
    if data is None:
        files = {"train": "train", **{split: hub for split, _, hub in row.scored}}
        splits = {split: _from_hub(name, row, hub) for split, hub in files.items()}
    else:
        files = {"train": "train.tsv", **{split: file for split, file, _ in row.scored}}
        splits = {split: _from_file(name, row, Path(data), file, notes) for split, file in files.items()}
    regression = row.labels is None
    return Task(
        name=name,
        head=AutoModelForSequenceClassification,
        labels=row.names or row.labels,
        splits=splits,
        encode=_encode,
        collator=DataCollatorWithPadding,
        score=functools.partial(_score, row),
        baseline=functools.partial(_baseline, row),
        headline=row.metrics[0],
        learning_rate=2e-5,
        batch=32,
        epochs=row.epochs,
        length=128,
        head_arguments={"num_labels": 1, "problem_type": "regression"} if regression else {},
        notes=tuple(notes),
    )


def glue_mean(scores: dict[str, float | None]) -> tuple[str, float | None]:
    """The paper's mean over headline scores by task, and its label: one over fewer than the eight tasks is labelled so."""
    known = [score for name in MEAN if (score := scores.get(name)) is not None]
    missing = [name for name in MEAN if scores.get(name) is None]
    if not missing:
        return "mean of 8", sum(known) / len(known)
    if not known:
        return "mean of no task", None
    return f"mean of {len(known)} (without {', '.join(missing)})", sum(known) / len(known)


def _from_hub(name: str, row: GlueTask, split: str) -> datasets.Dataset:
    table = hub_split(HUB, split, config=name)
    sentences = dict(zip(("first", "second"), row.hub_columns or row.columns[:-1], strict=False))
    table = table.select_columns([*sentences.values(), "label"])
    columns = {new: list(table[old]) for new, old in sentences.items()}
    labels = list(table["label"])
    if not labels or min(labels) < 0:  # -1 where they are hidden
        raise Refusal(f"{HUB} ({name}), split {split}", "has no labels; give another copy with --data")
    if row.labels is None:
        labels = [round(label, 3) for label in labels]  # single precision there, three digits in the files
    return datasets.Dataset.from_dict({**columns, "label": labels})


def _from_file(name: str, row: GlueTask, data: Path, file: str, notes: list[str]) -> datasets.Dataset:
    path = find_file(data / row.folder, [file], content=f"the task {name} in GLUE's own layout (gluebenchmark.com/tasks)")
    lines = enumerate(read_lines(path), start=1)
    header = row.header or tuple(next(lines, (0, ""))[1].split("\t"))
    if missing := [column for column in row.columns if column not in header]:
        raise Refusal(f"{path}, line 1", f"the header lacks {', '.join(missing)}; it should be that of GLUE's {row.folder}")
    places = [header.index(column) for column in row.columns]
    sentences: list[list[str]] = [[] for _ in places[:-1]]
    labels: list[int | float] = []
    skipped = 0
    for number, line in lines:
        values = line.split("\t")
        if len(values) != len(header):
            if row.incomplete:
                skipped += 1
                continue
            raise Refusal(f"{path}, line {number}", f"{len(values)} column(s), and {len(header)} are needed")
        labels.append(_label(values[places[-1]], row, f"{path}, line {number}"))
        for column, place in zip(sentences, places, strict=False):
            column.append(values[place])
    if not labels:
        raise Refusal(str(path), f"has no example; give the complete file of the task {name}")
    if skipped:
        notes.append(f"{file}: {skipped} incomplete rows left out")
    return datasets.Dataset.from_dict({**dict(zip(("first", "second"), sentences, strict=False)), "label": labels})


def _label(text: str, row: GlueTask, place: str) -> int | float:
    if row.labels is not None:
        if text not in row.labels:
            raise Refusal(place, f"the label {text!r} is not one of {', '.join(row.labels)}")
        return row.labels.index(text)
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not 0 <= score <= 5:
        raise Refusal(place, f"the score {text!r} is not a number from 0 to 5")
    return score


def _encode(rows: Mapping[str, list[Any]], tokenizer: PreTrainedTokenizerBase, length: int) -> dict[str, list[Any]]:
    encoded = tokenizer(rows["first"], rows.get("second"), truncation=True, max_length=length)
    return {**encoded, "labels": rows["label"]}


def _score(row: GlueTask, rows: datasets.Dataset, features: datasets.Dataset, logits: Sequence[NDArray[np.float32]]) -> Scores:
    stacked = np.stack(logits).astype(np.float64)
    predictions = stacked[:, 0] if row.labels is None else stacked.argmax(1)
    metrics = {name: METRICS[name](np.asarray(rows["label"]), predictions) for name in row.metrics}
    return Scores(metrics, [round(value, 4) for value in predictions.tolist()])


def _baseline(row: GlueTask, train: datasets.Dataset, scored: datasets.Dataset) -> Metrics:
    """The answer is the training rows' most frequent class, or their mean."""
    labels = np.asarray(train["label"])
    constant = labels.mean() if row.labels is None else np.bincount(labels).argmax()
    answers = np.full(len(scored), constant)
    return {name: METRICS[name](np.asarray(scored["label"]), answers) for name in row.metrics}


def _of_classes(name: str, labels: NDArray[Any], predictions: NDArray[Any], **keywords: Any) -> float:
    import sklearn.metrics

    return 100 * float(getattr(sklearn.metrics, name)(labels, predictions, **keywords))


def _correlation(kind: str, labels: NDArray[Any], predictions: NDArray[Any]) -> float | None:
    """None where one side is constant, so that there is no correlation."""
    import scipy.stats

    if np.ptp(labels) == 0 or np.ptp(predictions) == 0:
        return None
    return 100 * float(getattr(scipy.stats, kind)(labels, predictions).statistic)


METRICS: dict[str, Callable[[NDArray[Any], NDArray[Any]], float | None]] = {
    "accuracy": functools.partial(_of_classes, "accuracy_score"),
    # Of the class 1; 0 where it is neither predicted nor there.
    "f1": functools.partial(_of_classes, "f1_score", zero_division=0),
    "matthews": functools.partial(_of_classes, "matthews_corrcoef"),  # 0 for a constant answer, by convention
    "spearman": functools.partial(_correlation, "spearmanr"),
    "pearson": functools.partial(_correlation, "pearsonr"),
}
"""``metric(labels, predictions)``, 0 to 100."""
