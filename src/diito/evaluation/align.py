"""The command ``diito align``: from the map of all pairs of layers to an alignment that ``diito distill`` takes.

The best alignment of the map is written only where it is seen to be better than the default one, on the same text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diito.evaluation.evaluate import measure, open_results, quieten
from diito.evaluation.held_out.choice import compare_alignments
from diito.evaluation.held_out.maps import best_monotone, goodness
from diito.evaluation.kind import Job, Result
from diito.evaluation.kinds import check_packages, find, refusals_under
from diito.evaluation.results import Measurement, ResultsFile
from diito.evaluation.settings import AlignSettings, EvaluateSettings
from diito.files import check_writable, write_text
from diito.method.alignment import AlignedPair
from diito.models.load import ModelSource
from diito.paths import expand
from diito.recipe import AlignedPairSection, AlignmentSection
from diito.recipe.file import dump, read_section
from diito.refusal import Refusal, Refusals


def align(teacher: str, student: str, settings: AlignSettings, run: EvaluateSettings) -> int:
    """Measure the map, print it, and write its best monotone alignment, or the default one; the exit code.

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
    default = _default_job(settings, student, run, results)
    measured = [measure(job, results, again=run.again)]
    chosen = best_monotone(goodness(measured[0].result["models"]["student"]["pairs"], settings.score))
    choice = _choice(job, measured[0], default, chosen, settings.score, results, run)
    models = f"{student.name} with {settings.teacher}"
    best = f"The monotone alignment of {models} with the best {settings.score}, by diito align."
    if choice["better"] == "chosen":
        pairs = [AlignedPairSection([ours], [theirs]) for ours, theirs in enumerate(chosen)]
        heading = best
    else:
        pairs = [_section(pair) for pair in choice["default"]]
        heading = (
            f"The default alignment ({settings.alignment.kind}), as none of {models} is seen to be better, by diito align."
        )
    _write(path, pairs, heading)
    print("\n" + "\n\n".join(table.text() for table in kind.tables(settings, measured)) + "\n")
    print("best       ", ", ".join(f"{ours} → {theirs}" for ours, theirs in enumerate(chosen)))
    print("default    ", _said(choice, settings))
    print("alignment  ", ", ".join(f"{_list(pair.student)} → {_list(pair.teacher)}" for pair in pairs))
    for figure in kind.files(settings, measured, results.path):
        print(f"written    {figure}")
    print(f"written    {path}  (diito distill RECIPE --alignment.kind custom --alignment.file {path})")
    return 0


def _default_job(settings: AlignSettings, student: ModelSource, run: EvaluateSettings, results: ResultsFile) -> Job:
    """The same measurement of the alignment that the chosen one is held against."""
    alone = dataclasses.replace(settings, map=False)
    (job,) = find("interchange").jobs(alone, student, device=run.device, results=results)
    return job


def _choice(
    whole: Job,
    measured: Measurement,
    default: Job,
    chosen: list[int],
    score: str,
    results: ResultsFile,
    run: EvaluateSettings,
) -> dict[str, Any]:
    """What is known of the chosen alignment against the default one, from the results file if it is there."""
    other = measure(default, results, again=run.again)
    pairs = default.identity["pairs"]
    same = pairs == [dataclasses.asdict(AlignedPair([ours], [theirs])) for ours, theirs in enumerate(chosen)]

    def compare() -> Result:
        said = {"score": score, "difference": 0.0, "interval": [0.0, 0.0], "better": "undecided"}
        said = said if same else compare_alignments(measured.examples, other.examples, chosen, score)
        return {**said, "same": same, "chosen": chosen, "default": pairs}, {}

    identity = {**whole.identity, "kind": "alignment choice", "default": pairs, "score": score}
    job = Job(identity, whole.settings, f"alignment of {whole.model} against the default", whole.model, compare)
    return measure(job, results, again=run.again).result


def _said(choice: dict[str, Any], settings: AlignSettings) -> str:
    """What is known of the best alignment against the default one, in a line."""
    kind = settings.alignment.kind
    if choice["same"]:
        return f"{kind}: the same"
    if choice["interval"] is None:
        return f"{kind}: undecided, as this text is too little for an interval; the default is kept"
    low, high = choice["interval"]
    verdict = {"chosen": "", "undecided": ": undecided, the default is kept", "default": ": the default is better and is kept"}
    return (
        f"{kind}: the best one minus it {choice['difference']:+.4f} in {settings.score} (95 % {low:+.4f} to {high:+.4f}, "
        f"above 0 is better){verdict[choice['better']]}"
    )


def _section(pair: dict[str, Any]) -> AlignedPairSection:
    parts: dict[str, Any] = {side: None if part is None else list(part) for side, part in pair.items()}
    return AlignedPairSection(**parts)


def _list(layers: Sequence[int]) -> str:
    return "+".join(map(str, layers))


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


def _write(path: Path, pairs: Sequence[AlignedPairSection], heading: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, f"# {heading}\n{dump(AlignmentSection(kind='custom', pairs=[*pairs]))}")
