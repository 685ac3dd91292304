"""Floating-point operations of a step, counted by hand: matrix products only, a multiply-add as two.

The bound that a step can reach; what is left out (norms, activations, softmax, the optimiser) moves bytes, not FLOPs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from diito.method.alignment import Alignment
from diito.method.losses import Loss
from diito.method.schedules import Weight, active_share
from diito.models.layered import Layered

BACKWARD = 2
"""A backward pass multiplies twice as much as its forward pass: once for what a weight reads, once for the weight."""


@dataclass(frozen=True)
class ModelSize:
    """The numbers of a model that its matrix products depend on."""

    layers: int
    width: int
    layer_weights: float
    """Elements of a layer's matrices, on average over the layers."""
    head_weights: int
    """Elements of the head's matrices, the output embeddings among them."""
    trained: float = 1.0
    """Share of the layers' elements that is trained; the others get no gradient of their own."""

    @classmethod
    def of(cls, model: PreTrainedModel) -> ModelSize:
        """From a model that can be run in steps. Every expert of a mixture is counted, as if all were used."""
        layered = Layered(model)
        body = f"{layered.parts.body}."
        head = (value for name, value in model.named_parameters(remove_duplicate=False) if not name.startswith(body))
        weights = [weight for layer in layered.layers for weight in layer.parameters()]
        matrices, frozen = _elements(weights), _elements(weight for weight in weights if not weight.requires_grad)
        return cls(layered.depth, layered.width, matrices / layered.depth, _elements(head), 1 - frozen / max(1, matrices))

    @classmethod
    def of_bert(cls, *, layers: int, width: int, inner: int, words: int) -> ModelSize:
        """BERT's, by its sizes: four projections and a feed-forward block a layer; a transform and the words in the head."""
        return cls(layers, width, 4 * width**2 + 2 * width * inner, width**2 + width * words)

    def layer(self, tokens: int) -> float:
        """Forward FLOPs of one layer for one token of a sequence of ``tokens``: its matrices, and attention to all tokens."""
        return 2 * self.layer_weights + 4 * self.width * tokens

    def head(self) -> float:
        """Forward FLOPs of the head for one token."""
        return 2 * self.head_weights


def _elements(parameters: Iterable[Tensor]) -> int:
    return sum(parameter.numel() for parameter in parameters if parameter.ndim > 1)


@dataclass(frozen=True)
class StepCost:
    """FLOPs for one token of the corpus, forward and backward, on average over the aligned pairs."""

    base: float
    """Teacher and student on the base: standard distillation."""
    counterfactual: float
    """What the counterfactual runs add."""
    losses: float = 0.0
    """What losses multiply themselves: relations, projections, and the like."""
    balance: float = 0.0
    """The backward passes by which the gradients' norms are measured."""

    @property
    def total(self) -> float:
        """All of it."""
        return self.base + self.counterfactual + self.losses + self.balance


def step_cost(
    teacher: ModelSize,
    student: ModelSize,
    alignment: Alignment,
    *,
    length: int,
    loss_tokens: float,
    counterfactual: bool = True,
    from_the_start: bool = False,
    beside_token_swap: bool = False,
    batch: int = 1,
    losses: Mapping[str, Loss] | None = None,
    weights: Mapping[str, Weight] | None = None,
    pairs_per_batch: int = 1,
    own_sources: int = 0,
    balanced: float = 0.0,
    cached: bool = False,
) -> StepCost:
    """FLOPs for one token in sequences of ``length`` tokens, of which the share ``loss_tokens`` reaches the head.

    ``counterfactual``: whether there are counterfactual runs. ``from_the_start``: whether they start at the embeddings (the
    token-swap control) instead of above the swap. ``beside_token_swap``: whether there is one more that does. ``batch``:
    sequences of a micro-batch. ``losses``, made for the two models, and their ``weights``: they say what is run, for what share
    of the steps, and what they cost themselves.
    ``pairs_per_batch``: counterfactual runs of a micro-batch, each of another pair. ``own_sources``: sources of a row that are
    run for themselves, up to the layers that are swapped; 0 where they are rows of the batch. ``balanced``: the share of the
    micro-batches in which the norm of each loss's gradient is measured. ``cached``: of the teacher the head alone is run.
    """

    def run(layers: float, model: ModelSize, *, head: bool = True) -> float:
        return layers * model.layer(length) + head * loss_tokens * model.head()

    student_factor = 1 + BACKWARD / 2 * (1 + student.trained)
    base = run(0 if cached else teacher.layers, teacher) + student_factor * run(student.layers, student)
    pairs = alignment.pairs
    teacher_above = sum(teacher.layers - 1 - pair.teacher[0] for pair in pairs) / len(pairs)
    student_above = sum(student.layers - 1 - pair.student[0] for pair in pairs) / len(pairs)
    teacher_below = _expected_highest([pair.teacher[-1] + 1 for pair in pairs], pairs_per_batch)
    student_below = _expected_highest([pair.student[-1] + 1 for pair in pairs], pairs_per_batch)
    if from_the_start:
        teacher_above, student_above = teacher.layers, student.layers
        teacher_below = student_below = 0.0
    if cached:
        teacher_above = teacher_below = 0.0
    above = student_factor * run(student_above, student)
    sources = run(teacher_below, teacher, head=False) + student_factor * run(student_below, student, head=False)
    swapped = pairs_per_batch * (run(teacher_above, teacher) + above) + own_sources * sources + beside_token_swap * base
    if losses is None or weights is None:
        return StepCost(base, counterfactual * swapped)

    def measured(loss: Loss) -> float:
        """The backward pass of one loss alone, to the embeddings; losses of layers count as if they read the last one."""
        head = "logits" in loss.reads
        if loss.run == "base":
            return run(student.layers, student, head=head)
        below = (1 + own_sources) * student_below
        stitched = beside_token_swap * run(student.layers, student, head=head)
        return pairs_per_batch * run(student_above, student, head=head) + run(below, student, head=False) + stitched

    active = {name: active_share(weights[name]) for name in losses}
    shares = max((active[name] for name, loss in losses.items() if loss.run != "base"), default=0.0)
    outside = max((active[name] for name, loss in losses.items() if loss.outside), default=0.0)
    own = balance = 0.0
    for name, loss in losses.items():
        runs = 1 if loss.run == "base" else pairs_per_batch + beside_token_swap
        own += active[name] * runs * loss.flops(batch, length, loss_tokens) / (batch * length)
        balance += active[name] * balanced * (student_factor - 1) * measured(loss)
    return StepCost(base, shares * swapped + outside * pairs_per_batch * above, own, balance)


def _expected_highest(heights: Iterable[float], count: int) -> float:
    """The mean of the highest of ``count`` of the ``heights``, drawn without replacement; of all where there are fewer."""
    ordered = sorted(heights)
    count = min(count, len(ordered))
    return sum(math.comb(rank, count - 1) * height for rank, height in enumerate(ordered)) / math.comb(len(ordered), count)
