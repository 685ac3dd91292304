"""The sections of a recipe about losses: which have a weight, their options, and weights that change over the steps.

The rows themselves are those of ``diito.method.rows``; a test holds the two against each other. No torch here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le, MinLen, Predicate

from diito.recipe.fields import LATER, AboveZero, Alias, Aliased, BelowOne, Count, NotNegative, Share, Text, is_layer_pair

LayerPairs = Annotated[list[Annotated[tuple[int, int], Predicate(is_layer_pair)]], MinLen(1)]
"""``[[student layer, teacher layer], ...]``, counted from 0."""
COS = 0.25
"""The weight of ``cos`` where a recipe gives none and the widths agree."""
BALANCE_STEPS = 100
"""Steps between two measurements of the gradients' norms, where a recipe does not say."""
CAUSAL = "causal_"
NO_CAUSAL_FORM = ("task", "strict", "manifold")
"""Losses that are read in one way only: the task's, and those that are of an intervention as they are."""


@dataclass
class ScheduleSection(Aliased):
    """A weight that changes linearly over the first steps, and then stays: {from: 0, to: 0.25, by: 0.2}."""

    start: NotNegative = 0.0
    """The weight at the first step (also: from)."""
    end: NotNegative = 0.0
    """The weight from the share ``by`` of the steps on (also: to)."""
    by: Share = 1.0
    """The share of the steps after which it is reached."""

    ALIASES: ClassVar[Mapping[str, Alias]] = {
        "from": Alias(("start",), is_older=False),
        "to": Alias(("end",), is_older=False),
    }

    def __bool__(self) -> bool:
        return bool(self.start or self.end)


Weight = NotNegative | ScheduleSection


@dataclass
class WeightsSection(Aliased):
    """Weights of the losses in their sum, used as given; a weight of 0 costs nothing. ``{from: 0, to: 0.25, by: 0.2}`` is one
    that changes over the first 20 % of the steps. ``causal_`` in front of a name is the same loss under the interchange
    intervention: ``causal_jsd``. Losses of your own stand beside these by their names."""

    task: Weight = 0.25
    """The task's own loss: in masked language modelling the cross-entropy with the masked words (also: mlm)."""
    ce: Weight = 0.25
    """Smoothed cross-entropy with the teacher."""
    cos: Weight | None = None
    """Cosine distance of the last hidden states. null: 0.25, or 0 where student and teacher are of different widths."""
    causal_ce: Weight = 0.25
    """The DIITO loss: smoothed cross-entropy under the same interchange intervention."""
    causal_cos: Weight = 0.0
    """Cosine distance of the last hidden states under the same interchange intervention."""
    mse: Weight = 0.0
    """Squared error of the logits, summed over the vocabulary."""
    reverse_kl: Weight = field(default=0.0, metadata=LATER)
    """KL(student ‖ teacher) of the predictions."""
    jsd: Weight = field(default=0.0, metadata=LATER)
    """Generalised Jensen-Shannon divergence of the predictions."""
    tvd: Weight = field(default=0.0, metadata=LATER)
    """Total variation distance of the predictions."""
    skew_kl: Weight = field(default=0.0, metadata=LATER)
    """KL of the teacher's predictions to a mixture of both."""
    hidden: Weight = field(default=0.0, metadata=LATER)
    """Distance of hidden states; where the widths differ, behind a projection that is trained along."""
    cka: Weight = field(default=0.0, metadata=LATER)
    """1 − linear CKA of hidden states of any widths."""
    relations: Weight = field(default=0.0, metadata=LATER)
    """KL of the relations of queries, of keys and of values (MiniLMv2)."""
    attention: Weight = field(default=0.0, metadata=LATER)
    """Squared error of attention scores or maps, head by head (TinyBERT)."""
    contrastive: Weight = field(default=0.0, metadata=LATER)
    """Telling the teacher's own sequence among those of the micro-batch (CoDIR)."""
    strict: Weight = field(default=0.0, metadata=LATER)
    """Cross-entropy with the teacher's base run after a swap in the dimensions that the alignment leaves out."""
    manifold: Weight = field(default=0.0, metadata=LATER)
    """Distance of states under the intervention to the nearest natural ones."""
    further: dict[str, Weight] = field(default_factory=dict)
    """Weights of further losses, by name."""

    ALIASES: ClassVar[Mapping[str, Alias]] = {"mlm": Alias(("task",))}
    REST: ClassVar[str] = "further"

    def as_dict(self) -> dict[str, float | ScheduleSection]:
        """Every loss with its weight, those of the user's own too; ``cos``, where it is not given, as for equal widths."""
        own = {name: value for name, value in vars(self).items() if name != "further"}
        return own | {"cos": COS if self.cos is None else self.cos} | self.further

    @classmethod
    def takes(cls, name: str) -> bool:
        """Whether ``name`` may be a causal form, or a loss of the user's own; ``checks`` knows which there are."""
        return name.isidentifier()

    @classmethod
    def causal_forms(cls) -> list[str]:
        """The names of the causal forms of diito's own losses."""
        own = [each.name for each in dataclasses.fields(cls) if each.name != "further" and not each.name.startswith(CAUSAL)]
        return [CAUSAL + name for name in own if name not in NO_CAUSAL_FORM]


