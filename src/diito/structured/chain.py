"""A chain of pointers: from a place, three times, to where the pointer that is named leads."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from diito.structured.structure import ANSWER, Structure, Values, balanced_table

_HOPS = 3


class Chain(Structure):
    """``s0 p1 = p2 = p3 = [MASK]``: where three pointers lead from a place, one after another; ``size`` places and pointers.

    Where a pointer leads is drawn for each place. (With permutations no three of the four words would say anything of the
    answer, and a small model does not begin to learn.) The last pointer is a variable too, so that what is held out are pairs
    of the place before it and the pointer.
    """

    name = "chain"
    default_size = 7
    largest = 20

    def draw(self, draws: random.Random) -> None:
        self.pointers = balanced_table(self.size, self.size, self.size, draws)
        self.sizes = (self.size,) * (1 + _HOPS)
        self.variables = {
            "after 1": {"span": [0, 1, 2], "mark": [2]},
            "after 2": {"span": [0, 1, 2, 3, 4], "mark": [4], "last span": [2, 3, 4]},
            "pointer 3": {"word": [5], "span": [5, 6], "mark": [6]},
        }
        self.combination = ("after 2", "pointer 3")

    def words(self, inputs: Sequence[int]) -> list[str]:
        first, *pointers = inputs
        return [self.answer_word(first), *(word for pointer in pointers for word in (f"p{pointer}", "="))]

    def solve(self, inputs: Sequence[int], fixed: Mapping[str, int] | None = None) -> Values:
        fixed = fixed or {}
        place, first, second, third = inputs
        values: Values = {}
        values["after 1"] = fixed.get("after 1", self.pointers[first][place])
        values["after 2"] = fixed.get("after 2", self.pointers[second][values["after 1"]])
        values["pointer 3"] = fixed.get("pointer 3", third)
        return values | {ANSWER: self.pointers[values["pointer 3"]][values["after 2"]]}

    def answer_word(self, answer: int) -> str:
        return f"s{answer}"
