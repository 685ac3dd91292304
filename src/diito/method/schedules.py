"""Weights of losses over the steps of a run: functions of the share of the steps that are done, so that a resumed run goes on
as it was."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from diito.refusal import Refusal


@dataclass(frozen=True)
class Ramp:
    """A weight that goes from ``start`` to ``end`` linearly over the first share ``by`` of the steps, and stays there."""

    start: float
    end: float
    by: float = 1.0

    def at(self, progress: float) -> float:
        """The weight when the share ``progress`` of the steps is done."""
        return self.start + (self.end - self.start) * min(1.0, progress / self.by)

    @property
    def active(self) -> float:
        """The share of the steps in which the weight is not 0, but for single ones."""
        if self.end:
            return 1.0
        return self.by if self.start else 0.0


Weight = float | Ramp


def active_share(weight: Weight) -> float:
    """The share of the steps in which a weight is not 0."""
    return weight.active if isinstance(weight, Ramp) else float(bool(weight))


def check_weight(field: str, weight: Weight) -> None:
    """Refuse what can be no weight."""
    numbers = (weight.start, weight.end) if isinstance(weight, Ramp) else (weight,)
    for number in numbers:
        if not (math.isfinite(number) and number >= 0):
            raise Refusal(field, f"{number} must be a finite number, 0 or above")
    if isinstance(weight, Ramp) and not 0 < weight.by <= 1:
        raise Refusal(f"{field}.by", f"{weight.by} must be above 0 and at most 1, a share of the steps")


def check_never_all_zero(weights: Mapping[str, Weight]) -> None:
    """Refuse schedules under which there is nothing to learn at the first step, or from some step on."""
    for progress, place in ((0.0, "at the first step"), (1.0, "at the last step")):
        if not any(weights_at(weights, progress).values()):
            raise Refusal("objective.weights", f"all are 0 {place}; give at least one loss a weight above 0 there")


def weights_at(weights: Mapping[str, Weight], progress: float | None) -> dict[str, float]:
    """The weights that are not 0 when the share ``progress`` of the steps is done. None: there are no schedules."""
    if progress is None and any(isinstance(weight, Ramp) for weight in weights.values()):
        raise Refusal("progress", "give the share of the steps that is done, 0 to 1: a weight has a schedule")
    now = {name: weight.at(progress or 0.0) if isinstance(weight, Ramp) else weight for name, weight in weights.items()}
    return {name: weight for name, weight in now.items() if weight}
