"""Whether an alignment that was chosen from a map is better than the one that would be taken without it.

Both are measured on the same examples under the same swaps; an alignment's score is the mean over its pairs. The interval is
that of the difference over documents drawn anew. It takes the choice as given: of many alignments that are equally good, the
best by chance looks a little better than it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diito.evaluation.held_out.agreement import QUANTITIES, STUDENT
from diito.evaluation.held_out.intervals import bootstrap_interval, by_document

_RATIOS = {
    "iia": ("agree", "tokens", 1),
    "effective_iia": ("agree_where_changed", "changed", 1),
    "counterfactual_kl": ("divergence", "tokens", -1),
}
"""What each score is a ratio of, and the sign by which more is better."""


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
