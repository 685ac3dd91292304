"""The command ``diito align``: from the map of all pairs of layers to an alignment that ``diito distill`` takes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from diito.evaluation.evaluate import measure, open_results, quieten, write_map
from diito.evaluation.held_out.jobs import interchange_job
from diito.evaluation.held_out.maps import best_monotone, goodness
from diito.evaluation.settings import AlignSettings, EvaluateSettings
from diito.evaluation.tables import interchange_tables
from diito.files import check_writable
from diito.models.load import ModelSource
from diito.recipe import AlignedPairSection, AlignmentSection
from diito.recipe.file import dump, read_section


def align(teacher: str, student: str, settings: AlignSettings, where: EvaluateSettings) -> int:
    """Measure the map, print it, and write its best monotone alignment; the exit code.

    Raises ValueError for what the user must change, and for a file that is there and holds no alignment.
    """
    quieten()
    path = Path(settings.file).expanduser()
    _check_file(path)
    if settings.share == 1:
        raise ValueError("--share: 1 leaves no token unswapped, and the alignment is chosen at unswapped tokens; give less")
    results = open_results(student, where)
    mapped = dataclasses.replace(settings, teacher=teacher, map=True)
    job = interchange_job(mapped, ModelSource(student, "STUDENT", where.revision), device=where.device)
    measured = measure(job, results, again=where.again)
    chosen = best_monotone(goodness(measured.result["models"]["student"]["pairs"], settings.score))
    _write(path, chosen, f"The monotone alignment of {student} with {teacher} with the best {settings.score}, by diito align.")
    print("", *(table.text() for table in interchange_tables(measured)), "", sep="\n\n")
    print("alignment ", ", ".join(f"{ours} → {theirs}" for ours, theirs in enumerate(chosen)))
    print(f"written    {write_map(measured, mapped, results.path)}")
    print(f"written    {path}  (diito distill RECIPE --alignment.kind custom --alignment.file {path})")
    return 0


def _check_file(path: Path) -> None:
    if path.suffix not in (".yaml", ".yml"):
        raise ValueError(f"--file: {path} must end in .yaml")
    check_writable(path, "--file")
    if not path.exists():
        return
    try:
        read_section(AlignmentSection, path)
    except ValueError as error:
        raise ValueError(f"--file: {path} exists and holds no alignment; give another file") from error


def _write(path: Path, chosen: list[int], heading: str) -> None:
    pairs = [AlignedPairSection([ours], [theirs]) for ours, theirs in enumerate(chosen)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"# {heading}\n{dump(AlignmentSection(kind='custom', pairs=pairs))}", encoding="utf-8")