@dataclass
class TemperatureOptions:
    """Options of a loss over predictions."""

    temperature: AboveZero | None = None
    """null: that of all losses over predictions, ``objective.temperature``."""


@dataclass
class JsdOptions(TemperatureOptions):
    """Options of jsd."""

    beta: Annotated[float, Ge(0), Le(1)] = 0.5
    """0: KL(teacher ‖ student); 1: KL(student ‖ teacher); between: the generalised JSD, with so much of the teacher in the
    mixture."""


@dataclass
class SkewOptions(TemperatureOptions):
    """Options of skew_kl."""

    alpha: BelowOne = 0.1
    """The teacher's part of the mixture; 0 is ce."""


@dataclass
class LayersOptions:
    """Options of a loss over hidden states."""

    layers: LayerPairs | None = None
    """[[student layer, teacher layer], ...], counted from 0; null: the topmost layers of each pair of the alignment."""


@dataclass
class HiddenOptions(LayersOptions):
    """Options of hidden."""

    measure: Literal["mse", "cosine"] = "mse"
    """mse: mean squared difference; cosine: 1 − cos."""


@dataclass
class RelationsOptions:
    """Options of relations."""

    layers: LayerPairs | None = None
    """[[student layer, teacher layer], ...], counted from 0; null: the last layers."""
    heads: Count | None = None
    """Relation heads, which must divide the widths of queries, keys and values in both models; null: the student's heads, or
    the most that divide them all."""


@dataclass
class AttentionOptions(LayersOptions):
    """Options of attention."""

    of: Literal["scores", "maps"] = "scores"
    """scores: before the softmax; maps: behind it."""


@dataclass
class ContrastiveOptions(LayersOptions):
    """Options of contrastive."""

    temperature: AboveZero = 0.07
    """What cosines are divided by before the softmax."""


@dataclass
class OptionsSection:
    """Options of single losses, by their names; the causal form of a loss has the same ones."""

    ce: TemperatureOptions = field(default_factory=TemperatureOptions)
    reverse_kl: TemperatureOptions = field(default_factory=TemperatureOptions)
    jsd: JsdOptions = field(default_factory=JsdOptions)
    tvd: TemperatureOptions = field(default_factory=TemperatureOptions)
    skew_kl: SkewOptions = field(default_factory=SkewOptions)
    hidden: HiddenOptions = field(default_factory=HiddenOptions)
    cka: LayersOptions = field(default_factory=LayersOptions)
    relations: RelationsOptions = field(default_factory=RelationsOptions)
    attention: AttentionOptions = field(default_factory=AttentionOptions)
    contrastive: ContrastiveOptions = field(default_factory=ContrastiveOptions)
    strict: TemperatureOptions = field(default_factory=TemperatureOptions)

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """The options that are given a value, by the loss's name."""
        return {
            name: {option: value for option, value in vars(options).items() if value is not None}
            for name, options in vars(self).items()
        }


@dataclass
class ObjectiveSection:
    """The losses."""

    weights: WeightsSection = field(default_factory=WeightsSection)
    balance: Literal["none", "gradient-norm"] = field(default="none", metadata=LATER)
    """none: the weights as they are given. gradient-norm: each loss has the share of the gradient's norm that its weight has of
    all weights; the norms are measured anew every so many steps."""
    balance_every: Count | None = field(default=None, metadata=LATER)
    """gradient-norm: optimiser steps between two measurements; null: 100."""
    options: OptionsSection = field(default_factory=OptionsSection, metadata=LATER)
    losses: list[Text] = field(default_factory=list)
    """Further losses: import paths such as ``my_package.losses:huber``, rows of losses."""
    temperature: AboveZero = 2.0
    """Temperature of the losses over predictions, the smoothed cross-entropies among them."""
    tokens: Literal["masked", "all"] = "masked"
    """Tokens of every loss over predictions but the task's own, and of cos: the masked ones (the paper) or all real ones (the
    released code). Losses over the states of layers read all real ones."""
