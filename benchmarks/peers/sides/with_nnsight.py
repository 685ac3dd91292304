"""nnsight: a trace of the source that stops behind the layer, and one of the base in which its values are set."""

from __future__ import annotations

from typing import Any

import peer_models
import torch
from nnsight import NNsight
from torch import Tensor


class Side:
    """One model for all layers."""

    def __init__(self, case: dict[str, Any], model: Any) -> None:
        self.model = NNsight(model)
        positions = peer_models.swapped_positions(case)
        self.span = slice(positions[0], positions[-1] + 1)

    @torch.no_grad()
    def logits(self, base: Tensor, source: Tensor, layer: int) -> Tensor:
        """Float[B, T, V] of the counterfactual run."""
        model, span = self.model, self.span
        with model.trace(input_ids=source) as tracer:
            values = model.transformer.h[layer].output[:, span].save()
            tracer.stop()
        with model.trace(input_ids=base):
            model.transformer.h[layer].output[:, span] = values
            logits = model.output.logits.save()
        return logits
