"""What a classifier is measured by on held-out examples: its answers against the labels, and against the teacher's answers.

Calibration is the expected error of the confidence in 15 equally wide bins (Guo et al., 2017). Examples without a label count
where student and teacher are compared, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from diito.evaluation.held_out.text import HeldOut, at_slots, rows_of_slots
from diito.method.positions import has_label
from diito.models.answers import label_names
from diito.models.modes import eval_mode
from diito.models.steps import accepted, logits_of
from diito.progress import bar

_BINS = 15


@dataclass(frozen=True)
class Predicted:
    """A model's outputs at the slots of all examples, in their order."""

    logits: NDArray[np.float64]
    """[predictions, outputs]."""
    labels: NDArray[Any]
    """[predictions] or [predictions, outputs]."""
    labelled: NDArray[np.bool_]
    """[predictions]: whether there is a label."""
    rows: NDArray[np.int64]
    """[predictions]: of which example each is, counted from 0."""

    @property
    def known(self) -> tuple[NDArray[np.float64], NDArray[Any]]:
        """Logits and labels where there is a label."""
        return self.logits[self.labelled], self.labels[self.labelled]


_Outputs = dict[tuple[int, int], Predicted]
_KEPT: ContextVar[_Outputs | None] = ContextVar("kept", default=None)


@contextmanager
def predicted_once() -> Iterator[None]:
    """Inside, a model is run once on the same examples, however much is measured of it. Nothing may be trained there."""
    token = _KEPT.set({})
    try:
        yield
    finally:
        _KEPT.reset(token)


def predict(model: PreTrainedModel, held_out: HeldOut) -> Predicted:
    """The outputs of ``model`` in eval mode; its own mode is put back."""
    kept, key = _KEPT.get(), (id(model), id(held_out))
    if kept is None:
        return _predict(model, held_out)
    if key not in kept:
        kept[key] = _predict(model, held_out)
    return kept[key]


@torch.no_grad()
def _predict(model: PreTrainedModel, held_out: HeldOut) -> Predicted:
    logits, labels, labelled, rows, done = [], [], [], [], 0
    with eval_mode(model):
        held_out = held_out.for_models(model)
        for examples in bar(list(held_out.batches()), "predicting", "batches"):
            batch = held_out.batch_of(examples, device=model.device)
            outputs = logits_of(model(**accepted(model, batch))).float()
            used = batch["slots"] >= 0
            logits.append((at_slots(outputs, batch["slots"]) if outputs.ndim == 3 else outputs).cpu())
            labels.append(batch["labels"][used].cpu())
            labelled.append(has_label(batch["labels"])[used].cpu())
            rows.append(done + rows_of_slots(batch["slots"]))
            done += len(examples)
    cat = (torch.cat(logits).double().numpy(), torch.cat(labels).numpy(), torch.cat(labelled).numpy())
    return Predicted(*cat, np.concatenate(rows))


def classes(model: PreTrainedModel, held_out: HeldOut) -> dict[str, float]:
    """``accuracy``, ``f1`` (macro: the mean over the classes), ``matthews``, ``ece`` and ``examples`` with a label."""
    return _of_classes(predict(model, held_out))


def _of_classes(predicted: Predicted) -> dict[str, float]:
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
    from torchmetrics.functional.classification import multiclass_calibration_error

    logits, labels = predicted.known
    if not len(labels):
        return {}
    best = logits.argmax(-1)
    probabilities = torch.from_numpy(logits).softmax(-1)
    ece = multiclass_calibration_error(probabilities, torch.from_numpy(labels), num_classes=logits.shape[1], n_bins=_BINS)
    return {
        "accuracy": float(accuracy_score(labels, best)),
        "f1": float(f1_score(labels, best, average="macro", zero_division=0)),
        "matthews": float(matthews_corrcoef(labels, best)),
        "ece": float(ece),
        "examples": len(labels),
    }


