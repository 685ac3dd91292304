"""What a model predicts of some tokens, and how far two predictions are apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Predictions:
    """One model's predictions of some tokens, under several interventions."""

    def __init__(self, logits: Sequence[Tensor]) -> None:
        self.logs: Float[Tensor, "tokens interventions words"] = torch.stack(
            [each.float().log_softmax(-1) for each in logits], dim=1
        )
        self.words: Int[Tensor, "tokens interventions"] = self.logs.argmax(-1)

    def divergence(self, other: Predictions) -> Float[Tensor, "tokens here there"]:
        """KL(self ‖ other) in nats, of every intervention here with every one there."""
        probabilities = self.logs.exp()
        own = (probabilities * self.logs).sum(-1)
        return (own.unsqueeze(-1) - torch.bmm(probabilities, other.logs.transpose(1, 2))).clamp(min=0)
