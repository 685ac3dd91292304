"""Confidence intervals by the bootstrap over documents.

Tokens of one document are alike, so documents are drawn anew and not tokens. Every measure here is a function of sums
over tokens, so a document enters by its sums.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
RESAMPLES = 9_999

Statistic = Callable[..., NDArray[np.float64]]


def by_document(documents: Sequence[int] | NDArray[Any], values: NDArray[Any]) -> NDArray[np.float64]:
    """Sums of ``values`` (examples first) over the examples of each document, in ascending order of the documents."""
    _, index = np.unique(np.asarray(documents), return_inverse=True)
    sums = np.zeros((int(index.max()) + 1, *values.shape[1:]))
    np.add.at(sums, index, values)
    return sums


def bootstrap_interval(statistic: Statistic, *sums: NDArray[np.float64]) -> list[float] | None:
    """The 95 % percentile interval of ``statistic(total, ...)`` where the totals are sums over documents drawn anew.

    ``sums``: a value a document in each. ``statistic`` takes arrays of totals, one entry a resample. None for fewer than two
    documents, and where the statistic is undefined in more than one resample in a hundred; a few such are left out. The
    draws are the same at every call.
    """
    from scipy.stats import bootstrap

    if len(sums[0]) < 2:
        return None

    def resampled(*samples: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        return statistic(*(sample.sum(axis=axis) for sample in samples))

    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore")  # of resamples that are all alike, for which the interval is a point
        statistics = bootstrap(
            sums,
            resampled,
            paired=True,
            vectorized=True,
            n_resamples=RESAMPLES,
            batch=max(1, 2_000_000 // len(sums[0])),
            method="percentile",
            rng=np.random.default_rng(0),
        ).bootstrap_distribution
    defined = statistics[np.isfinite(statistics)]
    if len(defined) < 0.99 * RESAMPLES:
        return None
    tail = 50 * (1 - LEVEL)
    return [float(bound) for bound in np.percentile(defined, [tail, 100 - tail])]
