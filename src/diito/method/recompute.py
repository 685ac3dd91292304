"""Losses over the vocabulary where a micro-batch has too many logits to hold (of 4,096 tokens and 128,000 words 2 GB a set).

1. the tokens are cut into parts; in each the heads of student and teacher run, all losses that read these logits take their
   values, and the logits are let go;
2. in the backward pass each part runs once more, now with its gradients.

The values are those of the whole, for a loss gives each token its own value.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from diito.method.losses import Loss, Predictions, without_gradients

WHOLE = 1 << 26
"""Logits of one run that are held at once where there are no more: a masked language model's slots have fewer."""
PART = 1 << 25
"""Logits of a part: 128 MB in fp32, of student and teacher each."""

Values = dict[str, Tensor]
"""By the loss's name a value a token, or one number for all of them."""


def values_of(
    losses: Mapping[str, Loss],
    student: Predictions,
    teacher: Predictions,
    labels: Shaped[Tensor, "tokens ..."],
    *,
    words: int,
) -> Values:
    """The values of each of ``losses``, all of which read these predictions of the same run.

    ``words``: logits of a token.
    """
    over_words = {name: loss for name, loss in losses.items() if "logits" in loss.reads}
    if len(labels) * words <= WHOLE or not over_words:
        return {name: loss.values(student, teacher, labels) for name, loss in losses.items()}
    values = {name: loss.values(student, teacher, labels) for name, loss in losses.items() if name not in over_words}
    tokens = max(1, PART // words)
    parts = [
        _recomputed(over_words, student.part(part), teacher.part(part), labels[part])
        for part in (slice(start, start + tokens) for start in range(0, len(labels), tokens))
    ]
    return {**values, **{name: torch.cat([part[name] for part in parts]) for name in over_words}}


def _recomputed(losses: Mapping[str, Loss], student: Predictions, teacher: Predictions, labels: Tensor) -> Values:
    visits = 0

    def run(student_hidden: Tensor, teacher_hidden: Tensor) -> Values:
        nonlocal visits
        visits += 1
        said, told = student.of(student_hidden), teacher.of(teacher_hidden)
        with without_gradients(visits == 1):
            return {name: loss.values(said, told, labels) for name, loss in losses.items()}

    return checkpoint(run, student.hidden, teacher.hidden, use_reentrant=False)
