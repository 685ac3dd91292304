"""Losses between what layers hold: hidden states, relations of queries, keys and values, attention.

Each is a module that is made for two models and a list of (student layer, teacher layer) pairs; it gives one number for a
micro-batch, the mean over its pairs, read at all tokens that are no padding (in the causal form: those that a swap can change).
Where a loss needs states of one width and the models have two, a bias-free projection takes the student's to the teacher's: it
is trained, checkpointed, saved beside the student and no part of it. The functions underneath are those of ``distances``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diito.method.distances import attention_distance, contrast, linear_cka, pooled, relation_divergence, state_distance
from diito.method.divergences import check_temperature
from diito.method.draws import generator
from diito.method.losses import ATTENTION, STATES, LayerPairs, Loss, Models, Predictions
from diito.models.kept import Attention, Kept, Wanted
from diito.models.learn import probe
from diito.models.modes import eval_mode
from diito.models.steps import Steps
from diito.refusal import Refusal

_BACKWARD = 2
"""A backward pass multiplies twice as much, where both factors are the student's."""


@dataclass(frozen=True)
class BothModels(Models):
    """Models of which both can be looked into."""

    teacher: Steps


class Representation(nn.Module):
    """What the losses of this file share: their pairs of layers, and perhaps a projection for each."""

    def __init__(
        self, name: str, models: BothModels, layers: Sequence[Sequence[int]] | None, *, needs_width: bool = False
    ) -> None:
        super().__init__()
        self.pairs = layer_pairs(name, models, self.default_pairs(models) if layers is None else layers)
        self.projections = nn.ModuleList()
        student, teacher = models.student.width, models.teacher.width
        if needs_width and student != teacher:
            drawn = [_projection(student, teacher, models.seed, name, index) for index in range(len(self.pairs))]
            self.projections.extend(drawn)
            self.to(models.student.model.device)

    @staticmethod
    def default_pairs(models: BothModels) -> Iterable[Sequence[int]]:
        """The topmost layers of each pair of Π."""
        return [(pair.student[-1], pair.teacher[-1]) for pair in models.alignment.pairs]

    def forward(self, student: Predictions, teacher: Predictions, labels: Tensor) -> Float[Tensor, ""]:
        """The mean over the pairs."""
        ours, theirs = student.kept, teacher.kept
        assert ours is not None and theirs is not None
        with torch.autocast(student.hidden.device.type, enabled=False):
            return torch.stack([self.of_pair(index, ours, theirs) for index in range(len(self.pairs))]).mean()

    def of_pair(self, index: int, student: Kept, teacher: Kept) -> Float[Tensor, ""]:
        """The loss between the layers of one pair."""
        raise NotImplementedError

    def states(self, index: int, student: Kept, teacher: Kept) -> tuple[Tensor, Tensor]:
        """The states of a pair, the student's as wide as the teacher's where there is a projection."""
        below, above = self.pairs[index]
        ours = student.states[below]
        return (self.projections[index](ours.float()) if self.projections else ours), teacher.states[above]

    def flops(self, rows: int, tokens: int, loss_tokens: float) -> float:
        """Matrix products of a micro-batch of ``rows`` sequences of ``tokens``, forward and backward."""
        size = sum(parameter.numel() for parameter in self.projections.parameters())
        return (1 + _BACKWARD) * 2 * rows * tokens * size


class Hidden(Representation):
    """``hidden``: the distance of hidden states."""

    def __init__(
        self, models: BothModels, *, measure: Literal["mse", "cosine"] = "mse", layers: Sequence[Sequence[int]] | None = None
    ) -> None:
        super().__init__("hidden", models, layers, needs_width=True)
        self.measure = measure

    def of_pair(self, index: int, student: Kept, teacher: Kept) -> Float[Tensor, ""]:
        """See :func:`state_distance`."""
        return state_distance(*self.states(index, student, teacher), student.counted, self.measure)


