"""What a generator is: a structural causal model over rows of words, and the spans of a row that can carry its values."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from diito.refusal import Refusal

ANSWER = "answer"
"""The variable that is asked for."""
MASK = "[MASK]"
"""The word that stands for the answer, the last of a row."""
Values = dict[str, int]
"""Variables with their values."""
Span = Sequence[int] | Sequence[str]
"""Positions, counted from 0, or words, wherever a row has them: of each row as many."""
Carriers = Mapping[str, Span]
"""Spans of a row by name."""


class Structure(ABC):
    """Rows of one length whose answer follows from variables, and these from what stands in the row.

    ``seed`` draws the tables, gates or pointers; ``size``: how large it is, in the terms of the generator.
    """

    name: ClassVar[str]
    default_size: ClassVar[int]
    smallest: ClassVar[int] = 2
    largest: ClassVar[int] = 100
    sizes: tuple[int, ...]
    """How many values each input has: a row is one of their product."""
    variables: Mapping[str, Carriers]
    """The intermediate variables, in the order in which they follow from each other, with the spans that can carry them."""
    combination: tuple[str, ...]
    """The variables of which some combinations are held out."""

    def __init__(self, seed: int, size: int) -> None:
        if not self.smallest <= size <= self.largest:
            raise Refusal("--size", f"{size} is not possible for {self.name}; give {self.smallest} to {self.largest}")
        self.seed, self.size = seed, size
        self.draw(random.Random(f"{self.name} {size} {seed}"))

    @abstractmethod
    def draw(self, draws: random.Random) -> None:
        """Draw what is particular to this seed, and set :attr:`sizes`, :attr:`variables` and :attr:`combination`."""

    @abstractmethod
    def words(self, inputs: Sequence[int]) -> list[str]:
        """The words of a row, without the one that stands for the answer."""

    @abstractmethod
    def solve(self, inputs: Sequence[int], fixed: Mapping[str, int] | None = None) -> Values:
        """All variables and :data:`ANSWER`. ``fixed``: variables that are set to a value, whatever the inputs say (an
        intervention); what follows from them is computed anew."""

    @abstractmethod
    def answer_word(self, answer: int) -> str:
        """The word of an answer."""

    @property
    def rows(self) -> int:
        """How many different rows there are."""
        total = 1
        for size in self.sizes:
            total *= size
        return total

    def inputs(self, number: int) -> tuple[int, ...]:
        """The inputs of the row of that number."""
        values = []
        for size in reversed(self.sizes):
            number, value = divmod(number, size)
            values.append(value)
        return tuple(reversed(values))

    def text(self, inputs: Sequence[int]) -> str:
        """The row in words, the mask at its end."""
        return " ".join([*self.words(inputs), MASK])

    def cell(self, values: Values) -> tuple[int, ...]:
        """The combination that a row, or a row under an intervention, belongs to."""
        return tuple(values[name] for name in self.combination)


def balanced_table(rows: int, columns: int, values: int, draws: random.Random) -> list[list[int]]:
    """A random table in which each value is as frequent as another."""
    cells = [index % values for index in range(rows * columns)]
    draws.shuffle(cells)
    return [cells[row * columns : (row + 1) * columns] for row in range(rows)]