def tags(model: PreTrainedModel, held_out: HeldOut) -> dict[str, float]:
    """``accuracy`` over words, ``f1`` and ``f1_macro`` over entities, where tags are such (seqeval's default mode, which counts
    as conlleval does), and ``ece``. A word without a token, as one that was cut off, counts in none of them."""
    from seqeval.metrics import f1_score

    predicted, names = predict(model, held_out), label_names(model.config)
    numbers = _of_classes(predicted)
    if not numbers:
        return {}
    if not all(name == "O" or name.startswith(("B-", "I-")) for name in names):
        return {**numbers, "f1_macro": numbers["f1"]}
    true: list[list[str]] = [[] for _ in held_out.examples]
    answered: list[list[str]] = [[] for _ in held_out.examples]
    best = predicted.logits.argmax(-1)
    for row, label, answer in zip(predicted.rows, predicted.labels, best, strict=True):
        if label >= 0:
            true[row].append(names[label])
            answered[row].append(names[answer])
    scores = {
        f"f1{suffix}": float(f1_score(true, answered, average=average, zero_division=0))
        for suffix, average in (("", "micro"), ("_macro", "macro"))
    }
    return {**numbers, **scores}


def agreement_of_classes(student: PreTrainedModel, teacher: PreTrainedModel, held_out: HeldOut) -> dict[str, float]:
    """``agreement``: the share of predictions in which both answer with the same class."""
    ours, theirs = (predict(model, held_out).logits.argmax(-1) for model in (student, teacher))
    return {"agreement": float((ours == theirs).mean())}


def numbers(model: PreTrainedModel, held_out: HeldOut) -> dict[str, float]:
    """``pearson`` and ``spearman`` (where they are defined), ``squared_error`` and ``examples`` with a label."""
    logits, labels = predict(model, held_out).known
    if not len(labels):
        return {}
    error = float(np.square(logits[:, 0] - labels).mean())
    return {**_correlations(logits[:, 0], labels), "squared_error": error, "examples": len(labels)}


def agreement_of_numbers(student: PreTrainedModel, teacher: PreTrainedModel, held_out: HeldOut) -> dict[str, float]:
    """``agreement``: Pearson's correlation of the two models' numbers."""
    ours, theirs = (predict(model, held_out).logits[:, 0] for model in (student, teacher))
    correlations = _correlations(ours, theirs)
    return {"agreement": correlations["pearson"]} if correlations else {}


def several(model: PreTrainedModel, held_out: HeldOut) -> dict[str, float]:
    """``accuracy`` (all classes of an example right), ``f1`` (macro) and ``f1_micro``, and ``examples`` with labels."""
    from sklearn.metrics import accuracy_score, f1_score

    logits, labels = predict(model, held_out).known
    if not len(labels):
        return {}
    answers = logits > 0
    return {
        "accuracy": float(accuracy_score(labels, answers)),
        "f1": float(f1_score(labels, answers, average="macro", zero_division=0)),
        "f1_micro": float(f1_score(labels, answers, average="micro", zero_division=0)),
        "examples": len(labels),
    }


def agreement_of_several(student: PreTrainedModel, teacher: PreTrainedModel, held_out: HeldOut) -> dict[str, float]:
    """``agreement``: the share of single decisions, an example and a class each, that are the same."""
    ours, theirs = (predict(model, held_out).logits > 0 for model in (student, teacher))
    return {"agreement": float((ours == theirs).mean())}


def _correlations(ours: NDArray[Any], theirs: NDArray[Any]) -> dict[str, float]:
    """Empty where one of the two is constant, and a correlation is not defined."""
    from scipy.stats import pearsonr, spearmanr

    if len(ours) < 2 or np.ptp(ours) == 0 or np.ptp(theirs) == 0:
        return {}
    return {"pearson": float(pearsonr(ours, theirs).statistic), "spearman": float(spearmanr(ours, theirs).statistic)}
