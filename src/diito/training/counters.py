"""Running sums of a training loop, kept on the device: reading them is what costs, so it is done at log steps only."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from accelerate import Accelerator

NEVER = torch.iinfo(torch.int64).max


class Counters:
    """Sums of named losses and tokens, and the first optimiser step at which each loss was not finite."""

    def __init__(self, names: Sequence[str], *, device: torch.device) -> None:
        self.names = list(names)
        self._sums = torch.zeros(len(names), device=device)
        self._first_bad = torch.full((len(names),), NEVER, device=device)
        self._tokens = torch.zeros((), dtype=torch.int64, device=device)
        self._micro_batches = 0
        self._clock = time.perf_counter()
        self._clock_tokens = 0

    def add(self, losses: Mapping[str, Tensor], tokens: Tensor | int, *, step: int) -> None:
        """Count one micro-batch of the optimiser step ``step``: its losses and its real tokens. No synchronisation."""
        values = torch.stack([losses[name].detach().float() for name in self.names])
        self._sums += values
        self._first_bad = torch.where(values.isfinite(), self._first_bad, self._first_bad.clamp(max=step))
        self._tokens += tokens
        self._micro_batches += 1

    def take_means(self, accelerator: Accelerator) -> dict[str, float]:
        """Mean of each loss over micro-batches and ranks since the last call."""
        means = accelerator.reduce(self._sums / max(self._micro_batches, 1), reduction="mean").tolist()
        self._sums.zero_()
        self._micro_batches = 0
        return dict(zip(self.names, means, strict=True))

    def take_tokens(self, accelerator: Accelerator) -> int:
        """Real tokens of all ranks since the last call."""
        tokens = int(accelerator.reduce(self._tokens, reduction="sum"))
        self._tokens.zero_()
        self._clock_tokens += tokens
        return tokens

    def take_rate(self) -> float:
        """Tokens per second, of those taken since the last call."""
        now = time.perf_counter()
        rate = self._clock_tokens / max(now - self._clock, 1e-9)
        self._clock, self._clock_tokens = now, 0
        return rate

    def first_non_finite(self, accelerator: Accelerator) -> dict[str, int]:
        """For each loss that was not finite on any rank, the first step at which it was not."""
        first = accelerator.gather(self._first_bad.unsqueeze(0)).amin(0).tolist()
        return {name: step for name, step in zip(self.names, first, strict=True) if step != NEVER}
