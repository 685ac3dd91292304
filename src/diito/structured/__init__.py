"""Data of a known causal structure: generators, each with its high-level causal model (``diito generate``). No torch here.

1. ``structure``: what a generator is: inputs, intermediate values that follow from them, an answer, and where in a row a value
   can be carried;
2. ``tables``, ``chain``, ``circuit``, ``carry``: the generators;
3. ``splits``: rows for the teacher, for training, validation and test, held-out combinations, and counterfactual pairs;
4. ``folder``: all of it in files that a recipe reads.
"""

from __future__ import annotations

import difflib

from diito.refusal import Refusal
from diito.structured.carry import Carry
from diito.structured.chain import Chain
from diito.structured.circuit import Circuit
from diito.structured.structure import Structure
from diito.structured.tables import Scrambled, Tables

STRUCTURES: dict[str, type[Structure]] = {each.name: each for each in (Tables, Scrambled, Circuit, Chain, Carry)}
"""The generators by name."""


def make_structure(name: str, *, seed: int, size: int | None = None) -> Structure:
    """The generator of that name. ``size``: what a generator takes for it, None its own default. Raises Refusal."""
    if name not in STRUCTURES:
        near = difflib.get_close_matches(name, STRUCTURES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(STRUCTURES)}"
        raise Refusal("STRUCTURE", f"there is no generator of the name {name!r}; {hint}")
    kind = STRUCTURES[name]
    return kind(seed, kind.default_size if size is None else size)
