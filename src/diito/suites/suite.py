"""What a fine-tuning task is: data, preprocessing and metric, as one row of values. There is no class for each task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

Metrics = dict[str, float | None]
"""Scores by name, 0 to 100 (correlations -100 to 100); None where one is not defined, such as a correlation with a constant."""

Encode = Callable[[Mapping[str, list[Any]], PreTrainedTokenizerBase, int], dict[str, list[Any]]]
"""``encode(rows, tokenizer, length)``: columns of rows to columns of features, for ``datasets.Dataset.map(batched=True)``."""

Score = Callable[[datasets.Dataset, datasets.Dataset, Sequence[NDArray[np.float32]]], "Scores"]
"""``score(rows, features, logits)``: the logits of each feature (its own tokens only, no padding) to scores."""


@dataclass(frozen=True)
class Scores:
    """What a fine-tuned model reached on one split."""

    metrics: Metrics
    predictions: Any
    """The prediction of every example, as JSON can hold it: what the metrics were computed from."""


def plain_logits(output: Any) -> Tensor:
    """The logits of a model with one head."""
    return output.logits


@dataclass(frozen=True)
class Task:
    """A task with its data loaded. ``diito.evaluation.fine_tuning.train`` does the rest, the same for all of them."""

    name: str
    head: Any
    """The Auto class of the model, such as ``AutoModelForSequenceClassification``."""
    labels: tuple[str, ...] | None
    """Names of the classes; None where the task has none."""
    splits: Mapping[str, datasets.Dataset]
    """Rows: ``train``, and under any other name each split that is scored (the first one is the headline)."""
    encode: Encode
    """Rows to features. A feature has ``input_ids`` and ``attention_mask``, and what the model is trained on."""
    collator: Callable[[PreTrainedTokenizerBase], Any]
    """Makes the collator that pads features to the longest of a batch."""
    score: Score
    baseline: Callable[[datasets.Dataset, datasets.Dataset], Metrics]
    """The metrics of a constant answer (the majority class, the mean), from the training rows, on a scored split."""
    headline: str
    """The metric that the paper reports."""
    learning_rate: float
    batch: int
    epochs: float
    length: int
    """Most tokens of a feature, special tokens included."""
    logits: Callable[[Any], Tensor] = plain_logits
    """From the model's output to Tensor[batch, ...], with tokens as the second axis where there is one a token."""
    model_inputs: tuple[str, ...] = ("input_ids", "attention_mask", "token_type_ids")
    """The columns of a feature that the model reads when it predicts."""
    head_arguments: Mapping[str, Any] = field(default_factory=dict)
    """More arguments of ``head.from_pretrained``."""
    notes: tuple[str, ...] = ()
    """What the reader of the scores should know about the data, such as rows that were left out."""

    @property
    def outputs(self) -> int | None:
        """Logits of the head: one a class, 1 for a number, None where the head's size is fixed."""
        return self.head_arguments.get("num_labels") if self.labels is None else len(self.labels)
