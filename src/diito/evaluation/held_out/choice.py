"""Whether an alignment that was chosen from a map is better than the one that would be taken without it.

:func:`choose_alignment` measures, chooses and compares at once, for training.

Both are measured on the same examples under the same swaps; an alignment's score is the mean over its pairs. The interval is
that of the difference over documents drawn anew. It takes the choice as given: of many alignments that are equally good, the
best by chance looks a little better than it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from diito.evaluation.held_out.agreement import QUANTITIES, STUDENT, Counts, means
from diito.evaluation.held_out.interchange import interchange_counts
from diito.evaluation.held_out.intervals import bootstrap_interval, by_document
from diito.evaluation.held_out.maps import all_pairs, best_monotone, goodness
from diito.evaluation.held_out.text import HeldOut
from diito.method.alignment import AlignedPair, Alignment
from diito.method.positions import PositionRule
from diito.models.layered import Layered

_RATIOS = {
    "iia": ("agree", "tokens", 1),
    "effective_iia": ("agree_where_changed", "changed", 1),
    "counterfactual_kl": ("divergence", "tokens", -1),
}
"""What each score is a ratio of, and the sign by which more is better."""
EXAMPLES = 200
"""Of the held-out text so many at most, spread over it, choose an alignment while training."""


@dataclass(frozen=True)
class Choice:
    """The alignment to go on with, and what speaks for it."""

    alignment: Alignment
    divergence: float | None
    """Its counterfactual KL at unswapped tokens in nats, the mean over its pairs; None where no token was counted."""
    gain: float
    """By how much less that is than the one's before; 0 where that is kept."""
    pairs: list[dict[str, Any]] = field(default_factory=list)
    """The map that it was chosen from, as ``maps.heat_map`` draws it."""


def choose_alignment(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    present: Alignment,
    held_out: HeldOut,
    *,
    top: bool,
    rule: PositionRule,
    share: float,
    special_ids: Sequence[int] | None,
) -> Choice:
    """The monotone alignment with the least counterfactual KL, where it is seen to be better than ``present``; else that one.

    ``top``: whether the student's last layer is aligned. The criterion is that of ``diito align``.
    """
    depth, teacher_depth = Layered(student).depth, Layered(teacher).depth
    pairs = all_pairs(depth if top else depth - 1, teacher_depth)
    limit = EXAMPLES if held_out.limit is None else min(held_out.limit, EXAMPLES)
    sample = dataclasses.replace(held_out, limit=limit)
    counts = interchange_counts(
        student, teacher, [*pairs, *present.pairs], sample, rule=rule, share=share, special_ids=special_ids
    )
    every, now = _part(counts, 0, len(pairs)), _part(counts, len(pairs), None)
    before = _divergence(now)
    measured = _unswapped(every)
    scores = goodness(measured, "counterfactual_kl")
    if before is None or np.isnan(scores).any():  # no unswapped token that a swap can change
        return Choice(present, before, 0.0, measured)
    teachers = best_monotone(scores)
    chosen = Alignment(AlignedPair([ours], [theirs]) for ours, theirs in enumerate(teachers))
    compared = compare_alignments(every.as_json(), now.as_json(), teachers, "counterfactual_kl")
    if chosen == present or compared["better"] != "chosen":
        return Choice(present, before, 0.0, measured)
    return Choice(chosen, before - compared["difference"], compared["difference"], measured)


def _part(counts: Counts, start: int, stop: int | None) -> Counts:
    """Some of the pairs."""
    return dataclasses.replace(counts, pairs=counts.pairs[start:stop], sums=counts.sums[:, start:stop])


def _unswapped(counts: Counts) -> list[dict[str, Any]]:
    """The student's means of each pair at unswapped tokens, as a map holds them."""
    return [
        {"student": list(pair.student), "teacher": list(pair.teacher), "unswapped": means(sums[:, 0].sum(0))}
        for pair, sums in zip(counts.pairs, counts.sums[0], strict=True)
    ]


def _divergence(counts: Counts) -> float | None:
    values = [pair["unswapped"].get("counterfactual_kl") for pair in _unswapped(counts)]
    return None if None in values else float(np.mean(values))


def compare_alignments(
    chosen: Mapping[str, Any], default: Mapping[str, Any], teachers: Sequence[int], score: str
) -> dict[str, Any]:
    """The chosen alignment's score minus the default's, at unswapped tokens, with its 95 % interval.

    ``chosen``, ``default``: the counts of a map and of the default alignment, as ``Counts.as_json`` gives them. ``teachers``:
    the teacher layer of each student layer. ``difference`` is positive where the chosen one is better; ``better`` is "chosen"
    or "default", or "undecided" where ``interval`` contains 0 or is None, as it is for a single document.
    """
    theirs = {(pair["student"][0], pair["teacher"][0]): index for index, pair in enumerate(chosen["pairs"])}
    taken = [theirs[pair] for pair in enumerate(teachers)]
    ours = _sums(chosen, score)[taken]
    others = _sums(default, score)
    sign, count = _RATIOS[score][2], len(ours)
    parts = [part for pair in (*ours, *others) for part in pair]

    def difference(*totals: NDArray[np.float64]) -> NDArray[np.float64]:
        ratios = [totals[place] / totals[place + 1] for place in range(0, len(totals), 2)]
        mean, other = (np.mean(part, axis=0) for part in (ratios[:count], ratios[count:]))
        return np.asarray(sign * (mean - other))

    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(difference(*(part.sum(keepdims=True) for part in parts)).item())
    interval = bootstrap_interval(difference, *parts) if np.isfinite(value) else None
    return {
        "score": score,
        "difference": value if np.isfinite(value) else None,
        "interval": interval,
        "better": _better(interval),
    }


def _better(interval: list[float] | None) -> str:
    if interval is None or interval[0] <= 0 <= interval[1]:
        return "undecided"
    return "chosen" if interval[0] > 0 else "default"


def _sums(counts: Mapping[str, Any], score: str) -> NDArray[np.float64]:
    """What a score is made of, by document: [pairs, numerator and denominator, documents]."""
    student = np.asarray(counts["sums"][counts["names"].index(STUDENT)])[:, :, 0]
    columns = [QUANTITIES.index(name) for name in _RATIOS[score][:2]]
    return np.stack([by_document(counts["documents"], pair[:, columns]).T for pair in student])
