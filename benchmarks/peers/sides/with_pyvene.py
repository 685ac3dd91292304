"""pyvene: an intervenable model with a vanilla intervention on the output of each layer's block."""

from __future__ import annotations

from typing import Any

import peer_models
import pyvene
import torch
from torch import Tensor


class Side:
    """One intervenable model a layer, made beforehand."""

    def __init__(self, case: dict[str, Any], model: Any) -> None:
        self.intervenable = [
            pyvene.IntervenableModel(
                pyvene.IntervenableConfig(
                    [{"layer": layer, "component": "block_output", "intervention_type": pyvene.VanillaIntervention}]
                ),
                model,
            )
            for layer in range(case["teacher_layers"])
        ]
        self.positions = [*peer_models.swapped_positions(case)]

    @torch.no_grad()
    def logits(self, base: Tensor, source: Tensor, layer: int) -> Tensor:
        """Float[B, T, V] of the counterfactual run."""
        _, counterfactual = self.intervenable[layer](
            {"input_ids": base}, [{"input_ids": source}], {"sources->base": [[self._in_every_row(base)]] * 2}
        )
        return counterfactual.logits

    def _in_every_row(self, base: Tensor) -> list[list[int]]:
        return [self.positions] * len(base)
