"""Floating-point operations of a step, counted by hand: matrix products only, a multiply-add as two.

The bound that a step can reach; what is left out (norms, activations, softmax, the optimiser) moves bytes, not FLOPs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diito.method.alignment import Alignment

BACKWARD = 2
"""A backward pass multiplies twice as much as its forward pass."""


@dataclass(frozen=True)
class ModelSize:
    """The numbers of a model that its matrix products depend on."""

    layers: int
    width: int
    inner: int
    words: int

    @classmethod
    def of(cls, config: Any) -> ModelSize:
        """From a Hugging Face configuration."""
        inner = getattr(config, "intermediate_size", None) or config.hidden_dim
        return cls(config.num_hidden_layers, config.hidden_size, inner, config.vocab_size)

    def layer(self, tokens: int) -> int:
        """Forward FLOPs of one layer for one token of a sequence of ``tokens``: projections, feed-forward, attention."""
        return 8 * self.width**2 + 4 * self.width * self.inner + 4 * self.width * tokens

    def head(self) -> int:
        """Forward FLOPs of the masked-language-model head for one token."""
        return 2 * self.width**2 + 2 * self.width * self.words


@dataclass(frozen=True)
class StepCost:
    """FLOPs for one token of the corpus, forward and backward, on average over the aligned pairs."""

    base: float
    """Teacher and student on the base: standard distillation."""
    counterfactual: float
    """What the counterfactual runs add."""

    @property
    def total(self) -> float:
        """Both."""
        return self.base + self.counterfactual


def step_cost(
    teacher: ModelSize,
    student: ModelSize,
    alignment: Alignment,
    *,
    length: int,
    loss_tokens: float,
    counterfactual: bool = True,
    from_the_start: bool = False,
) -> StepCost:
    """FLOPs for one token in sequences of ``length`` tokens, of which the share ``loss_tokens`` reaches the head.

    ``counterfactual``: whether there are counterfactual runs. ``from_the_start``: whether they start at the embeddings (the
    token-swap control) instead of above the swap.
    """

    def run(layers: float, model: ModelSize) -> float:
        return layers * model.layer(length) + loss_tokens * model.head()

    student_factor = 1 + BACKWARD
    base = run(teacher.layers, teacher) + student_factor * run(student.layers, student)
    if not counterfactual:
        return StepCost(base, 0.0)
    pairs = alignment.pairs
    teacher_above = sum(teacher.layers - 1 - pair.teacher[0] for pair in pairs) / len(pairs)
    student_above = sum(student.layers - 1 - pair.student[0] for pair in pairs) / len(pairs)
    if from_the_start:
        teacher_above, student_above = teacher.layers, student.layers
    return StepCost(base, run(teacher_above, teacher) + student_factor * run(student_above, student))