class CKA(Representation):
    """``cka``: 1 − linear CKA of hidden states of any widths."""

    def __init__(self, models: BothModels, *, layers: Sequence[Sequence[int]] | None = None) -> None:
        super().__init__("cka", models, layers)
        self.widths = models.student.width, models.teacher.width

    def of_pair(self, index: int, student: Kept, teacher: Kept) -> Float[Tensor, ""]:
        """See :func:`linear_cka`."""
        likeness = linear_cka(*self.states(index, student, teacher), student.counted)
        return torch.where(student.counted.any(), 1 - likeness, 0.0)

    def flops(self, rows: int, tokens: int, loss_tokens: float) -> float:
        """Three products of states; the teacher's own has no backward pass, the mixed one half of it."""
        student, teacher = self.widths
        each = (1 + _BACKWARD) * student**2 + (1 + _BACKWARD / 2) * student * teacher + teacher**2
        return 2 * rows * tokens * each * len(self.pairs)


class Relations(Representation):
    """``relations``: the relations of queries, of keys and of values, the sum of the three."""

    def __init__(self, models: BothModels, *, heads: int | None = None, layers: Sequence[Sequence[int]] | None = None) -> None:
        super().__init__("relations", models, layers)
        sizes = {
            (side, kind): width
            for side, model, place in (("student", models.student, 0), ("teacher", models.teacher, 1))
            for pair in self.pairs
            for kind, width in attention_widths(model, pair[place]).items()
        }
        self.heads = heads or math.gcd(*sizes.values(), _heads(models.student, self.pairs[0][0]))
        for (side, kind), width in sizes.items():
            if width % self.heads:
                raise Refusal(
                    "objective.options.relations.heads",
                    f"{self.heads} must divide the width of the {side}'s {kind}, {width}",
                )
        self.widths = {side: sum(sizes[side, kind] for kind in _KINDS) for side in ("student", "teacher")}

    @staticmethod
    def default_pairs(models: BothModels) -> Iterable[Sequence[int]]:
        """The last layers."""
        return [(models.student.depth - 1, models.teacher.depth - 1)]

    def of_pair(self, index: int, student: Kept, teacher: Kept) -> Float[Tensor, ""]:
        """See :func:`relation_divergence`."""
        below, above = self.pairs[index]
        ours, theirs = student.attention[below], teacher.attention[above]

        def divergence(kind: str) -> Tensor:
            first, second = (_with_heads(getattr(each, kind), self.heads) for each in (ours, theirs))
            return relation_divergence(first, second, student.counted, student.real)

        return torch.stack([divergence(kind) for kind in _KINDS]).sum()

    def flops(self, rows: int, tokens: int, loss_tokens: float) -> float:
        """A product of each kind of vectors with itself."""
        each = (1 + _BACKWARD) * self.widths["student"] + self.widths["teacher"]
        return 2 * rows * tokens**2 * each * len(self.pairs)


class AttentionMaps(Representation):
    """``attention``: the distance of the attention of heads in their order."""

    def __init__(
        self, models: BothModels, *, of: Literal["scores", "maps"] = "scores", layers: Sequence[Sequence[int]] | None = None
    ) -> None:
        super().__init__("attention", models, layers)
        self.of = of
        self.width = 0.0
        for below, above in self.pairs:
            heads = _heads(models.student, below), _heads(models.teacher, above)
            if heads[0] != heads[1]:
                raise Refusal(
                    "objective.weights.attention",
                    f"compares heads one by one, and the student's layer {below} has {heads[0]}, the teacher's layer {above} "
                    f"{heads[1]}; give relations a weight instead, which cuts both into as many",
                )
            ours, theirs = (_query_width(*each) for each in ((models.student, below), (models.teacher, above)))
            self.width += (1 + _BACKWARD) * ours + theirs

    def of_pair(self, index: int, student: Kept, teacher: Kept) -> Float[Tensor, ""]:
        """See :func:`attention_distance`."""
        below, above = self.pairs[index]
        return attention_distance(student.attention[below], teacher.attention[above], student.counted, student.real, self.of)

    def flops(self, rows: int, tokens: int, loss_tokens: float) -> float:
        """The scores of both models, which their own attention need not have made."""
        return 2 * rows * tokens**2 * self.width


