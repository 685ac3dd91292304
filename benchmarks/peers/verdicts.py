"""What came of a case: whether all did the same work, how many times faster ours is, which goals are met."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

from benchmarks.peers.cases import Case, Goal

TOLERANCE = {"fp32": 1e-3, "bf16": 3e-2}
"""How far a value may be from the reference's: relatively, or absolutely where it is below 1."""
DROPPED = 5e-2
"""The same with dropout, which every side draws for itself."""
CLOCKS = ("processor", "wall")


def judge(case: Case, sides: dict[str, dict[str, Any]], *, precision: str, dropout: float = 0.0) -> dict[str, Any]:
    """Completes ``sides`` and gives what is said of the whole case."""
    done = {name: side for name, side in sides.items() if side["steps"] and "missing" not in side}
    for side in done.values():
        for clock in CLOCKS:
            side[clock] = statistics.mean(step[clock] for step in side["steps"])
    reference, far = done.get(case.reference), DROPPED if dropout else TOLERANCE[precision]
    for side in done.values():
        side["agrees"] = None if reference is None else agree(side["first_values"], reference["first_values"], far)
    ours = done.get(case.ours)
    ratios = {} if ours is None else {name: compare(side, ours) for name, side in done.items() if side is not ours}
    return {"sides": sides, "ratios": ratios, "goals": [reach(goal, ours, done) for goal in case.goals]}


def agree(values: Mapping[str, float], expected: Mapping[str, float], far: float) -> bool:
    """Whether the values that both have are the same; there has to be one."""
    common = values.keys() & expected.keys()
    return bool(common) and all(math.isclose(values[name], expected[name], rel_tol=far, abs_tol=far) for name in common)


def compare(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """Their time and memory over ours: of the means, with the lowest and the highest of the rounds."""
    ratios: dict[str, Any] = {"memory": theirs["peak_bytes"] / ours["peak_bytes"]}
    for clock in CLOCKS:
        rounds = [their[clock] / our[clock] for their, our in zip(theirs["steps"], ours["steps"], strict=True)]
        ratios[clock] = {"of_means": theirs[clock] / ours[clock], "lowest": min(rounds), "highest": max(rounds)}
    return ratios


def reach(goal: Goal, ours: Mapping[str, Any] | None, done: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What a goal comes to: against the best of its sides that could take part."""
    field = "processor" if goal.measure == "time" else "peak_bytes"
    rivals = {name: done[name][field] for name in goal.over if name in done}
    if ours is None or not rivals:
        return {"goal": goal.sentence, "reached": None, "met": None, "against": None}
    best = min(rivals, key=rivals.__getitem__)
    if goal.at_least is not None:
        reached = rivals[best] / ours[field]
        met = reached >= goal.at_least
    else:
        assert goal.at_most is not None
        reached = ours[field] / rivals[best]
        met = reached <= goal.at_most
    return {"goal": goal.sentence, "reached": reached, "met": met, "against": best}
