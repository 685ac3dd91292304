"""The paper's claims, held against what was measured at this scale.

*confirmed*: every comparison that the claim makes has its 95 % interval on the claimed side of 0; *refuted*: one of them
has it on the other side; *undecided*: it was measured, and an interval holds 0 (or there is one seed and so no interval);
*untested*: a run that it needs is missing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from diito.report.metrics import METRICS, Measured
from diito.report.statistics import Difference, difference, summary
from diito.report.tables import label

_ALIGNMENTS = ("middle", "late", "full", "full-random", "full-masked", "full-cos")
_CONTROLS = ("equal-flops", "double-kl", "token-swap", "shuffled")


@dataclass(frozen=True)
class Verdict:
    """What has become of one claim."""

    claim: str
    verdict: str
    """confirmed, refuted, undecided or untested."""
    evidence: str
    """The comparisons it rests on."""


def verdicts(measured: Measured) -> list[Verdict]:
    """A verdict on each claim."""
    low = [row for row in measured.rows if "15 %" in row["group"]]
    rest = [row for row in measured.rows if row not in low]
    return [
        _against_standard(
            measured, "Every alignment beats standard distillation (perplexity)", rest, _ALIGNMENTS, "perplexity"
        ),
        _richest(measured, rest),
        _against_standard(measured, "The gains hold with 15 % of the corpus (perplexity)", low, _ALIGNMENTS, "perplexity"),
        _smallest(measured, rest),
        _against_standard(measured, "DIITO beats standard distillation on GLUE (paper: +1.77 %)", rest, ("full-cos",), "glue"),
        _against_standard(
            measured, "DIITO beats standard distillation on CoNLL F1 (paper: MIDDLE +0.38 %)", rest, ("middle",), "ner f1"
        ),
        _against_standard(
            measured, "DIITO beats standard distillation on SQuAD EM (paper: +2.46 %)", rest, ("full",), "squad em"
        ),
        _better_than_bert(measured),
        _share_of_distilbert(measured),
        Verdict("Small batches work better on small corpora", "untested", "no grid varies the batch"),
        *(_beats_control(measured, rest, control) for control in _CONTROLS),
    ]


def _against_standard(
    measured: Measured, claim: str, rows: Sequence[dict[str, Any]], methods: Sequence[str], metric: str
) -> Verdict:
    """Whether every row of these methods that the grid has beats the standard row of its group."""
    found: list[tuple[str, Difference | None]] = []
    for row in rows:
        standard = measured.standard_of(row)
        if row["method"] in methods and standard is not None and measured.expected(row["name"], metric):
            values = (measured.values(each["name"], metric) for each in (row, standard))
            found.append((label(row), difference(*values)))
    return _judge(claim, found, metric)


def _richest(measured: Measured, rows: Sequence[dict[str, Any]]) -> Verdict:
    """Whether FULL beats MIDDLE and LATE."""
    found = [
        (f"FULL − {label(other)}", difference(*(measured.values(each["name"], "perplexity") for each in (full, other))))
        for full in rows
        if full["method"] == "full"
        for other in rows
        if other["group"] == full["group"] and other["method"] in ("middle", "late")
    ]
    return _judge("The richest alignment is best (perplexity: FULL before MIDDLE and LATE)", found, "perplexity")


def _smallest(measured: Measured, rows: Sequence[dict[str, Any]]) -> Verdict:
    """Whether FULL's gain is larger in the shallower of two students."""
    claim = "The smallest students gain most (GLUE, FULL against standard)"
    gains: list[tuple[int, dict[Any, float]]] = []
    for row in rows:
        standard = measured.standard_of(row)
        if row["method"] == "full" and standard is not None:
            ours, theirs = (measured.values(each["name"], "glue") for each in (row, standard))
            gains.append((row["layers"], {run: ours[run] - theirs[run] for run in ours if run in theirs}))
    gains.sort(key=lambda gain: gain[0])
    found = [
        (f"gain of {small} − gain of {large} layers", difference(ours, theirs))
        for (small, ours), (large, theirs) in itertools.pairwise(gains)
    ]
    return _judge(claim, found, "glue")


def _better_than_bert(measured: Measured) -> Verdict:
    """CoNLL F1 of the best student against BERT's, by means: BERT has no distillation seeds to pair with."""
    claim = "A DIITO student reaches BERT-base on CoNLL F1 (paper: +0.05 %)"
    return _by_means(measured, claim, "ner f1", "bert", share=1.0)


def _share_of_distilbert(measured: Measured) -> Verdict:
    claim = "97 % of DistilBERT's GLUE with 97 % less data"
    return _by_means(measured, claim, "glue", "distilbert", share=0.97)


def _by_means(measured: Measured, claim: str, metric: str, reference: str, *, share: float) -> Verdict:
    other = next((row for row in measured.rows if row["paper"] == reference), None)
    target = summary(measured.values(other["name"], metric).values()) if other else None
    means = [
        (found.mean, label(row))
        for row in measured.rows
        if row["method"] in _ALIGNMENTS
        and row["layers"] == 6
        and (found := summary(measured.values(row["name"], metric).values()))
    ]
    if target is None or not means:
        return Verdict(claim, "untested", "not all runs that it needs are there")
    best, name = max(means)
    evidence = f"{name} {best:.2f}, {reference} {target.mean:.2f}: {best / target.mean:.1%} (means; no interval)"
    return Verdict(claim, "confirmed" if best >= share * target.mean else "refuted", evidence)


def _beats_control(measured: Measured, rows: Sequence[dict[str, Any]], control: str) -> Verdict:
    """Ours, not the paper's: whether the gain is more than what comes with an intervention."""
    names = {
        "equal-flops": "standard distillation with as many FLOPs",
        "double-kl": "standard distillation with the KL weight doubled",
        "token-swap": "token swap",
        "shuffled": "a shuffled alignment",
    }
    found = [
        (f"FULL − {label(other)}", difference(*(measured.values(each["name"], "perplexity") for each in (full, other))))
        for full in rows
        if full["method"] == "full"
        for other in rows
        if other["group"] == full["group"] and other["method"] == control
    ]
    return _judge(f"Control: DIITO FULL beats {names[control]} (perplexity)", found, "perplexity")


def _judge(claim: str, found: Iterable[tuple[str, Difference | None]], metric: str) -> Verdict:
    found = list(found)
    if not found or any(each is None for _, each in found):
        missing = [name for name, each in found if each is None]
        return Verdict(claim, "untested", f"no run of {', '.join(missing)}" if missing else "no such rows in the grid")
    digits = METRICS[metric].digits
    signs = [each.sign(METRICS[metric].better) for _, each in found if each is not None]
    evidence = "; ".join(f"{name}: {_shown(each, digits)}" for name, each in found if each is not None)
    verdict = "refuted" if -1 in signs else "undecided" if 0 in signs else "confirmed"
    return Verdict(claim, verdict, evidence)


def _shown(found: Difference, digits: int) -> str:
    interval = found.interval and f" [{found.interval[0]:+.{digits}f}, {found.interval[1]:+.{digits}f}]"
    return f"{found.mean:+.{digits}f}{interval or ''}, {len(found.by_seed)} seed{'s' if len(found.by_seed) > 1 else ''}"
