"""What the paper reports: mean and, where it is known, standard deviation.

Source: Wu et al. 2022, Tables 1 and 2, Figure 2, and the README of the authors' repository (frankaging/Causal-Distill).
Cells that could not be recovered are left out. Of a row of Table 2 the GLUE mean stands in Table 1 too.
"""

from __future__ import annotations

Number = tuple[float, float | None]

_TASKS = ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "glue")


def _row(
    perplexity: Number | None = None,
    squad: tuple[float, float] | None = None,
    conll: tuple[float, float] | None = None,
    glue: tuple[float, ...] | None = None,
) -> dict[str, Number]:
    row: dict[str, Number] = {}
    if perplexity is not None:
        row["perplexity"] = perplexity
    if squad is not None:
        row |= {"squad em": (squad[0], None), "squad f1": (squad[1], None)}
    if conll is not None:
        row |= {"ner accuracy": (conll[0], None), "ner f1": (conll[1], None)}
    if glue is not None:
        row |= {task: (value, None) for task, value in zip(_TASKS, glue, strict=True)}
    return row


PAPER: dict[str, dict[str, Number]] = {
    "6/standard": _row(
        (15.69, 1.51), (70.23, 79.99), (98.48, 92.12), (40.43, 78.95, 87.45, 84.76, 84.96, 60.10, 89.38, 80.40, 75.80)
    ),
    "6/middle": _row((14.32, 0.12), (71.93, 81.32), (98.56, 92.47)),
    "6/late": _row((14.93, 0.23), (71.47, 81.01), (98.51, 92.36)),
    "6/full": _row((13.59, 0.25), (71.96, 81.33), (98.53, 92.35)),
    "6/full-random": _row((13.95, 0.18), None, (98.54, 92.41)),
    "6/full-masked": _row((13.99, 0.16), None, (98.55, 92.45)),
    "6/full-cos": _row((13.45, 0.19), None, (98.54, 92.35), (45.17, 79.68, 88.18, 85.83, 85.31, 60.94, 90.32, 81.69, 77.14)),
    "3/standard": _row((29.51, 0.32)),
    "3/middle": _row((26.04, 0.93)),
    "3/late": _row((25.97, 0.63)),
    "3/full": _row((24.85, 0.58)),
    "3-low/standard": _row((58.63, 2.99)),
    "3-low/middle": _row((54.43, 0.37)),
    "3-low/late": _row((53.30, 0.03)),
    "3-low/full": _row((52.89, 0.06)),
    "bert": {},
    "distilbert": _row(glue=(51.30, 82.10, 87.50, 89.20, 88.50, 59.90, 91.30, 86.90, 79.59)),
}
"""Row of the paper -> metric -> (mean, standard deviation or None)."""
