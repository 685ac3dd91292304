"""Which rows a teacher sees, which a student, and which neither of its splits: drawn by the seed."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diito.refusal import Refusal
from diito.structured.structure import ANSWER, Structure, Values

MOST_ROWS = 20_000
"""Rows for the teacher; where there are more, so many are drawn."""
MEASURED = 400
"""Rows of validation, test and held, where there are as many."""
_FEWEST = 20
"""Rows of a split with which nothing could be told."""
PAIRS = 400
"""Counterfactual pairs for each variable."""
HELD_SHARE = 1 / 8
"""Of the combinations, those that are held out."""

Inputs = tuple[int, ...]


@dataclass(frozen=True)
class Pair:
    """A question to a model: the base with a variable set to what it is in the source."""

    base: Inputs
    source: Inputs
    variable: str
    answer: int
    """The right one under the intervention."""
    unchanged: int
    """The right one for the base as it is."""
    new: bool
    """Whether the intervention makes a combination that is held out."""


@dataclass(frozen=True)
class Splits:
    """The rows of one seed."""

    teacher: list[Inputs]
    """All rows, or :data:`MOST_ROWS` of them."""
    train: list[Inputs]
    validation: list[Inputs]
    test: list[Inputs]
    """Unseen rows of combinations that train has."""
    held: list[Inputs]
    """Rows of the combinations that train, validation and test never have."""
    cells: list[tuple[int, ...]]
    """These combinations."""
    pairs: list[Pair]


def make_splits(structure: Structure, *, rows: int) -> Splits:
    """Draw ``rows`` rows to train on and all the others. Raises Refusal where the structure has too few."""
    draws = random.Random(f"splits {structure.name} {structure.size} {structure.seed}")
    numbers = draws.sample(range(structure.rows), min(structure.rows, MOST_ROWS))
    every = [structure.inputs(number) for number in numbers]
    combinations = {inputs: structure.cell(structure.solve(inputs)) for inputs in every}
    known = sorted(set(combinations.values()))
    cells = draws.sample(known, max(1, round(HELD_SHARE * len(known))))
    held_cells = set(cells)
    held = [inputs for inputs in every if combinations[inputs] in held_cells]
    seen = [inputs for inputs in every if combinations[inputs] not in held_cells]
    measured = min(MEASURED, (len(seen) - rows) // 2)
    if measured < _FEWEST:
        sentence = f"{rows} of {len(seen):,} rows leave too few to measure on; give at most {max(0, len(seen) - 2 * _FEWEST):,}"
        raise Refusal("--rows", sentence)
    test, validation, train = (
        seen[:measured],
        seen[measured : 2 * measured],
        seen[2 * measured : 2 * measured + rows],
    )
    pairs = _pairs(structure, test, held_cells, draws)
    return Splits(every, train, validation, test, held[:MEASURED], sorted(cells), pairs)


def _pairs(structure: Structure, rows: Sequence[Inputs], held: set[tuple[int, ...]], draws: random.Random) -> list[Pair]:
    """For each variable pairs of two rows, in which its value is another: where it is the same, nothing is asked."""
    solved = {inputs: structure.solve(inputs) for inputs in rows}
    pairs = []
    for variable in structure.variables:
        for _ in range(PAIRS):
            base, source = _differing(solved, rows, variable, draws)
            values = structure.solve(base, {variable: solved[source][variable]})
            unchanged = solved[base][ANSWER]
            pairs.append(Pair(base, source, variable, values[ANSWER], unchanged, structure.cell(values) in held))
    return pairs


def _differing(
    solved: Mapping[Inputs, Values], rows: Sequence[Inputs], variable: str, draws: random.Random
) -> tuple[Inputs, Inputs]:
    for _ in range(1_000):
        base, source = draws.sample(rows, 2)
        if solved[base][variable] != solved[source][variable]:
            return base, source
    raise Refusal("--seed", f"{variable} is the same in nearly all rows of this seed; give another")
