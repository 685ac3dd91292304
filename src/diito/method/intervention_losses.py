"""Losses that an intervention alone has: what lies outside of Π is to do nothing, and swapped runs are to stay natural."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from diito.method.divergences import check_temperature
from diito.method.losses import NATURAL, Loss, Models, Predictions, paper_losses
from diito.models.answers import Answers
from diito.refusal import Refusal


def intervention_rows(temperature: float, answers: Answers, options: Mapping[str, Mapping[str, Any]]) -> dict[str, Loss]:
    """``strict`` and ``manifold``.

    ``strict``: ``ce`` between the student's run with the swap in the dimensions of the drawn layers that Π leaves out, and the
    teacher's base run: neurons outside of Π are to have no effect (strict interchange-intervention training, Gupta et al.,
    2024). It costs a resumed run of the student. Of a layer that Π takes whole nothing is left out, so it is refused there.
    """
    own = options.get("strict", {}).get("temperature", temperature)
    check_temperature("objective.options.strict.temperature", own)
    outside = Loss(paper_losses(own, answers)["ce"].function, outside=True)

    def strict(models: Models) -> Loss:
        for pair in models.alignment.pairs:
            if pair.student_dimensions is None:
                raise Refusal(
                    "objective.weights.strict",
                    f"needs alignment.pairs with student_dimensions: student layer {pair.student[0]} is aligned as a whole, so "
                    "that no neuron of it lies outside of the alignment",
                )
        return outside

    manifold = Loss(make=lambda models: Loss(Manifold(models), reads=NATURAL), counterfactual=True, reads=NATURAL)
    return {"strict": Loss(make=strict, outside=True), "manifold": manifold}


class Manifold:
    """``manifold``: of each N_h under the intervention the squared distance, a dimension, to the nearest N_h of the student's
    base run among the micro-batch's loss tokens, which gets no gradient: swapped runs are pulled towards natural ones.

    A label-free form of the counterfactual latent loss (Grant et al., 2025), which knows the right natural state.
    """

    def __init__(self, models: Models) -> None:
        self.width = models.student.width

    def __call__(
        self, student: Predictions, teacher: Predictions, labels: Shaped[Tensor, "tokens ..."]
    ) -> Float[Tensor, " tokens"]:
        """See :func:`distance_to_nearest`."""
        assert student.natural is not None
        return distance_to_nearest(student.hidden, student.natural.hidden.detach(), student.natural.used)

    def flops(self, rows: int, tokens: int, loss_tokens: float) -> float:
        """A product of every loss token with every other, without a gradient."""
        return 2 * (rows * tokens * loss_tokens) ** 2 * self.width


def distance_to_nearest(
    states: Float[Tensor, "tokens width"],
    natural: Float[Tensor, "others width"],
    used: Bool[Tensor, " others"] | None = None,
) -> Float[Tensor, " tokens"]:
    """Mean squared difference of each state to the nearest of ``natural``, or of those that are ``used``."""
    states, natural = states.float(), natural.float()
    with torch.no_grad():  # which is nearest; its distance is then worked out exactly
        distances = torch.cdist(states, natural, compute_mode="use_mm_for_euclid_dist")
        nearest = (distances if used is None else distances.masked_fill(~used, torch.inf)).argmin(1)
    return (states - natural[nearest]).square().mean(-1)
