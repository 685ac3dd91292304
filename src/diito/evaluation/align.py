"""The command ``diito align``: from the map of all pairs of layers to an alignment that ``diito distill`` takes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from diito.evaluation.evaluate import measure, open_results, quieten
from diito.evaluation.held_out.maps import best_monotone, goodness
from diito.evaluation.kinds import check_packages, find, refusals_under
from diito.evaluation.settings import AlignSettings, EvaluateSettings
from diito.files import check_writable, write_text
from diito.models.load import ModelSource
from diito.paths import expand
from diito.recipe import AlignedPairSection, AlignmentSection
from diito.recipe.file import dump, read_section
from diito.refusal import Refusal, Refusals


def align(teacher: str, student: str, settings: AlignSettings, run: EvaluateSettings) -> int:
    """Measure the map, print it, and write its best monotone alignment; the exit code.

    Raises ValueError for what the user must change, and for a file that is there and holds no alignment.
    """
    quieten()
    settings = dataclasses.replace(settings, teacher=teacher, map=True)
    kind = find("map")
    check_packages(kind, settings)
    try:
        with refusals_under("--", settings):
            return _align(settings, ModelSource(student, "STUDENT", run.revision), run)
    except Refusal as refusal:
        if refusal.field == "--teacher":
            raise refusal.at("TEACHER") from refusal
        raise


def _align(settings: AlignSettings, student: ModelSource, run: EvaluateSettings) -> int:
    path = expand(settings.file, field="file")
    _check_file(path)
    if settings.share == 1:
        raise Refusal("share", "1 leaves no token unswapped, and the alignment is chosen at unswapped tokens; give less")
    results = open_results(student.name, run)
    kind = find("map")
    (job,) = kind.jobs(settings, student, device=run.device, results=results)
    measured = [measure(job, results, again=run.again)]
    chosen = best_monotone(goodness(measured[0].result["models"]["student"]["pairs"], settings.score))
    models = f"{student.name} with {settings.teacher}"
    _write(path, chosen, f"The monotone alignment of {models} with the best {settings.score}, by diito align.")
    print("\n" + "\n\n".join(table.text() for table in kind.tables(settings, measured)) + "\n")
    print("alignment ", ", ".join(f"{ours} → {theirs}" for ours, theirs in enumerate(chosen)))
    for figure in kind.files(settings, measured, results.path):
        print(f"written    {figure}")
    print(f"written    {path}  (diito distill RECIPE --alignment.kind custom --alignment.file {path})")
    return 0


def _check_file(path: Path) -> None:
    if path.suffix not in (".yaml", ".yml"):
        raise Refusal("file", f"{path} must end in .yaml")
    check_writable(path, "file")
    if not path.exists():
        return
    try:
        read_section(AlignmentSection, path)
    except (Refusal, Refusals) as error:
        raise Refusal("file", f"{path} exists and holds no alignment; give another file") from error


def _write(path: Path, chosen: list[int], heading: str) -> None:
    pairs = [AlignedPairSection([ours], [theirs]) for ours, theirs in enumerate(chosen)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, f"# {heading}\n{dump(AlignmentSection(kind='custom', pairs=pairs))}")
