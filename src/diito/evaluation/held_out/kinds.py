"""The kinds of evaluation that measure on held-out text, as rows. No torch here."""

from __future__ import annotations

import dataclasses
from typing import Any

from diito.evaluation.kind import Figure, Kind, later
from diito.evaluation.settings import ClassificationSettings, InterchangeSettings, MapSettings, PerplexitySettings
from diito.refusal import Refusal


def _check_perplexity(settings: PerplexitySettings) -> None:
    if settings.against is not None:
        raise Refusal("against", "the report compares the conditions; leave it out")


def _check_interchange(settings: InterchangeSettings) -> None:
    if settings.map:
        raise Refusal("map", "name the conditions in `maps` instead")


def _interchange_figure(key: str, name: str, better: int) -> Figure:
    score = key.replace(" ", "_")
    return Figure(key, name, better, 3, read=lambda result: result["models"]["student"]["unswapped"].get(score))


def _classification_figure(score: str, name: str, *, better: int = 1) -> Figure:
    """Of the measured model, which stands before its teacher; times 100."""

    def read(result: dict[str, Any]) -> float | None:
        value = result["models"]["student"].get(score)
        return None if value is None else 100 * value

    return Figure(f"held-out {score}", name, better, read=read)


def _named_by_role(result: dict[str, Any]) -> dict[str, Any]:
    """With student and teacher in place of their folders."""
    return {**result, "models": dict(zip(("student", "teacher"), result["models"].values(), strict=False))}


def _without_pairs(result: dict[str, Any]) -> dict[str, Any]:
    sides = ("unswapped", "swapped")
    return {"models": {name: {side: numbers[side] for side in sides} for name, numbers in result["models"].items()}}


def _pairs_alone(result: dict[str, Any]) -> dict[str, Any]:
    """Of a map each pair's figures, without their intervals."""
    return {
        "pairs": [
            {
                "student": pair["student"],
                "teacher": pair["teacher"],
                "unswapped": {name: value for name, value in pair["unswapped"].items() if not name.endswith("_interval")},
            }
            for pair in result["models"]["student"]["pairs"]
        ]
    }


_PERPLEXITY = Kind(
    "perplexity",
    PerplexitySettings,
    jobs=later("evaluation.held_out.jobs:perplexity_jobs"),
    identity=later("evaluation.held_out.jobs:perplexity_identity"),
    tables=later("evaluation.tables:perplexity_tables"),
    packages=lambda settings: ("scipy",),
    figures=(Figure("perplexity", "Perplexity", -1, read=lambda result: result["perplexity"]),),
    check_in_grid=_check_perplexity,
)

_CLASSIFICATION = Kind(
    "classification",
    ClassificationSettings,
    jobs=later("evaluation.held_out.jobs:classification_jobs"),
    identity=later("evaluation.held_out.jobs:classification_identity"),
    tables=later("evaluation.tables:classification_tables"),
    packages=lambda settings: ("sklearn", "scipy", "seqeval", "torchmetrics"),
    figures=(
        _classification_figure("accuracy", "Accuracy"),
        _classification_figure("f1", "F1"),
        _classification_figure("spearman", "Spearman"),
        _classification_figure("ece", "Calibration error", better=-1),
        _classification_figure("agreement", "Agreement with the teacher"),
    ),
    kept=_named_by_role,
)

_INTERCHANGE = Kind(
    "interchange",
    InterchangeSettings,
    jobs=later("evaluation.held_out.jobs:interchange_jobs"),
    identity=later("evaluation.held_out.jobs:interchange_identity"),
    tables=later("evaluation.tables:interchange_tables"),
    files=later("evaluation.held_out.maps:map_files"),
    packages=lambda settings: ("scipy", "matplotlib") if settings.map else ("scipy",),
    figures=(
        _interchange_figure("iia", "IIA", 1),
        _interchange_figure("effective iia", "Effective IIA", 1),
        _interchange_figure("counterfactual kl", "Counterfactual KL, nats", -1),
    ),
    kept=_without_pairs,
    check_in_grid=_check_interchange,
)

_MAP = dataclasses.replace(
    _INTERCHANGE,
    name="map",
    settings=MapSettings,
    figures=(),
    kept=_pairs_alone,
    check_in_grid=lambda settings: None,
    section=_INTERCHANGE.name,
)

HELD_OUT = (_PERPLEXITY, _CLASSIFICATION, _INTERCHANGE, _MAP)
