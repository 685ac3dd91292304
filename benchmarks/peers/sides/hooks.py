"""Interchange with two forward hooks of torch, written by hand: the numbers that the others have to give."""

from __future__ import annotations

from typing import Any

import torch
from peer_models import swapped_positions
from torch import Tensor


class Side:
    """The source's run is recorded at a layer, the base's is overwritten there."""

    def __init__(self, case: dict[str, Any], model: Any) -> None:
        self.model = model
        self.span = slice(swapped_positions(case)[0], swapped_positions(case)[-1] + 1)

    @torch.no_grad()
    def logits(self, base: Tensor, source: Tensor, layer: int) -> Tensor:
        """Float[B, T, V] of the counterfactual run."""
        module, kept = self.model.transformer.h[layer], []
        handle = module.register_forward_hook(lambda module, inputs, output: kept.append(output[:, self.span].clone()))
        self.model.transformer(input_ids=source)  # without the head, which nobody reads
        handle.remove()

        def swap(module: Any, inputs: Any, output: Tensor) -> Tensor:
            output = output.clone()
            output[:, self.span] = kept[0]
            return output

        handle = module.register_forward_hook(swap)
        try:
            return self.model(input_ids=base).logits
        finally:
            handle.remove()
