"""The weights of the losses: the paper's, and those that are given, checked."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from diito.method.losses import ALIASES, TASK
from diito.method.schedules import Ramp, Weight, active_share, check_never_all_zero, check_weight
from diito.refusal import Refusal

PAPER_WEIGHTS = {TASK: 0.25, "ce": 0.25, "cos": 0.25, "causal_ce": 0.25}


def default_weights(student: int, teacher: int) -> dict[str, float]:
    """The paper's weights, without that of the hidden states where the widths differ."""
    if student == teacher:
        return PAPER_WEIGHTS
    warnings.warn(
        f"cos is left out of the losses, as the widths of student ({student}) and teacher ({teacher}) differ", stacklevel=3
    )
    return {name: weight for name, weight in PAPER_WEIGHTS.items() if name != "cos"}


def named_weights(weights: Mapping[str, Weight]) -> dict[str, Weight]:
    """The weights that are not 0, by the names that losses have now. Raises Refusal, naming the weight."""
    named: dict[str, Weight] = {}
    for given, weight in weights.items():
        name = ALIASES.get(given, given)
        check_weight(f"objective.weights.{given}", weight)
        if name != given and name in weights:
            raise Refusal(f"objective.weights.{given}", f"is another name of {name}, which has a weight too; give one of them")
        if active_share(weight):
            named[name] = weight if isinstance(weight, Ramp) else float(weight)
    if not named:
        raise Refusal("objective.weights", "all are 0; give at least one loss a weight above 0")
    check_never_all_zero(named)
    return named
