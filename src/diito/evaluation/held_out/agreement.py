"""How far student and teacher agree under interventions: sums by example, and the figures made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diito.evaluation.held_out.intervals import bootstrap_interval, by_document
from diito.method.alignment import AlignedPair
from diito.progress import bar

STUDENT = "student"
REFERENCES = {
    "no swap": "the student's own prediction, nothing swapped in it",
    "random donor": "the student with another source than the teacher's",
    "undistilled": "the student as it was before training",
}
"""What a student is compared with, under the teacher's same interventions."""

QUANTITIES = ("tokens", "agree", "changed", "agree_where_changed", "divergence")
"""What is summed: tokens; those with the same most likely word in both models; those whose word the swap changed in the
teacher; those of both kinds; KL(teacher ‖ student) in nats."""

_RATIOS = {
    "iia": ("agree", "tokens"),
    "efficacy": ("changed", "tokens"),
    "counterfactual_kl": ("divergence", "tokens"),
    "effective_iia": ("agree_where_changed", "changed"),
}
"""The figures, each a sum over another."""


@dataclass(frozen=True)
class Counts:
    """Sums over the predicted tokens of each example that the swap can change."""

    names: tuple[str, ...]
    """``student``, then the references."""
    pairs: tuple[AlignedPair, ...]
    sums: NDArray[np.float64]
    """[names, pairs, examples, unswapped and swapped tokens, :data:`QUANTITIES`]."""
    documents: NDArray[np.int64]
    """[examples]: the document of each."""
    unswapped: NDArray[np.float64] | None = None
    """[examples, 2]: predicted tokens, and those with the same most likely word in student and teacher, where nothing is
    swapped in either; None where it was not asked for."""

    def as_json(self) -> dict[str, Any]:
        """The same as lists; the last axis is named in ``quantities``."""
        return {
            "names": list(self.names),
            "pairs": [{"student": list(pair.student), "teacher": list(pair.teacher)} for pair in self.pairs],
            "quantities": list(QUANTITIES),
            "documents": self.documents.tolist(),
            "sums": [[np.round(pair, 5).tolist() for pair in name] for name in self.sums],
        }


def means(sums: NDArray[np.float64]) -> dict[str, float]:
    """The named means of one row of :data:`QUANTITIES`; one over no token at all has no value and is left out."""
    total = dict(zip(QUANTITIES, sums.tolist(), strict=True))
    return {"tokens": int(total["tokens"])} | {
        name: total[part] / total[whole] for name, (part, whole) in _RATIOS.items() if total[whole]
    }


def agreement_numbers(counts: Counts) -> dict[str, Any]:
    """The share of predicted tokens on which student and teacher have the same most likely word, nothing swapped in either.

    With its 95 % interval over documents.
    """
    assert counts.unswapped is not None
    tokens, agree = by_document(counts.documents, counts.unswapped).T
    return {"agreement": float(agree.sum() / tokens.sum()), "interval": bootstrap_interval(np.divide, agree, tokens)}


def interchange_numbers(counts: Counts) -> dict[str, Any]:
    """For the student and each reference: the means over all pairs with 95 % intervals over documents, and each pair's means,
    the student's with intervals at unswapped tokens.

    ``{name: {"unswapped": {"iia": .., "iia_interval": [..], ..}, "swapped": .., "pairs": [..]}}``.
    """
    numbers: dict[str, Any] = {}
    for index, name in enumerate(counts.names):
        of_documents = by_document(counts.documents, counts.sums[index].sum(axis=0))
        numbers[name] = {
            side: {**means(of_documents[:, place].sum(0)), **_intervals(of_documents[:, place])}
            for place, side in enumerate(("unswapped", "swapped"))
        }
        numbers[name]["pairs"] = [
            _pair_numbers(pair, sums, None if name != STUDENT else counts.documents)
            for pair, sums in bar(list(zip(counts.pairs, counts.sums[index], strict=True)), f"intervals of {name}", "pairs")
        ]
    return numbers


def _pair_numbers(pair: AlignedPair, sums: NDArray[np.float64], documents: NDArray[np.int64] | None) -> dict[str, Any]:
    """From one pair's sums [examples, unswapped and swapped, quantities]; intervals where the documents are given."""
    unswapped: dict[str, Any] = dict(means(sums[:, 0].sum(0)))
    if documents is not None:
        unswapped.update(_intervals(by_document(documents, sums[:, 0])))
    return {
        "student": list(pair.student),
        "teacher": list(pair.teacher),
        "unswapped": unswapped,
        "swapped": means(sums[:, 1].sum(0)),
    }


def _intervals(sums: NDArray[np.float64]) -> dict[str, list[float] | None]:
    """From sums [documents, quantities]."""
    of = dict(zip(QUANTITIES, sums.T, strict=True))
    return {
        f"{name}_interval": bootstrap_interval(np.divide, of[part], of[whole])
        for name, (part, whole) in _RATIOS.items()
        if of[whole].any()
    }
