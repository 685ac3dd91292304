"""In which order the rows of a corpus are seen: a function of (seed, epoch) and of nothing else.

To resume it needs the epoch alone: the loader skips the micro-batches already seen of the very same order.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

POOL = 64
"""Micro-batches whose rows are sorted by length together: little padding, and still a different mixture every epoch."""
_SLICE = 4_096  # rows turned into Python integers at a time


class ShuffledSampler(Sampler[int]):
    """Every row once an epoch, in an order drawn from (seed, epoch).

    With ``lengths`` (int[rows], tokens) the rows of each ``batch`` consecutive indices have similar lengths: the
    shuffled rows are sorted within pools of ``POOL`` batches, and the batches shuffled again. The rows that fill no
    batch come last, where the loader's ``drop_last`` drops them; they are drawn before sorting, so no length is dropped
    more often.

    Unlike the samplers of torch it keeps no generator: iterating twice in one epoch gives the same order twice, and
    only ``set_epoch`` (called by accelerate and Trainer) moves on.
    """

    def __init__(self, rows: int, *, seed: int, batch: int = 1, lengths: NDArray[np.int32] | None = None) -> None:
        if rows < 1 or batch < 1:
            raise ValueError(f"rows and batch must be at least 1, and are {rows} and {batch}")
        if lengths is not None and len(lengths) != rows:
            raise ValueError(f"{len(lengths)} lengths were given for {rows} rows")
        self.rows, self.seed, self.batch, self.lengths = rows, seed, batch, lengths
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Take the order of ``epoch`` (from 0) the next time the sampler is iterated."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[int]:
        order = self._order()
        for start in range(0, self.rows, _SLICE):
            yield from order[start : start + _SLICE].tolist()

    def _order(self) -> NDArray[np.int64]:
        random = np.random.default_rng([self.seed, self.epoch])
        order = random.permutation(self.rows)
        if self.lengths is None:
            return order
        batches = self.rows // self.batch
        grouped, rest = np.split(order, [batches * self.batch])
        for start in range(0, len(grouped), POOL * self.batch):
            pool = grouped[start : start + POOL * self.batch]
            pool[:] = pool[np.argsort(self.lengths[pool], kind="stable")]
        shuffled = grouped.reshape(batches, self.batch)[random.permutation(batches)]
        return np.concatenate([shuffled.ravel(), rest])
