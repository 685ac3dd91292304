"""What cannot be right of a recipe's losses: weights, options, losses of one's own, and what they ask of other sections."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator
from typing import Any

from diito.plugins import installed
from diito.recipe.objective import CAUSAL, WeightsSection
from diito.recipe.sections import Recipe
from diito.refusal import Refusal

_OF_SWAPPED_STATES = ("strict", "manifold")
"""Losses that are of an intervention on states as they are."""
_WITH_NEEDS = (*_OF_SWAPPED_STATES, "contrastive")


def loss_name(reference: str) -> str:
    """The name of a loss of the user's own, by which it has a weight: the attribute of its import path."""
    return reference.rpartition(":")[2]


def is_causal(recipe: Recipe) -> bool:
    """Whether a loss that is causal by its name has a weight; of the user's own losses the rows may say it of others too."""
    weights = recipe.objective.weights.as_dict().items()
    return any(weight and (name.startswith(CAUSAL) or name in _OF_SWAPPED_STATES) for name, weight in weights)


def objective_refusals(recipe: Recipe) -> Iterator[Refusal]:
    """What does not go together of losses, their weights and options, and what they ask of other sections."""
    weights = recipe.objective.weights
    if not any(weights.as_dict().values()):
        yield Refusal("objective.weights", "all weights are 0; at least one must be above 0")
    yield from _balance(recipe)
    yield from _losses_with_needs(recipe)
    names = [loss_name(reference) for reference in recipe.objective.losses]
    for index, name in enumerate(names):
        if name in names[:index]:
            sentence = (
                f"{name!r} is the name of {recipe.objective.losses[names.index(name)]} too; give one of them another name"
            )
            yield Refusal(f"objective.losses[{index}]", sentence)
        elif not _has_weight(weights, name):
            sentence = (
                f"{name!r} has no weight; give objective.weights.{name} or objective.weights.causal_{name}, or leave it out"
            )
            yield Refusal(f"objective.losses[{index}]", sentence)
    if names or not weights.further:
        return
    own = [*(name for name in weights.as_dict() if name not in weights.further), *weights.causal_forms()]
    known = {*own} | {name for loss in installed("diito.losses") for name in (loss, f"causal_{loss}")}
    for name in weights.further:
        if name not in known:
            near = difflib.get_close_matches(name, [*own, "mlm", *sorted(known)], n=1)
            hint = f"did you mean objective.weights.{near[0]}?" if near else "name where it is from in objective.losses"
            yield Refusal(f"objective.weights.{name}", f"no loss has that name; {hint}")


def _balance(recipe: Recipe) -> Iterator[Refusal]:
    """What weights by gradient norm need."""
    objective = recipe.objective
    if objective.balance == "none":
        if objective.balance_every is not None:
            yield Refusal("objective.balance_every", "belongs to objective.balance gradient-norm; leave it out")
        return
    for name in ("fsdp", "deepspeed"):
        if recipe.training.arguments.get(name):
            sentence = "must be left out with objective.balance, which needs each loss's gradient of all weights at hand"
            yield Refusal(f"training.{name}", sentence)


def _has_weight(weights: WeightsSection, name: str) -> bool:
    """Whether a loss or its causal form has one."""
    return any(weights.as_dict().get(each) for each in (name, CAUSAL + name))


def _losses_with_needs(recipe: Recipe) -> Iterator[Refusal]:
    """Losses that ask something of other fields, and options of losses that there are not."""
    alignment, own = recipe.alignment, {loss_name(reference) for reference in recipe.objective.losses}
    # A row of the user's own may have the name of one of diito's, and none of its needs.
    without_needs: dict[str, Any] = dict.fromkeys(own & {*_WITH_NEEDS}, 0.0)
    weights = dataclasses.replace(recipe.objective.weights, **without_needs)
    for name, options in vars(recipe.objective.options).items():
        if options != type(options)() and not _has_weight(weights, name):
            sentence = (
                f"{name} has no weight; give objective.weights.{name} or objective.weights.{CAUSAL}{name}, or leave it out"
            )
            yield Refusal(f"objective.options.{name}", sentence)
    if weights.strict and alignment.rotation.path is not None:
        sentence = "must be null where strict has a weight, which is of ranges of dimensions"
        yield Refusal("alignment.rotation.path", sentence)
    elif weights.strict and (
        alignment.kind != "custom"
        or any(isinstance(pair, list) or pair.student_dimensions is None for pair in alignment.pairs or [])
    ):
        sentence = "needs alignment.kind custom with student_dimensions in every pair; what they leave out is to have no effect"
        yield Refusal("objective.weights.strict", sentence)
    for name in _OF_SWAPPED_STATES:
        if weights.as_dict()[name] and recipe.intervention.control != "none":
            control = recipe.intervention.control
            sentence = f"must be none where {name} has a weight, which is of swapped states; {control} swaps words"
            yield Refusal("intervention.control", sentence)
    if _has_weight(weights, "contrastive") and recipe.training.batch == 1:
        sentence = "contrastive tells a row from the others of its micro-batch; give at least 2"
        yield Refusal("training.per_device_train_batch_size", sentence)
