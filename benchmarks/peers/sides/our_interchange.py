"""``diito.interchange``."""

from __future__ import annotations

from typing import Any

from diito.speed.process import keep_freed_memory, limit_spinning

limit_spinning()  # before torch is imported

import torch  # noqa: E402
from peer_models import swapped_positions  # noqa: E402
from torch import Tensor  # noqa: E402

import diito  # noqa: E402


class Side:
    """One call."""

    def __init__(self, case: dict[str, Any], model: Any) -> None:
        keep_freed_memory()
        self.model = model
        self.positions = torch.zeros(case["batch"], case["length"], dtype=torch.bool)
        self.positions[:, [*swapped_positions(case)]] = True

    @torch.no_grad()
    def logits(self, base: Tensor, source: Tensor, layer: int) -> Tensor:
        """Float[B, T, V] of the counterfactual run."""
        return diito.interchange(self.model, {"input_ids": base}, {"input_ids": source}, [layer], self.positions)
