"""Running sums of a training loop, kept on the device: reading them is what costs, so it is done at log steps only."""

from __future__ import annotations

import time
from collections import Counter
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
        self._counts: Counter[str] = Counter()
        self._clock = time.perf_counter()
        self._clock_tokens = 0

    def add(self, losses: Mapping[str, Tensor], tokens: Tensor | int, *, step: int) -> None:
        """Count one micro-batch of the optimiser step ``step``: its losses and its real tokens. No synchronisation.

        A loss whose weight is 0 at this step is not among them.
        """
        absent = torch.zeros((), device=self._sums.device)
        values = torch.stack([losses[name].detach().float() if name in losses else absent for name in self.names])
        self._sums += values
        self._first_bad = torch.where(values.isfinite(), self._first_bad, self._first_bad.clamp(max=step))
        self._tokens += tokens
        for name in self.names:
            self._counts[name] += name in losses

    def take_means(self, accelerator: Accelerator) -> dict[str, float]:
        """Mean of each loss over the micro-batches that had it and the ranks, since the last call; those that none had are left
        out."""
        counts = [self._counts[name] for name in self.names]
        divisors = torch.tensor([max(count, 1) for count in counts], device=self._sums.device)
        means = accelerator.reduce(self._sums / divisors, reduction="mean").tolist()
        self._sums.zero_()
        self._counts.clear()
        return {name: mean for name, mean, count in zip(self.names, means, counts, strict=True) if count}

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
