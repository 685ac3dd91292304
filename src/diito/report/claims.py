"""The paper's claims, held against what was measured at this scale.

*confirmed*: every comparison that the claim makes has its 95 % interval on the claimed side of 0; *refuted*: one of them
has it on the other side; *undecided*: an interval holds 0, or there is one distillation seed and so no interval;
*untested*: the grid lacks a condition that the claim is about, or not all of its runs are done. What there is of a comparison
stands in the evidence all the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from diito.report.metrics import GLUE, METHODS, METRICS, Measured, Row, Run, is_low_resource
from diito.report.statistics import Difference, difference, difference_of, summary
from diito.tables import interval

_ALIGNMENTS = ("middle", "late", "full")
_VARIANTS = (*_ALIGNMENTS, "full-random", "full-masked", "full-cos")
_CONTROLS = {
    "equal-flops": "standard distillation with as many FLOPs",
    "double-kl": "standard distillation with the KL weight doubled",
    "token-swap": "token swap",
    "shuffled": "a shuffled alignment",
}


_HELD, _SITE = "held accuracy", "site effective_iia"


@dataclass(frozen=True)
class Verdict:
    """What has become of one claim."""

    claim: str
    verdict: str
    """confirmed, refuted, undecided or untested."""
    evidence: str
    """The comparisons it rests on."""


@dataclass(frozen=True)
class Comparison:
    """One thing that a claim says is better than another."""

    name: str
    difference: Difference | None
    done: bool
    """Whether all runs of both are there."""


def verdicts(measured: Measured) -> list[Verdict]:
    """A verdict on each claim of the paper and on each control; of classifiers and taggers where it is about them too.

    Of generated data there are claims of our own.
    """
    if measured.asks_for(_HELD):
        return _of_structure(measured)
    low = [row for row in measured.rows if is_low_resource(row)]
    rest = [row for row in measured.rows if not is_low_resource(row)]
    name = METRICS[measured.main].name
    name = f"{name[0].lower()}{name[1:]}"
    on_held_out = [
        _against_standard(measured, f"Every alignment beats standard distillation ({name})", rest),
        _richest(measured, rest, name),
        _against_standard(measured, f"The gains hold with 15 % of the corpus ({name})", low),
    ]
    controls = [_beats_control(measured, rest, method, control, name) for method, control in _CONTROLS.items()]
    tuned = any(measured.asks_for(metric) for metric in ("glue", "ner f1", "squad em"))
    if measured.main != "perplexity" and not tuned:  # the other claims are about language models that are fine-tuned
        return [*on_held_out, *controls]
    beats = "DIITO beats standard distillation on"
    return [
        *on_held_out,
        _smallest(measured, rest),
        _on_a_task(measured, f"{beats} GLUE (paper: FULL+Cos +1.77 %)", rest, "full-cos", "glue"),
        _on_a_task(measured, f"{beats} CoNLL F1 (paper: MIDDLE +0.38 %)", rest, "middle", "ner f1"),
        _on_a_task(measured, f"{beats} SQuAD EM (paper: FULL +2.46 %)", rest, "full", "squad em"),
        _reaches(
            measured, "A DIITO student reaches BERT-base on CoNLL F1 (paper: MIDDLE, +0.05 %)", "middle", "ner f1", "bert"
        ),
        _reaches(measured, "97 % of DistilBERT's GLUE with 97 % less data", "full-cos", "glue", "distilbert", share=0.965),
        Verdict("Small batches work better on small corpora", "untested", "no grid varies the batch"),
        *controls,
    ]


def _of_structure(measured: Measured) -> list[Verdict]:
    """Whether a swap where a value is carried gives what every other condition of its group does not."""
    others = dict.fromkeys(row["method"] for row in measured.rows if row["method"] not in ("site", "other", "reference"))
    made = []
    for metric, method in [*((_HELD, method) for method in others), (_SITE, "token-swap")]:
        pairs = _pairs(measured.rows, "site", (method,))
        compared = [_compared(measured, row["group"], row, other, metric) for row, other in pairs]
        made.append(_judge(f"DIITO at the site beats: {METHODS[method]} ({METRICS[metric].name})", compared, metric))
    return made


def _against_standard(measured: Measured, claim: str, rows: Sequence[Row]) -> Verdict:
    """Whether every row with an alignment beats the standard row of its group, and the three alignments are there."""
    compared = [
        _compared(measured, row["title"], row, standard, measured.main)
        for row in rows
        if row["method"] in _VARIANTS and (standard := measured.standard_of(row)) is not None
    ]
    return _judge(claim, compared, measured.main, missing=_missing_alignments(rows) if rows else ())


def _richest(measured: Measured, rows: Sequence[Row], name: str) -> Verdict:
    """Whether FULL beats MIDDLE and LATE."""
    compared = [
        _compared(measured, f"FULL − {other['title']}", full, other, measured.main)
        for full, other in _pairs(rows, "full", ("middle", "late"))
    ]
    claim = f"The richest alignment is best ({name}: FULL before MIDDLE and LATE)"
    return _judge(claim, compared, measured.main, missing=_missing_alignments(rows))


def _missing_alignments(rows: Sequence[Row]) -> list[str]:
    there = {row["method"] for row in rows}
    return [method.upper() for method in _ALIGNMENTS if method not in there]


def _smallest(measured: Measured, rows: Sequence[Row]) -> Verdict:
    """Whether FULL's gain is larger in the shallower of two students."""
    gains: list[tuple[int, dict[Run, float], bool]] = []
    for full, standard in _pairs(rows, "full", ("standard",)):
        ours, theirs = (measured.values(row["name"], "glue") for row in (full, standard))
        gain = {run: ours[run] - theirs[run] for run in ours if run in theirs}
        gains.append((full["layers"], gain, all(_is_whole(measured, row, "glue") for row in (full, standard))))
    gains.sort(key=lambda gain: gain[0])
    compared = [
        Comparison(f"gain of {small} − gain of {large} layers", difference(ours, theirs), done and also)
        for (small, ours, done), (large, theirs, also) in itertools.pairwise(gains)
    ]
    missing = [] if compared else ["students of two depths"]
    return _judge("The smallest students gain most (GLUE, FULL against standard)", compared, "glue", measured, missing=missing)


