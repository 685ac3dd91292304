"""The kind of evaluation that holds a model against the causal model of generated data, as a row. No torch here."""

from __future__ import annotations

from typing import Any

from diito.evaluation.kind import Figure, Kind, later
from diito.evaluation.settings import StructureSettings
from diito.refusal import Refusal

SPLITS = {"validation": "Validation", "test": "Test", "held": "Held-out combinations"}
"""The splits of which a report tells, with their names."""


def _check_in_grid(settings: StructureSettings) -> None:
    if settings.write_site is not None:
        raise Refusal("write_site", "is for a teacher, among the grid's preparations; leave it out")


def _of_split(name: str, split: str, title: str) -> Figure:
    def read(result: dict[str, Any]) -> float | None:
        return result["models"]["student"][name].get(split)  # type: ignore[no-any-return]

    return Figure(f"{split} {name}", title, 1, 3, read=read)


def _of_site(score: str, title: str) -> Figure:
    return Figure(f"site {score}", title, 1, 3, read=lambda result: (result["models"]["student"]["site"] or {}).get(score))


def _named_by_role(result: dict[str, Any]) -> dict[str, Any]:
    """With student and teacher in place of their folders, and without the table of all sites."""
    shown = ("accuracy", "agreement", "site")
    models = [{name: each[name] for name in shown} for each in result["models"].values()]
    return {**result, "models": dict(zip(("student", "teacher"), models, strict=False))}


STRUCTURE = Kind(
    "structure",
    StructureSettings,
    jobs=later("evaluation.structure.jobs:structure_jobs"),
    identity=later("evaluation.structure.jobs:structure_identity"),
    tables=later("evaluation.structure.tables:structure_tables"),
    files=later("evaluation.structure.jobs:site_file"),
    figures=(
        *(_of_split("accuracy", split, f"{title}: accuracy") for split, title in SPLITS.items()),
        *(_of_split("agreement", split, f"{title}: agreement with the teacher") for split, title in SPLITS.items()),
        _of_site("effective_iia", "Effective IIA at the site"),
        _of_site("effective_iia_new", "Effective IIA, new combinations"),
    ),
    kept=_named_by_role,
    check_in_grid=_check_in_grid,
)
