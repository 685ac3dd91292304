"""The losses of a recipe: which have a weight, the rows of the user's own among them, and what the two models' widths allow."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel

from diito import plugins
from diito.method.alignment import Alignment
from diito.method.losses import CAUSAL, Loss, find_loss
from diito.method.rows import check_widths, loss_rows, make_losses
from diito.method.schedules import Ramp, Weight, check_never_all_zero
from diito.models.answers import answers_of
from diito.recipe import Recipe
from diito.recipe.loss_checks import loss_name
from diito.recipe.objective import BALANCE_STEPS, COS
from diito.refusal import Refusal


def own_losses(recipe: Recipe) -> dict[str, Loss]:
    """The rows of the user's own losses by name: those of ``objective.losses``, and of installed packages those with a weight.

    Raises Refusal for one that cannot be found.
    """
    rows: dict[str, Loss] = {}
    for index, reference in enumerate(recipe.objective.losses):
        rows[loss_name(reference)] = _own_loss(reference, f"objective.losses[{index}]")
    diitos = loss_rows()
    weights = active_weights(recipe)
    check_never_all_zero(weights)
    available = plugins.installed("diito.losses") if recipe.objective.weights.further else set()
    for weighted in weights:
        for name in (weighted, weighted.removeprefix(CAUSAL)):
            if name in available and name not in {**diitos, **rows}:
                rows[name] = _own_loss(name, f"objective.weights.{weighted}")
    for weighted in weights:
        find_loss(weighted, {**diitos, **rows})
    return rows


def has_counterfactual(recipe: Recipe, own: Mapping[str, Loss]) -> bool:
    """Whether a loss with a weight reads the runs under the intervention. ``own``: the rows of the user's own losses."""
    table = {**loss_rows(), **own}
    return any(find_loss(name, table).run != "base" for name in active_weights(recipe))


def active_weights(recipe: Recipe) -> dict[str, Weight]:
    """The weights of the losses that have one, as the objective takes them."""
    weights = recipe.objective.weights.as_dict()
    return {
        name: weight if isinstance(weight, float | int) else Ramp(weight.start, weight.end, weight.by)
        for name, weight in weights.items()
        if weight
    }


def balance_every(recipe: Recipe) -> int | None:
    """Micro-batches between two measurements of the gradients' norms; None: the weights are taken as they are."""
    objective = recipe.objective
    if objective.balance == "none":
        return None
    if len(active := active_weights(recipe)) < 2:
        sentence = f"gradient-norm shares out between losses, and {next(iter(active))} alone has a weight; give another one too"
        raise Refusal("objective.balance", sentence)
    return (objective.balance_every or BALANCE_STEPS) * recipe.training.accumulation


def make_all_losses(
    recipe: Recipe, own: Mapping[str, Loss], alignment: Alignment, student: PreTrainedModel, teacher: PreTrainedModel
) -> dict[str, Loss]:
    """The losses with a weight, made for the two models. Raises Refusal for one that these models cannot have."""
    objective = recipe.objective
    table = {**loss_rows(objective.temperature, answers_of(student), objective.options.as_dict()), **own}
    return make_losses(active_weights(recipe), table, student, teacher, alignment, seed=recipe.seed)


def _own_loss(reference: str, field: str) -> Loss:
    row: Any = plugins.load(reference, field=field, group="diito.losses", known={})
    if not isinstance(row, Loss):
        raise Refusal(field, f"{reference} is a {type(row).__name__}; it must be a diito.method.losses.Loss")
    return row


def with_widths(recipe: Recipe, own: Mapping[str, Loss], teacher: int, student: int) -> tuple[Recipe, str]:
    """The recipe with the weight of ``cos`` that fits these widths where it gives none, and in words what is left out by that.

    Raises Refusal, naming the weight, for a loss with a weight that compares hidden states of one width.
    """
    weights, left_out = recipe.objective.weights, ""
    if weights.cos is None:
        left_out = "" if teacher == student else f" (no cos, as the widths {student} and {teacher} differ)"
        weights = dataclasses.replace(weights, cos=0.0 if left_out else COS)
    table = {**loss_rows(recipe.objective.temperature), **own}
    recipe = dataclasses.replace(recipe, objective=dataclasses.replace(recipe.objective, weights=weights))
    active = active_weights(recipe)
    check_never_all_zero(active)
    check_widths({name: find_loss(name, table) for name in active}, student, teacher)
    return recipe, left_out
