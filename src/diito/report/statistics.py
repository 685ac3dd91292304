"""Means, and differences from the standard condition whose intervals respect how runs are nested.

Fine-tuning seeds stand within distillation seeds: the five fine-tunings of one student share what its distillation was
given by chance, so they are not five independent looks at the method. The independent unit is the distillation seed.
Conditions of one seed share rows and masks, so they are compared in pairs:

1. for each distillation seed, the difference of the two conditions is taken, averaged over the fine-tuning seeds both have;
2. the interval is Student's t of those differences, with one degree of freedom fewer than there are distillation seeds.

With three seeds that factor is 4.3: three runs cannot say more.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diito.evaluation.held_out.intervals import LEVEL
from diito.report.metrics import Measured, Row, Run


@dataclass(frozen=True)
class Summary:
    """Some runs of one condition."""

    mean: float
    deviation: float | None
    """Sample standard deviation over all runs; None for a single one."""


@dataclass(frozen=True)
class Difference:
    """A condition minus the standard one."""

    mean: float
    relative: float | None
    """Share of the standard condition's mean over the same runs; None where that is 0."""
    interval: tuple[float, float] | None
    """95 %; None for a single distillation seed."""
    by_seed: dict[int | None, float]
    """The difference of each distillation seed."""

    def sign(self, better: int) -> int:
        """1: the interval lies on the better side of 0; -1: on the worse; 0: neither, or there is none."""
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return 0
        return better if self.mean > 0 else -better


def summary(values: Iterable[float]) -> Summary | None:
    """Mean and standard deviation; None of nothing."""
    numbers = list(values)
    if not numbers:
        return None
    return Summary(statistics.fmean(numbers), statistics.stdev(numbers) if len(numbers) > 1 else None)


def difference(ours: Mapping[Run, float], standard: Mapping[Run, float]) -> Difference | None:
    """``ours`` minus ``standard`` over the runs that both have; None where there are none."""
    shared = [run for run in ours if run in standard]
    if not shared:
        return None
    by_seed: dict[int | None, list[tuple[float, float]]] = {}
    for run in shared:
        by_seed.setdefault(run[0], []).append((ours[run], standard[run]))
    differences = {seed: statistics.fmean(a - b for a, b in pairs) for seed, pairs in by_seed.items()}
    base = statistics.fmean(statistics.fmean(b for _, b in pairs) for pairs in by_seed.values())
    mean = statistics.fmean(differences.values())
    return Difference(mean, mean / base if base else None, t_interval(list(differences.values())), differences)


def difference_of(measured: Measured, row: Row, other: Row, metric: str) -> Difference | None:
    """``row`` minus ``other`` on a figure."""
    return difference(measured.values(row["name"], metric), measured.values(other["name"], metric))


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Student's 95 % interval of the mean; None of fewer than two values."""
    from scipy.stats import ttest_1samp

    if len(values) < 2:
        return None
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore")  # of values that are all alike, for which the interval is a point
        bounds = ttest_1samp(values, 0.0).confidence_interval(LEVEL)
    return float(bounds.low), float(bounds.high)
