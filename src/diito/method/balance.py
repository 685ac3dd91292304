"""Weights by gradient norm: each loss pulls at the student with the share that its weight has in all weights.

After GradNorm (Chen et al., 2018), which differs: there the weights are learned, by gradient steps of their own towards norms
that also depend on how fast each loss falls, and norms are taken at the last layer that all losses share. Here they are set,
every so many micro-batches, from the norms of one micro-batch; the shares are those that are given; and norms are taken over
all that is trained of the student, as losses of its layers and losses of its predictions share no last layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.distributed
from torch import Tensor, nn

from diito.refusal import Refusal


class GradientNorms(nn.Module):
    """Factors of the losses' weights, measured anew every ``every`` micro-batches; a module so that they are in a state dict.

    With weights w, norms n of the gradients of the losses, and m the mean of n weighted by w, the factors are m / n: each term
    of the sum then has a gradient of norm w · m, and these are together as large as before. A loss whose norm is 0 or not
    finite keeps the factor that it has, at first 1.
    """

    def __init__(self, names: Sequence[str], every: int) -> None:
        super().__init__()
        if every < 1:
            raise Refusal("objective.balance_every", f"{every} must be at least 1")
        if len(names) < 2:
            sentence = (
                f"gradient-norm shares out between losses, and {names[0]} alone has a weight; give another one, or none here"
            )
            raise Refusal("objective.balance", sentence)
        self.names, self.every = list(names), every
        self.factors: dict[str, float] = {}
        """Of the losses that have been measured."""
        self.weights: dict[str, float] = {}
        """The weights with their factors, as they were last used."""

    def forward(
        self, weights: Mapping[str, float], losses: Mapping[str, Tensor], student: nn.Module, *, step: int
    ) -> dict[str, float]:
        """``weights`` with their factors. They are measured first where it is time to, or where one has none yet: in train mode
        alone, with a backward pass for each loss. Only then does the host wait for the device.

        ``losses``: their values, which share a graph. ``step``: micro-batches since the start, by which all ranks agree.
        """
        is_due = step % self.every == 0 or not weights.keys() <= self.factors.keys()
        if is_due and self.training and torch.is_grad_enabled():
            self._measure(weights, losses, student)
        self.weights = {name: weight * self.factors.get(name, 1.0) for name, weight in weights.items()}
        return self.weights

    def _measure(self, weights: Mapping[str, float], losses: Mapping[str, Tensor], student: nn.Module) -> None:
        trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
        norms = _mean_over_ranks(torch.stack([_norm_of_gradient(losses[name], trained) for name in weights])).tolist()
        usable = {name: norm for name, norm in zip(weights, norms, strict=True) if norm > 0 and math.isfinite(norm)}
        total = sum(weights[name] for name in usable)
        mean = sum(weights[name] * norm for name, norm in usable.items()) / total if usable else 1.0
        for name in weights:
            self.factors[name] = mean / usable[name] if name in usable else self.factors.get(name, 1.0)

    def get_extra_state(self) -> Tensor:
        """The factors, as part of a state dict; NaN where nothing has been measured."""
        return torch.tensor([self.factors.get(name, math.nan) for name in self.names], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """Put back what :meth:`get_extra_state` gave."""
        factors = zip(self.names, state.tolist(), strict=True)
        self.factors = {name: factor for name, factor in factors if not math.isnan(factor)}


def _norm_of_gradient(loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm of the gradient of all ``parameters`` together."""
    if not loss.requires_grad:
        return loss.new_zeros(())
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    norms = [torch.linalg.vector_norm(gradient.float()) for gradient in gradients if gradient is not None]
    return torch.linalg.vector_norm(torch.stack(norms)) if norms else loss.new_zeros(())


def _mean_over_ranks(norms: Tensor) -> Tensor:
    """Of each rank's own norms, so that all ranks have the same factors."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(norms)
        norms = norms / torch.distributed.get_world_size()
    return norms