class Contrastive(Representation):
    """``contrastive``: each of the student's sequences is told its teacher's among those of the micro-batch."""

    def __init__(self, models: BothModels, *, temperature: float = 0.07, layers: Sequence[Sequence[int]] | None = None) -> None:
        super().__init__("contrastive", models, layers, needs_width=True)
        check_temperature("objective.options.contrastive.temperature", temperature)
        self.temperature = temperature
        self.teacher_width = models.teacher.width

    def of_pair(self, index: int, student: Kept, teacher: Kept) -> Float[Tensor, ""]:
        """See :func:`contrast`, of the means of the rows' states."""
        below, above = self.pairs[index]
        ours, theirs = (pooled(each, student.counted) for each in (student.states[below], teacher.states[above]))
        ours = self.projections[index](ours) if self.projections else ours
        return contrast(ours, theirs, student.counted.any(1), self.temperature)

    def flops(self, rows: int, tokens: int, loss_tokens: float) -> float:
        """A product of every student's row with every teacher's, of which the student's alone have a gradient."""
        return super().flops(rows, 1, loss_tokens) + (1 + _BACKWARD / 2) * 2 * rows**2 * self.teacher_width * len(self.pairs)


REPRESENTATIONS: dict[str, tuple[Callable[..., Representation], frozenset[str]]] = {
    "hidden": (Hidden, STATES),
    "cka": (CKA, STATES),
    "relations": (Relations, ATTENTION),
    "attention": (AttentionMaps, ATTENTION),
    "contrastive": (Contrastive, STATES),
}
"""The losses of this file by name, and what they read."""
_KINDS = ("queries", "keys", "values")


def representation_row(name: str, **options: Any) -> Loss:
    """The row of one of :data:`REPRESENTATIONS`."""
    kind, reads = REPRESENTATIONS[name]

    def make(models: Models) -> Loss:
        assert models.teacher is not None
        module = kind(BothModels(models.student, models.teacher, models.alignment, models.seed), **options)
        return Loss(module, reads=reads, layers=module.pairs)

    return Loss(make=make, reads=reads)


def layer_pairs(name: str, models: BothModels, pairs: Iterable[Sequence[int]]) -> LayerPairs:
    """Pairs of layers, each once. Raises Refusal naming the option where a model has no such layer."""
    checked = tuple(dict.fromkeys((int(below), int(above)) for below, above in pairs))
    for pair in checked:
        for side, layer, model in zip(("student", "teacher"), pair, (models.student, models.teacher), strict=True):
            if not 0 <= layer < model.depth:
                raise Refusal(
                    f"objective.options.{name}.layers",
                    f"{list(pair)}: the {side} has no layer {layer}; its layers are 0 to {model.depth - 1}",
                )
    if not checked:
        raise Refusal(f"objective.options.{name}.layers", "the list is empty; give at least one [student layer, teacher layer]")
    return checked


def attention_widths(model: Steps, layer: int) -> dict[str, int]:
    """The widths of a layer's queries, keys and values, all heads together."""
    attention = _probed(model, layer)
    return {kind: (vectors := getattr(attention, kind)).shape[1] * vectors.shape[3] for kind in _KINDS}


def _query_width(model: Steps, layer: int) -> int:
    return attention_widths(model, layer)["queries"]


def _heads(model: Steps, layer: int) -> int:
    return _probed(model, layer).queries.shape[1]


@torch.no_grad()
def _probed(model: Steps, layer: int) -> Attention:
    """What a layer attends with in a short text. Raises Refusal for a layer in which it cannot be read."""
    inputs = probe(model.model)
    real = torch.ones_like(inputs["input_ids"], dtype=torch.bool)
    keep = Kept(Wanted(attention=frozenset({layer})), real, real)
    with eval_mode(model.model):  # nothing is drawn
        model.states(inputs, [layer], keep)
    return keep.attention[layer]


def _with_heads(vectors: Float[Tensor, "batch own tokens size"], heads: int) -> Float[Tensor, "batch heads tokens part"]:
    """All heads as one vector, cut into ``heads``."""
    return vectors.transpose(1, 2).flatten(2).unflatten(2, (heads, -1)).transpose(1, 2)


def _projection(width: int, other: int, seed: int, *key: str | int) -> nn.Linear:
    """A bias-free map between two widths, drawn as ``nn.Linear`` draws it, by a key."""
    projection = nn.Linear(width, other, bias=False, device="meta").to_empty(device="cpu")
    bound = 1 / math.sqrt(width)
    nn.init.uniform_(projection.weight, -bound, bound, generator=generator("projection", seed, *key))
    return projection
