"""A boolean circuit: a full binary tree of random gates over bits."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from diito.structured.structure import ANSWER, Structure, Values

_GATES = (0b1000, 0b1110, 0b0110, 0b0111, 0b0001, 0b1001, 0b0010, 0b0100, 0b1011, 0b1101)
"""The truth tables that depend on both inputs: bit 2 * a + b is the output."""
_FEWEST = 0.3
"""The least share of rows for either answer: a circuit that nearly always says the same is drawn again."""
_PROBES = 1_000


class Circuit(Structure):
    """``1 0 = 1 1 = 0 0 = 0 1 = [MASK]``: the output of a tree of gates over 2 ** depth bits; ``size`` is the depth, 2 to 4.

    A gate is a variable, but for the last one, whose output is the answer. A mark stands behind each pair of bits. What is held
    out are combinations of the outputs of the lowest gates (of the lowest but one where there are eight).
    """

    name = "circuit"
    default_size = 3
    largest = 4

    def draw(self, draws: random.Random) -> None:
        depth = self.size
        self.sizes = (2,) * 2**depth
        self.variables = {
            _name(level, gate): _carriers(level, gate) for level in range(1, depth) for gate in range(2 ** (depth - level))
        }
        level = max(1, depth - 2)
        self.combination = tuple(_name(level, gate) for gate in range(2 ** (depth - level)))
        while True:
            self.gates = {
                (level, gate): draws.choice(_GATES) for level in range(1, depth + 1) for gate in range(2 ** (depth - level))
            }
            probes = [[draws.randrange(2) for _ in self.sizes] for _ in range(_PROBES)]
            share = sum(self.solve(bits)[ANSWER] for bits in probes) / _PROBES
            if _FEWEST <= share <= 1 - _FEWEST:
                return

    def words(self, inputs: Sequence[int]) -> list[str]:
        pairs = zip(inputs[::2], inputs[1::2], strict=True)
        return [word for pair in pairs for word in (*map(self.answer_word, pair), "=")]

    def solve(self, inputs: Sequence[int], fixed: Mapping[str, int] | None = None) -> Values:
        values: Values = {}
        fixed, below = fixed or {}, list(inputs)
        for level in range(1, self.size + 1):
            pairs = zip(below[::2], below[1::2], strict=True)
            outputs = [self.gates[level, gate] >> (2 * a + b) & 1 for gate, (a, b) in enumerate(pairs)]
            below = [fixed.get(_name(level, gate), output) for gate, output in enumerate(outputs)]
            if level < self.size:
                values |= {_name(level, gate): output for gate, output in enumerate(below)}
        return values | {ANSWER: below[0]}

    def answer_word(self, answer: int) -> str:
        return str(answer)


def _name(level: int, gate: int) -> str:
    return f"gate {level}.{gate}"


def _carriers(level: int, gate: int) -> dict[str, list[int]]:
    """All that stands under a gate, the mark at its end, and of a gate over gates all its marks."""
    pairs = 2 ** (level - 1)
    start, end = 3 * pairs * gate, 3 * pairs * (gate + 1)
    carriers = {"span": list(range(start, end)), "mark": [end - 1]}
    return carriers if pairs == 1 else carriers | {"marks": list(range(start + 2, end, 3))}