def _on_a_task(measured: Measured, claim: str, rows: Sequence[Row], method: str, metric: str) -> Verdict:
    """Whether the method beats the standard row of its group."""
    compared = [
        _compared(measured, row["title"], row, standard, metric)
        for row, standard in _pairs(rows, method, ("standard",))
        if measured.expected(row["name"], metric)
    ]
    return _judge(claim, compared, metric, measured)


def _reaches(measured: Measured, claim: str, method: str, metric: str, reference: str, *, share: float = 1.0) -> Verdict:
    """Whether a student of 6 layers has that share of a reference's mean, which has no distillation seeds to pair with."""
    students = [row for row in measured.rows if row["method"] == method and row["layers"] == 6]
    references = [row for row in measured.rows if row["paper"] == reference]
    compared = []
    for student, other in itertools.product(students, references):
        target = summary(measured.values(other["name"], metric).values())
        ours = measured.values(student["name"], metric)
        against = difference(ours, dict.fromkeys(ours, share * target.mean)) if target else None
        name = f"{student['title']} − {other['title']}" + (f" × {share}" if share < 1 else "")
        compared.append(Comparison(name, against, all(_is_whole(measured, row, metric) for row in (student, other))))
    return _judge(claim, compared, metric, measured)


def _beats_control(measured: Measured, rows: Sequence[Row], method: str, control: str, name: str) -> Verdict:
    """Ours, not the paper's: whether the gain is more than what comes with an intervention."""
    compared = [
        _compared(measured, f"FULL − {other['title']}", full, other, measured.main)
        for full, other in _pairs(rows, "full", (method,))
    ]
    return _judge(f"Control: DIITO FULL beats {control} ({name})", compared, measured.main)


def _pairs(rows: Sequence[Row], method: str, others: Sequence[str]) -> list[tuple[Row, Row]]:
    """The rows of a method with those of other methods in the same group."""
    return [
        (row, other)
        for row in rows
        if row["method"] == method
        for other in rows
        if other["group"] == row["group"] and other["method"] in others
    ]


def _compared(measured: Measured, name: str, row: Row, other: Row, metric: str) -> Comparison:
    done = all(_is_whole(measured, each, metric) for each in (row, other))
    return Comparison(name, difference_of(measured, row, other, metric), done)


def _is_whole(measured: Measured, row: Row, metric: str) -> bool:
    """Whether a row has all the runs that the grid asks for, and any."""
    return 0 < len(measured.values(row["name"], metric)) == measured.expected(row["name"], metric)


def _judge(
    claim: str, compared: Sequence[Comparison], metric: str, measured: Measured | None = None, *, missing: Sequence[str] = ()
) -> Verdict:
    """The verdict on a claim that makes these comparisons. ``measured``: to say how much of GLUE there is."""
    better, digits = METRICS[metric].better, METRICS[metric].digits
    parts = [f"{each.name}: {_shown(each.difference, digits)}" for each in compared if each.difference is not None]
    if not compared or missing:
        parts.append(f"the grid has no {', '.join(missing)}" if missing else "the grid has no such rows")
    elif unfinished := [each.name for each in compared if not each.done]:
        parts.append(f"runs are missing: {', '.join(unfinished)}")
    if metric == "glue" and measured is not None and 0 < len(measured.tasks()) < len(GLUE):
        parts.append(f"{len(measured.tasks())} of {len(GLUE)} tasks")
    signs = {each.difference.sign(better) for each in compared if each.difference is not None}
    if not compared or missing or not all(each.done and each.difference is not None for each in compared):
        verdict = "untested"
    else:
        verdict = "refuted" if -1 in signs else "undecided" if 0 in signs else "confirmed"
    return Verdict(claim, verdict, "; ".join(parts))


def _shown(compared: Difference, digits: int) -> str:
    bounds = compared.interval and f" {interval(compared.interval, digits, sign='+')}"
    return f"{compared.mean:+.{digits}f}{bounds or ''}, {len(compared.by_seed)} seed{'s' if len(compared.by_seed) > 1 else ''}"
