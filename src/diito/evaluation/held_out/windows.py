"""Overlapping windows of a text, so that each token is predicted once and with many tokens before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diito.corpus import Corpus, Framing
from diito.refusal import Refusal


class Windows:
    """The blocks of a corpus as windows that begin ``stride`` tokens apart.

    A row also has ``context`` Long[]: how many of its first tokens an earlier window has predicted, or none can. Raises Refusal
    for a stride that leaves out tokens.
    """

    def __init__(self, corpus: Corpus, stride: int, framing: Framing) -> None:
        self.corpus, self.stride, self.framing = corpus, stride, framing
        self.length = corpus.statistics.longest
        self.lengths = None
        self.body = self.length - len(framing)
        if not 1 <= stride <= self.body:
            raise Refusal("stride", f"{stride} must be at least 1 and at most the {self.body} tokens of a block")
        self.begins = range(0, (len(corpus) - 1) * self.body + 1, stride)

    def __len__(self) -> int:
        return len(self.begins)

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Tensor]]:
        """These windows."""
        return [self._window(self.begins[row], first=row == 0) for row in rows]

    @property
    def documents(self) -> Any:
        """The document of each window: that of the block it begins in."""
        return np.asarray(self.corpus.documents)[np.asarray(self.begins) // self.body]

    def _window(self, begin: int, *, first: bool) -> dict[str, Tensor]:
        before, after = len(self.framing.before), self.length - len(self.framing.after)
        block, place = divmod(begin, self.body)
        blocks = self.corpus.__getitems__([block, min(block + 1, len(self.corpus) - 1)])
        bodies = torch.cat([each["input_ids"][before:after] for each in blocks])
        ids = blocks[0]["input_ids"].clone()
        ids[before:after] = bodies[place : place + self.body]
        return {"input_ids": ids, "context": torch.tensor(0 if first else before + self.body - self.stride)}
