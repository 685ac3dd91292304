"""Addition of two numbers of two digits, of which the second digit of the sum is asked for: it needs the carried one."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from diito.structured.structure import ANSWER, Structure, Values


class Carry(Structure):
    """``a1 a0 + b1 b0 = [MASK]``: (a1 + b1 + carry) mod base, carry = a0 + b0 >= base; ``size`` is the base.

    The words of the digits are drawn by the seed, so that seeds differ.
    """

    name = "carry"
    default_size = 7
    smallest = 3
    largest = 20

    def draw(self, draws: random.Random) -> None:
        self.digits = draws.sample(range(self.size), self.size)
        self.sizes = (self.size,) * 4
        self.variables = {
            "carry": {"digits": [1, 4], "digits and marks": [1, 2, 4, 5], "marks": [2, 5], "equals": [5]},
            "upper": {"digits": [0, 3], "digits and marks": [0, 2, 3, 5], "marks": [2, 5], "equals": [5]},
        }
        self.combination = ("upper", "carry")

    def words(self, inputs: Sequence[int]) -> list[str]:
        a1, a0, b1, b0 = (self.answer_word(value) for value in inputs)
        return [a1, a0, "+", b1, b0, "="]

    def solve(self, inputs: Sequence[int], fixed: Mapping[str, int] | None = None) -> Values:
        a1, a0, b1, b0 = inputs
        values = {"carry": int(a0 + b0 >= self.size), "upper": (a1 + b1) % self.size} | dict(fixed or {})
        return values | {ANSWER: (values["upper"] + values["carry"]) % self.size}

    def answer_word(self, answer: int) -> str:
        return f"d{self.digits[answer]}"
