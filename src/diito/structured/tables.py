"""Two intermediate values looked up in random tables, and an answer looked up by both: G[F1[a, b], F2[c, d]]."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence

from diito.structured.structure import ANSWER, Structure, Values, balanced_table

_MARK = "="
_ORDERS = tuple(itertools.permutations(range(4)))


class Tables(Structure):
    """``a b = c d = [MASK]``: I1 = F1[a, b], I2 = F2[c, d], the answer G[I1, I2]; ``size`` words and values."""

    name = "tables"
    default_size = 7
    largest = 20

    def draw(self, draws: random.Random) -> None:
        size = self.size
        self.first, self.second, self.last = (balanced_table(size, size, size, draws) for _ in range(3))
        self.sizes = (size,) * 4
        self.variables = {
            "I1": {"span": [0, 1, 2], "words": [0, 1], "mark": [2]},
            "I2": {"span": [3, 4, 5], "words": [3, 4], "mark": [5]},
        }
        self.combination = ("I1", "I2")

    def words(self, inputs: Sequence[int]) -> list[str]:
        a, b, c, d = (self.answer_word(value) for value in inputs)
        return [a, b, _MARK, c, d, _MARK]

    def solve(self, inputs: Sequence[int], fixed: Mapping[str, int] | None = None) -> Values:
        a, b, c, d = inputs[:4]
        values = {"I1": self.first[a][b], "I2": self.second[c][d]} | dict(fixed or {})
        return values | {ANSWER: self.last[values["I1"]][values["I2"]]}

    def answer_word(self, answer: int) -> str:
        return f"w{answer}"


class Scrambled(Tables):
    """The same with other words for a, b, c and d, in any order, before two marks: ``c a d b = = [MASK]``.

    No place of a row is that of a value: a model has to carry it at the words that it follows from, wherever they stand, at the
    marks, which are the same in all rows, or at the mask.
    """

    name = "scrambled"

    def draw(self, draws: random.Random) -> None:
        super().draw(draws)
        self.sizes = (*self.sizes, len(_ORDERS))
        slots = {"first mark": [4], "second mark": [5], "marks": [4, 5]}
        self.variables = {
            variable: {"words": [f"{role}{value}" for role in roles for value in range(self.size)], **slots}
            for variable, roles in (("I1", "ab"), ("I2", "cd"))
        }

    def words(self, inputs: Sequence[int]) -> list[str]:
        roles = [f"{role}{value}" for role, value in zip("abcd", inputs[:4], strict=True)]
        return [*(roles[place] for place in _ORDERS[inputs[4]]), _MARK, _MARK]
